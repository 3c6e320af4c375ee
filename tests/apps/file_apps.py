"""ASGI applications that send files by their path (the extension http.response.pathsend)."""

from __future__ import annotations

import os
from urllib.parse import parse_qsl

FOLDER = os.environ.get("FILES", "")


async def raw(scope, receive, send):
    """?name=, &length= (Content-Length; none: chunked), &first= (an event before), &keep=: changes its extensions."""
    if scope["type"] != "http":
        raise NotImplementedError
    query = dict(parse_qsl(scope["query_string"].decode()))
    if scope["path"] == "/extensions":
        extensions = scope["extensions"]
        body = repr(sorted(extensions.items())).encode()
        extensions["mine"] = object()
        extensions["http.response.pathsend"]["changed"] = True
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
        return
    if scope["path"] == "/offered":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": repr(scope.get("extensions")).encode()})
        return
    headers = [(b"content-length", query["length"].encode())] if "length" in query else []
    if query.get("first") != "nothing":
        await send({"type": "http.response.start", "status": 200, "headers": headers})
    if query.get("first") == "body":
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
    event = {"type": "http.response.pathsend"}
    if "name" in query:
        event["path"] = os.path.join(FOLDER, query["name"])
    try:
        await send(event)
        if "unlink" in query:
            os.unlink(event["path"])
        await send({"type": "http.response.body", "body": b"ignored"})
    except Exception as error:
        if query.get("tell"):
            await send({"type": "http.response.body", "body": f"{type(error).__name__}: {error}".encode()})
            return
        raise
