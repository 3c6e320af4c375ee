// Talks to an echo server, as its arguments say, and prints what came back: one JSON object.
//     node client.js URL deflate|plain
const WebSocket = require(process.env.NODE_PATH ? `${process.env.NODE_PATH}/ws` : "ws");

const [url, mode] = process.argv.slice(2);
const messages = ["hello", Buffer.from([0, 1, 2]), "é€😀".repeat(1000), Buffer.alloc(500000, 1), "a".repeat(500000), ""];
const socket = new WebSocket(url, { perMessageDeflate: mode === "deflate" && { threshold: 0 } });
const seen = { extensions: null, echoed: 0, pong: false };
const next = () => (seen.echoed < messages.length ? socket.send(messages[seen.echoed]) : socket.ping("beat"));

socket.on("open", () => {
  seen.extensions = socket.extensions;
  next();
});
socket.on("message", (data, isBinary) => {
  const expected = messages[seen.echoed];
  if (isBinary === (typeof expected === "string") || !data.equals(Buffer.from(expected))) {
    throw new Error(`message ${seen.echoed} came back wrong`);
  }
  seen.echoed += 1;
  next();
});
socket.on("pong", (data) => {
  seen.pong = data.toString() === "beat";
  socket.close(4002, "bye");
});
socket.on("close", (code, reason) => console.log(JSON.stringify({ ...seen, code, reason: reason.toString() })));
socket.on("error", (error) => {
  console.error(error);
  process.exit(1);
});
