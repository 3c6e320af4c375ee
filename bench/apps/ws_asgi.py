"""The smallest ASGI applications that a WebSocket server would be measured with: / echoes, /room sends to all."""

room = set()


async def chat(receive, send):
    room.add(send)
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            room.discard(send)
            return
        message = {"type": "websocket.send", "text": event["text"]}
        for other in room:
            await other(message)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError("no lifespan")
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    if scope["path"] == "/room":
        await chat(receive, send)
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            return
        text = event.get("text")
        if text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": event["bytes"]})
