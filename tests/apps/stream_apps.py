"""Large bodies, both ways: /up answers with the number of bytes that came, /down/N sends N bytes, all else "hello"."""

from __future__ import annotations

BLOCK = bytes(64 * 1024)


async def count_body(receive) -> int:
    total = 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return total
        total += len(event["body"])
        if not event.get("more_body"):
            return total


async def asgi(scope, receive, send) -> None:
    start = {"type": "http.response.start", "status": 200, "headers": []}
    if scope["path"].startswith("/down/"):
        left = int(scope["path"].removeprefix("/down/"))
        await send({**start, "headers": [(b"content-length", str(left).encode())]})
        while left > 0:
            size = min(left, len(BLOCK))
            left -= size
            await send({"type": "http.response.body", "body": BLOCK[:size], "more_body": left > 0})
        return
    body = str(await count_body(receive)).encode() if scope["path"] == "/up" else b"hello"
    await send(start)
    await send({"type": "http.response.body", "body": body})


def blocks(left: int):
    while left > 0:
        yield BLOCK[:left]
        left -= len(BLOCK)


def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/down/"):
        left = int(path.removeprefix("/down/"))
        start_response("200 OK", [("Content-Length", str(left))])
        return blocks(left)
    body = b"hello"
    if path == "/up":
        body = str(sum(len(part) for part in iter(lambda: environ["wsgi.input"].read(65536), b""))).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
