"""Who serves a request, and for whom: /WHAT?ARGUMENT answers a line of JSON with the worker's pid, the client's address
and port, the server's address, the path and the request's body. /sleep?SECONDS and /until?FILE (that exists) let the
loop turn meanwhile, /block?SECONDS does not."""

import asyncio
import json
import os
import time


def answer(path, client, server, body=b""):
    facts = {"pid": os.getpid(), "client": client, "server": server, "path": path, "body": body.decode()}
    return json.dumps(facts).encode() + b"\n"


def threads():
    return len(os.listdir("/proc/self/task"))


def fork():
    """How many threads there were before, and at the fork."""
    before, pid = threads(), os.fork()
    if pid == 0:
        os._exit(0)
    counted = f"{before} {threads()}"
    os.waitpid(pid, 0)
    return counted.encode()


async def answer_with(send, text):
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError("no lifespan")
    argument = scope["query_string"].decode()
    if scope["path"] == "/sleep":
        await asyncio.sleep(float(argument))
    elif scope["path"] == "/until":
        while not os.path.exists(argument):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)
    elif scope["path"] == "/block":
        time.sleep(float(argument))  # noqa: ASYNC251
    body, more = fork() if scope["path"] == "/fork" else b"", True
    while more:
        event = await receive()
        body, more = body + event.get("body", b""), event.get("more_body", False)
    text = answer(scope["path"], list(scope["client"] or []), list(scope["server"] or []), body)
    await answer_with(send, text)


def wsgi(environ, start_response):
    if environ["PATH_INFO"] in ("/block", "/sleep"):
        time.sleep(float(environ["QUERY_STRING"]))
    while environ["PATH_INFO"] == "/until" and not os.path.exists(environ["QUERY_STRING"]):
        time.sleep(0.01)
    client = [environ.get("REMOTE_ADDR", ""), int(environ.get("REMOTE_PORT") or 0)]
    server = [environ["SERVER_NAME"], environ["SERVER_PORT"]]
    text = answer(environ["PATH_INFO"], client, server, environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [text]
