"""ASGI applications without a framework, each of which does one thing."""

import asyncio

from contents import EVENT, JSON_1MB, PIECE, PIECES

PLAIN = (b"content-type", b"text/plain")
HELLO = {"type": "http.response.start", "status": 200, "headers": [PLAIN, (b"content-length", b"13")]}
HELLO_BODY = {"type": "http.response.body", "body": b"Hello, World!"}
PIECE_EVENT = {"type": "http.response.body", "body": PIECE, "more_body": True}
LAST_EVENT = {"type": "http.response.body", "body": b"", "more_body": False}


def without_lifespan(handler):
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError("no lifespan")
        await handler(scope, receive, send)

    return app


async def answer(send, body, content_type=b"text/plain"):
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def body_of(receive):
    pieces = []
    while True:
        event = await receive()
        pieces.append(event.get("body", b""))
        if not event.get("more_body"):
            return b"".join(pieces)


@without_lifespan
async def echo(scope, receive, send):
    await answer(send, await body_of(receive))


@without_lifespan
async def count(scope, receive, send):
    total = 0
    while True:
        event = await receive()
        total += len(event.get("body", b""))
        if not event.get("more_body"):
            return await answer(send, b"%d" % total)


@without_lifespan
async def large(scope, receive, send):
    await answer(send, JSON_1MB, b"application/json")


@without_lifespan
async def stream(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [PLAIN]})
    for _ in range(PIECES):
        await send(PIECE_EVENT)
    await send(LAST_EVENT)


@without_lifespan
async def events(scope, receive, send):
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while True:
        await send({"type": "http.response.body", "body": EVENT, "more_body": True})
        await asyncio.sleep(1)


@without_lifespan
async def sleep_0(scope, receive, send):
    await asyncio.sleep(0)
    await send(HELLO)
    await send(HELLO_BODY)


@without_lifespan
async def sleep_10ms(scope, receive, send):
    await asyncio.sleep(0.01)
    await send(HELLO)
    await send(HELLO_BODY)
