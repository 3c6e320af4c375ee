"""The applications of the wire corpus, ASGI and WSGI: they read the whole body, then answer 200 with "method target
body"; on /early they answer at once. GET /seen gives what was seen since the last time, and forgets it."""

from __future__ import annotations

import json
from typing import Any

seen: dict[str, Any] = {"started": 0, "complete": []}


def take_seen() -> bytes:
    text = json.dumps(seen).encode()
    seen.update(started=0, complete=[])
    return text


def complete(method: str, target: str, body: bytes) -> bytes:
    line = f"{method} {target} ".encode("latin-1") + body
    seen["complete"].append(line.decode("latin-1"))
    return line


async def read_body(receive) -> bytes | None:
    body = b""
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        body += event["body"]
        if not event.get("more_body"):
            return body


async def asgi_answer(scope, receive) -> bytes | None:
    query = scope["query_string"].decode("latin-1")
    target = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
    if target == "/seen":
        return take_seen()
    if target == "/ping":
        return b"pong"
    seen["started"] += 1
    if target == "/early":
        return b"early"
    body = await read_body(receive)
    return None if body is None else complete(scope["method"], target, body)


async def asgi(scope, receive, send) -> None:
    answer = await asgi_answer(scope, receive)
    if answer is None:
        return
    headers = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def wsgi(environ, start_response) -> list[bytes]:
    target = environ["RAW_URI"]
    if target == "/seen":
        answer = take_seen()
    elif target == "/ping":
        answer = b"pong"
    else:
        seen["started"] += 1
        if target == "/early":
            answer = b"early"
        else:
            answer = complete(environ["REQUEST_METHOD"], target, environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
