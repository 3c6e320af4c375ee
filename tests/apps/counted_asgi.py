"""The smallest applications, for counting instructions: hello, echoes of a body and of messages. `/mark` starts a new
count (support/instructions.py): callgrind is told to write down what it has counted when getpgid() is called."""

import os

HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"13")]


async def echo(receive, send):
    parts, more = [], True
    while more:
        event = await receive()
        parts.append(event.get("body", b""))
        more = event.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"".join(parts)})


async def echo_messages(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        text = event["text"]
        if text == "mark":
            os.getpgid(0)
        await send({"type": "websocket.send", "text": text})


async def app(scope, receive, send):
    if scope["type"] == "websocket":
        return await echo_messages(receive, send)
    assert scope["type"] == "http"
    if scope["method"] == "POST":
        return await echo(receive, send)
    if scope["path"] == "/mark":
        os.getpgid(0)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"Hello, World!"})
