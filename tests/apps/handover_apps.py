"""Who serves a request, and for whom: /WHAT?ARGUMENT answers a line of JSON with the worker's pid, the client's address
and port, the server's address, and the path. /sleep?SECONDS lets the loop turn meanwhile, /block?SECONDS does not;
/echo gives the body back."""

import asyncio
import json
import os
import time


def answer(path, client, server, body=b""):
    facts = {"pid": os.getpid(), "client": client, "server": server, "path": path, "body": body.decode()}
    return json.dumps(facts).encode() + b"\n"


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError("no lifespan")
    argument = scope["query_string"].decode()
    if scope["path"] == "/sleep":
        await asyncio.sleep(float(argument))
    elif scope["path"] == "/block":
        time.sleep(float(argument))  # noqa: ASYNC251
    body, more = b"", True
    while more:
        event = await receive()
        body, more = body + event.get("body", b""), event.get("more_body", False)
    text = answer(scope["path"], list(scope["client"] or []), list(scope["server"] or []), body)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def wsgi(environ, start_response):
    if environ["PATH_INFO"] in ("/block", "/sleep"):
        time.sleep(float(environ["QUERY_STRING"]))
    client = [environ.get("REMOTE_ADDR", ""), int(environ.get("REMOTE_PORT") or 0)]
    server = [environ["SERVER_NAME"], environ["SERVER_PORT"]]
    text = answer(environ["PATH_INFO"], client, server, environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [text]
