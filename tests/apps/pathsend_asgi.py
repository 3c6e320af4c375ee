"""Answers with the file that ?name= says, by http.response.pathsend; ?length= is what the head promises of it."""

import json
import os
from pathlib import Path
from urllib.parse import parse_qs

FOLDER = Path(os.environ["PATHSEND_FOLDER"])


async def app(scope, receive, send):
    assert scope["type"] == "http"
    query = {key: values[0] for key, values in parse_qs(scope["query_string"].decode()).items()}
    if scope["path"] == "/extensions":
        seen = json.dumps(scope["extensions"]).encode()
        scope["extensions"]["mine"] = scope["extensions"]["http.response.pathsend"]["mine"] = 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": seen})
        return
    headers = [(b"content-length", query["length"].encode())] if "length" in query else []
    if scope["path"] != "/early":
        await send({"type": "http.response.start", "status": 200, "headers": headers})
    event = {"type": "http.response.pathsend", "path": str(FOLDER / query["name"])} if "name" in query else {}
    await send(event or {"type": "http.response.pathsend"})
    await send({"type": "http.response.body", "body": b"after the end"})
