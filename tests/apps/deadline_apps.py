"""Applications that take too long, in all the ways there are. What they do then they print, for the server's log."""

from __future__ import annotations

import asyncio
import collections
import itertools
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

import licorne

LONG = 600.0
Scope = dict[str, Any]
Call = Callable[..., Any]
PAIR = socket.socketpair()  # nothing ever comes

ROUTES: dict[str, Call] = {}
WSGI_ROUTES: dict[str, Call] = {}


def asgi_route(app: Call) -> Call:
    ROUTES[f"/{app.__name__}"] = app
    return app


def wsgi_route(app: Call) -> Call:
    WSGI_ROUTES[f"/{app.__name__.removeprefix('wsgi_')}"] = app
    return app


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


# --- ASGI


async def answer(send: Call, body: bytes, status: int = 200) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


@asgi_route
async def sleeps(scope: Scope, receive: Call, send: Call) -> None:
    try:
        await asyncio.sleep(LONG)
    except asyncio.CancelledError:
        say("cancelled", asyncio.current_task() is not None)
        raise
    finally:
        try:
            await answer(send, b"too late")
        except OSError as error:
            say("finally", type(error).__name__)


@asgi_route
async def says_hello_and_sleeps(scope: Scope, receive: Call, send: Call) -> None:
    say("it has begun")
    await asyncio.sleep(LONG)


@asgi_route
async def receives(scope: Scope, receive: Call, send: Call) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    say("disconnected")
    await asyncio.sleep(LONG)


@asgi_route
async def swallows(scope: Scope, receive: Call, send: Call) -> None:
    while True:
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            say("swallowed")


@asgi_route
async def shortens_and_swallows(scope: Scope, receive: Call, send: Call) -> None:
    scope["extensions"]["licorne.deadline"].set(0.2)
    await swallows(scope, receive, send)


@asgi_route
async def blocks(scope: Scope, receive: Call, send: Call) -> None:
    say("it blocks")
    time.sleep(LONG)  # noqa: ASYNC251


@asgi_route
async def gives_in(scope: Scope, receive: Call, send: Call) -> None:
    try:
        await asyncio.sleep(LONG)
    except asyncio.CancelledError:
        say("gave in")


@asgi_route
async def streams(scope: Scope, receive: Call, send: Call) -> None:
    headers = [(b"content-length", b"1000")] if b"length" in scope["query_string"] else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"part", "more_body": True})
    try:
        await asyncio.sleep(LONG)
    finally:
        say("stream ended")


@asgi_route
async def extends(scope: Scope, receive: Call, send: Call) -> None:
    deadline = scope["extensions"]["licorne.deadline"]
    before = deadline.remaining()
    after = deadline.extend(LONG)
    assert isinstance(deadline, licorne.Deadline)
    assert 0 < before < after <= before + LONG, (before, after)
    await asyncio.sleep(before + 0.3)
    await answer(send, b"extended")
    say("left at the end:", deadline.remaining())


@asgi_route
async def unlimited(scope: Scope, receive: Call, send: Call) -> None:
    deadline = scope["extensions"]["licorne.deadline"]
    before = deadline.remaining()
    assert deadline.set(None) is None
    assert deadline.extend(1) is None
    await asyncio.sleep(before + 0.3)
    await answer(send, repr(deadline).encode())


@asgi_route
async def goes_on(scope: Scope, receive: Call, send: Call) -> None:
    scope["extensions"]["licorne.deadline"].set(None)
    await asyncio.sleep(LONG)


@asgi_route
async def shortens(scope: Scope, receive: Call, send: Call) -> None:
    scope["extensions"]["licorne.deadline"].set(0.2)
    await asyncio.sleep(LONG)


@asgi_route
async def refused(scope: Scope, receive: Call, send: Call) -> None:
    deadline = scope["extensions"]["licorne.deadline"]
    said = []
    for wrong in (-1, float("nan"), "1", None):
        try:
            deadline.extend(wrong)
        except (TypeError, ValueError) as error:
            said.append(type(error).__name__)
    await answer(send, " ".join(said).encode())


@asgi_route
async def background(scope: Scope, receive: Call, send: Call) -> None:
    left = scope["extensions"]["licorne.deadline"].remaining()
    await answer(send, b"complete")
    await asyncio.sleep(left + 0.3)
    say("background went on")


async def hello(scope: Scope, receive: Call, send: Call) -> None:
    await answer(send, b"hello")


@asgi_route
async def waits(scope: Scope, receive: Call, send: Call) -> None:
    """As long as it is told to, within its limit."""
    await asyncio.sleep(float(scope["query_string"]))
    await answer(send, b"waited")


async def websocket(scope: Scope, receive: Call, send: Call) -> None:
    if scope["path"] == "/never":
        try:
            await asyncio.sleep(LONG)
        finally:
            say("offer ended")
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


async def app(scope: Scope, receive: Call, send: Call) -> None:
    if scope["type"] == "websocket":
        await websocket(scope, receive, send)
    elif scope["type"] == "http":
        await ROUTES.get(scope["path"], hello)(scope, receive, send)


async def without(scope: Scope, receive: Call, send: Call) -> None:
    await answer(send, repr(sorted(scope.get("extensions", {}))).encode())


# --- WSGI: each returns, yields or blocks

Environ = dict[str, Any]


@wsgi_route
def wsgi_sleeps(environ: Environ, start: Call) -> list[bytes]:
    time.sleep(LONG)
    return []


@wsgi_route
def wsgi_spins(environ: Environ, start: Call) -> list[bytes]:
    while True:
        pass


@wsgi_route
def wsgi_reads(environ: Environ, start: Call) -> list[bytes]:
    say("it reads")
    PAIR[0].recv(1)
    return []


@wsgi_route
def wsgi_waits_for_a_lock(environ: Environ, start: Call) -> list[bytes]:
    threading.Lock().acquire() and threading.Event().wait()
    return []


@wsgi_route
def wsgi_reads_body(environ: Environ, start: Call) -> list[bytes]:
    environ["wsgi.input"].read()
    return []


@wsgi_route
def wsgi_writes(environ: Environ, start: Call) -> Iterator[bytes]:
    start("200 OK", [])
    while True:
        yield bytes(1 << 20)


@wsgi_route
def wsgi_streams(environ: Environ, start: Call) -> Iterator[bytes]:
    start("200 OK", [("Content-Length", "1000")] if environ["QUERY_STRING"] == "length" else [])
    try:
        yield b"part"
        time.sleep(0 if environ["QUERY_STRING"] == "once" else LONG)
    finally:
        say("stream ended")


@wsgi_route
def wsgi_swallows(environ: Environ, start: Call) -> list[bytes]:
    while True:
        try:
            while True:
                time.sleep(0.01)
        except licorne.RequestTimeout:
            say("swallowed")


@wsgi_route
def wsgi_never_comes_back(environ: Environ, start: Call) -> list[bytes]:
    """C code that holds the GIL and does not ask for signals."""
    say("it has begun")
    collections.deque(itertools.repeat(None), maxlen=0)
    return []


@wsgi_route
def wsgi_handles_exceptions(environ: Environ, start: Call) -> list[bytes]:
    """As frameworks do: every Exception becomes a page."""
    try:
        while True:
            time.sleep(0.01)
    except Exception:
        start("200 OK", [])
        return [b"a page"]
    finally:
        say("finally")


@wsgi_route
def wsgi_gives_in(environ: Environ, start: Call) -> list[bytes]:
    try:
        while True:
            time.sleep(0.01)
    except licorne.RequestTimeout:
        start("200 OK", [])
    say("gave in")
    return [b"too late"]


@wsgi_route
def wsgi_extends(environ: Environ, start: Call) -> list[bytes]:
    deadline = environ["licorne.deadline"]
    before = deadline.remaining()
    after = deadline.extend(LONG)
    assert 0 < before < after <= before + LONG, (before, after)
    time.sleep(before + float(environ["QUERY_STRING"] or 0.3))
    start("200 OK", [])
    return [b"extended"]


@wsgi_route
def wsgi_shortens(environ: Environ, start: Call) -> list[bytes]:
    environ["licorne.deadline"].set(0.2)
    while True:
        time.sleep(0.01)


@wsgi_route
def wsgi_waits(environ: Environ, start: Call) -> list[bytes]:
    time.sleep(float(parse_qs(environ["QUERY_STRING"])["s"][0]))
    start("200 OK", [])
    return [b"waited"]


def wsgi_hello(environ: Environ, start: Call) -> list[bytes]:
    start("200 OK", [])
    return [b"hello"]


def wsgi(environ: Environ, start: Call) -> Any:
    return WSGI_ROUTES.get(environ["PATH_INFO"], wsgi_hello)(environ, start)
