"""An application of about 100 MB: many small objects, as models, routes, templates and caches make them."""

import gc
import os

HEAP = [{"id": i, "name": f"object {i}", "tags": [str(i), str(i + 1)]} for i in range(150_000)]
FUNCTIONS = [eval(f"lambda x: x + {i}") for i in range(3000)]


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError("no lifespan")
    if scope["path"] == "/collect":
        gc.collect()
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
