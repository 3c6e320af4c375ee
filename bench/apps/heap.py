"""An application of about 100 MB: many small objects, as models, routes, templates and caches make them."""

import gc
import os

HEAP = [{"id": i, "name": f"object {i}", "tags": [str(i), str(i + 1)]} for i in range(150_000)]
FUNCTIONS = [eval(f"lambda x: x + {i}") for i in range(3000)]


def answer(path):
    if path == "/collect":
        gc.collect()
    return str(os.getpid()).encode() if path in ("/collect", "/pid") else b"Hello, World!"


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError("no lifespan")
    body = answer(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def wsgi(environ, start_response):
    body = answer(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
