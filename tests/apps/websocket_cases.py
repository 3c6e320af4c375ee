"""One WebSocket application, behaving as the path says. What it saw is at /notes (HTTP), as JSON: [path, event...]."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

notes: list[list[Any]] = []
tasks: set[Any] = set()
go = asyncio.Event()  # set by a request for /go


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


async def serve_notes(send: Any) -> None:
    body = json.dumps(plain(notes)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def attempt(send: Any, event: dict[str, Any]) -> str | None:
    """The name of what send() raised; of a subclass of OSError, "OSError"."""
    try:
        await send(event)
    except OSError:
        return "OSError"
    except Exception as error:
        return type(error).__name__
    return None


async def echo(receive: Any, send: Any, note: list[Any]) -> None:
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            note.append(event)
            return
        await send({**event, "type": "websocket.send"})


async def websocket(scope: dict[str, Any], receive: Any, send: Any) -> None:
    path = scope["path"]
    note: list[Any] = [path]
    if path != "/plain":
        notes.append(note)
    accept = {"type": "websocket.accept"}
    if path == "/scope":
        note.append({key: value for key, value in scope.items() if key != "state"})
        tasks.add(asyncio.current_task())
        note.append(len(tasks))
    if path == "/fail_first":
        raise RuntimeError("on purpose, before connect")
    connect = await receive()
    assert connect == {"type": "websocket.connect"}, connect
    if path == "/refuse":
        await send({"type": "websocket.close", "code": 4001})
        note.append(await receive())
        note.append(await attempt(send, {"type": "websocket.send", "text": "x"}))
    elif path == "/return":
        return
    elif path == "/fail":
        raise RuntimeError("on purpose, before accept")
    elif path == "/deny":
        headers = [(b"content-type", b"text/plain"), (b"x-a", b"1")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"who ", "more_body": True})
        note.append(await attempt(send, accept))
        await send({"type": "websocket.http.response.body", "body": b"are you?"})
        note.append((await receive())["type"])
    elif path == "/deny_half":
        await send({"type": "websocket.http.response.start", "status": 401})
    elif path == "/wait":  # accepts when it is told to by another request
        await go.wait()
        await send(accept)
        await echo(receive, send, note)
    elif path == "/gone":
        note.append(await receive())
        note.append(await attempt(send, accept))
    elif path == "/protocol":
        headers = [(b"x-order", b"1"), (b"x-order", b"2"), (b"set-cookie", b"a=b")]
        await send({**accept, "subprotocol": scope["subprotocols"][-1], "headers": headers})
        await echo(receive, send, note)
    elif path == "/bad_accepts":
        for bad in (
            {"headers": [(b"sec-websocket-protocol", b"x")]},
            {"headers": [(b"a", b"b\r\nc: d")]},
            {"headers": [("a", "b")]},
            {"subprotocol": "a b"},
            {"subprotocol": b"a"},
        ):
            note.append(await attempt(send, {**accept, **bad}))
        note.append(await attempt(send, {"type": "websocket.send", "text": "early"}))
        note.append(await attempt(send, {"type": "http.response.start", "status": 200}))
        await send(accept)
        for bad in (
            {},
            {"text": None, "bytes": None},
            {"text": "a", "bytes": b"a"},
            {"text": b"a"},
            {"bytes": "a"},
            {"text": "\ud800"},
        ):
            note.append(await attempt(send, {"type": "websocket.send", **bad}))
        for code in (999, 1004, 1006, 1015, 5000, "1000"):
            note.append(await attempt(send, {"type": "websocket.close", "code": code}))
        note.append(await attempt(send, accept))
        await send({"type": "websocket.send", "text": None, "bytes": b"good", "surplus": 1})
        await send({"type": "websocket.send", "text": "good", "bytes": None})
        await send({"type": "websocket.send", "bytes": bytearray(b"array")})
        await echo(receive, send, note)
    elif path == "/close":
        await send(accept)
        await send({"type": "websocket.close", "code": 3123, "reason": "é" * 100})
        note.append(await receive())
        note.append(await attempt(send, {"type": "websocket.send", "text": "x"}))
        note.append(await attempt(send, {"type": "websocket.close"}))
    elif path == "/close_plain":
        await send(accept)
        await send({"type": "websocket.close"})
    elif path == "/accept_return":
        await send(accept)
    elif path == "/accept_fail":
        await send(accept)
        raise RuntimeError("on purpose, after accept")
    elif path == "/send_after":
        await send(accept)
        note.append(await receive())
        note.append(await attempt(send, {"type": "websocket.send", "text": "x"}))
        note.append(await attempt(send, {"type": "websocket.close"}))
        note.append((await receive())["type"])
        await send({"type": "websocket.send", "text": "x"})  # what it raises is no error of the application
    elif path == "/slow":  # receives when another request says so
        await send(accept)
        await go.wait()
        await echo(receive, send, note)
    elif path == "/busy":  # receives nothing but when another request says so
        await send(accept)
        await go.wait()
        note.append(await receive())
        note.append(await receive())
    elif path == "/flood":
        await send(accept)
        sent = 0
        while await attempt(send, {"type": "websocket.send", "bytes": bytes(100_000)}) is None:
            sent += 1
            note[1:] = [sent]
        note.append("over")
    elif path == "/push":
        await send(accept)
        for number in range(100):
            await send({"type": "websocket.send", "text": str(number)})
        await echo(receive, send, note)
    else:
        await send(accept)
        await echo(receive, send, note)


def memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def serve_stats(send: Any) -> None:
    """What must not grow; and what was noted is forgotten."""
    notes.clear()
    tasks.clear()
    gc.collect()
    found = {
        "objects": len(gc.get_objects()),
        "blocks": sys.getallocatedblocks(),
        "total_refs": getattr(sys, "gettotalrefcount", int)(),
        "tasks": len(asyncio.all_tasks()),
        "fds": len(os.listdir("/proc/self/fd")),
        "rss": memory(),
    }
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(found).encode()})


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        scope["state"]["from"] = "lifespan"
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    elif scope["type"] == "websocket":
        assert scope["state"]["from"] == "lifespan"
        await websocket(scope, receive, send)
    elif scope["path"] == "/notes":
        await serve_notes(send)
    elif scope["path"] == "/nothing":
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})
    elif scope["path"] == "/stats":
        await serve_stats(send)
    else:
        go.set()
        await serve_notes(send)
