"""What support/loader.py asks: each answer names the request's token, the version of the code, and the worker.

    /echo/TOKEN/SIZE          SIZE more bytes, made of the token
    /post/TOKEN               the digest of the request's body
    /sleep/TOKEN/SECONDS      waits as its kind does: a coroutine that sleeps, a call that blocks
    /stream/TOKEN/PARTS/SECONDS   as many parts, that far apart, without a length
    /stuck/TOKEN/SECONDS      blocks: a coroutine too

The first line of a body is "TOKEN VERSION PID"; the field X-Digest is the body's SHA-1 where the length is known. The
version comes from version.py in the working directory, which may also do harm. If $TOKEN_TRACE is a folder, each worker
writes the token of each request that it begins into a file that is named by its pid.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time

from version import VERSION

TRACE = os.environ.get("TOKEN_TRACE")
trace_of: dict[int, int] = {}  # pid -> descriptor: of this process; what a parent had stays unused


def begin(token: str) -> bytes:
    """The first line of the answer."""
    pid = os.getpid()
    if TRACE:
        if pid not in trace_of:
            trace_of[pid] = os.open(f"{TRACE}/{pid}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(trace_of[pid], f"{token}\n".encode())
    return f"{token} {VERSION} {pid}\n".encode()


def payload(token: str, size: int) -> bytes:
    return (token.encode() * (size // len(token) + 1))[:size]


def part(token: str, number: int) -> bytes:
    return f"{token} part {number}\n".encode()


def words(path: str) -> tuple[str, str, list[str]]:
    _, what, token, *more = path.split("/")
    return what, token, more


# --- ASGI


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    what, token, more = words(scope["path"])
    body = begin(token)
    if what == "stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        for number in range(int(more[0])):
            await asyncio.sleep(float(more[1]))
            await send({"type": "http.response.body", "body": part(token, number), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    if what == "echo":
        body += payload(token, int(more[0]))
    elif what == "post":
        digest, message = hashlib.sha1(), {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            digest.update(message.get("body", b""))
        body += digest.hexdigest().encode()
    elif what == "sleep":
        await asyncio.sleep(float(more[0]))
    elif what == "stuck":
        time.sleep(float(more[0]))  # noqa: ASYNC251 - as applications do
    digest = hashlib.sha1(body).hexdigest().encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"x-digest", digest)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# --- WSGI


def parts(first: bytes, token: str, count: int, seconds: float):
    yield first
    for number in range(count):
        time.sleep(seconds)
        yield part(token, number)


def wsgi(environ, start_response):
    what, token, more = words(environ["PATH_INFO"])
    body = begin(token)
    if what == "stream":
        start_response("200 OK", [])
        return parts(body, token, int(more[0]), float(more[1]))
    if what == "echo":
        body += payload(token, int(more[0]))
    elif what == "post":
        body += hashlib.sha1(environ["wsgi.input"].read()).hexdigest().encode()
    elif what in ("sleep", "stuck"):
        time.sleep(float(more[0]))
    start_response("200 OK", [("Content-Length", str(len(body))), ("X-Digest", hashlib.sha1(body).hexdigest())])
    return [body]
