"""Quart: JSON, sessions, uploads, streaming, server-sent events.

pip install quart
licorne quart_app:app --chdir examples
"""

import asyncio
import hashlib

from quart import Quart, Response, abort, jsonify, make_response, request, session

app = Quart(__name__)
app.secret_key = "change me"
app.config["MAX_CONTENT_LENGTH"] = 100 << 20

BLOCK = bytes(range(256)) * 256  # 64 KiB
readers: set[asyncio.Queue] = set()


@app.get("/")
async def index():
    return Response("Hello from Quart\n", mimetype="text/plain")


@app.get("/greet/<name>")
async def greet(name: str):
    times = request.args.get("times", "1")
    if not times.isdigit():
        abort(400, "times must be a number")
    return jsonify(hello=name, times=int(times))


@app.post("/echo")
async def echo():
    return jsonify(await request.get_json())


@app.get("/visits")
async def visits():
    session["visits"] = session.get("visits", 0) + 1
    return jsonify(visits=session["visits"])


@app.post("/upload")
async def upload():
    file = (await request.files)["file"]
    digest = hashlib.sha256()
    size = 0
    while chunk := file.stream.read(65536):
        digest.update(chunk)
        size += len(chunk)
    note = (await request.form).get("note")
    return jsonify(name=file.filename, note=note, size=size, sha256=digest.hexdigest())


@app.get("/download/<int:mib>")
async def download(mib: int):
    async def blocks():
        for _ in range(mib * 16):
            yield BLOCK

    return Response(blocks(), mimetype="application/octet-stream")


@app.get("/feed")
async def feed():
    async def events():
        mine: asyncio.Queue[str] = asyncio.Queue()
        readers.add(mine)
        try:
            yield b"data: welcome\n\n"
            while True:
                yield f"data: {await mine.get()}\n\n".encode()
        finally:
            readers.discard(mine)

    response = await make_response(events(), {"content-type": "text/event-stream"})
    response.timeout = None  # Quart would end it after a minute
    return response


@app.post("/feed")
async def publish():
    text = (await request.get_json())["text"]
    for reader in readers:
        reader.put_nowait(text)
    return "", 204


@app.get("/feed/readers")
async def count_readers():
    return jsonify(readers=len(readers))


@app.get("/error")
async def error():
    raise RuntimeError("on purpose")
