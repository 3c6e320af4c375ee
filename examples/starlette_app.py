"""Starlette: JSON, sessions, uploads, streaming, server-sent events, a background task, lifespan.

pip install starlette itsdangerous python-multipart
licorne starlette_app:app --chdir examples
"""

import asyncio
import contextlib
import hashlib

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

BLOCK = bytes(range(256)) * 256  # 64 KiB
readers: set[asyncio.Queue] = set()


@contextlib.asynccontextmanager
async def lifespan(app: Starlette):
    yield {"greeting": "Hello from Starlette\n"}


async def index(request: Request) -> Response:
    return PlainTextResponse(request.state.greeting)


async def greet(request: Request) -> Response:
    times = request.query_params.get("times", "1")
    if not times.isdigit():
        raise HTTPException(400, "times must be a number")
    return JSONResponse({"hello": request.path_params["name"], "times": int(times)})


async def echo(request: Request) -> Response:
    return JSONResponse(await request.json())


async def visits(request: Request) -> Response:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse({"visits": request.session["visits"]})


async def upload(request: Request) -> Response:
    async with request.form() as form:
        file = form["file"]
        digest = hashlib.sha256()
        size = 0
        while chunk := await file.read(65536):
            digest.update(chunk)
            size += len(chunk)
        return JSONResponse(
            {"name": file.filename, "note": form.get("note"), "size": size, "sha256": digest.hexdigest()}
        )


async def download(request: Request) -> Response:
    async def blocks():
        for _ in range(request.path_params["mib"] * 16):
            yield BLOCK

    return StreamingResponse(blocks(), media_type="application/octet-stream")


async def feed(request: Request) -> Response:
    async def events():
        mine: asyncio.Queue[str] = asyncio.Queue()
        readers.add(mine)
        try:
            yield "data: welcome\n\n"
            while True:
                try:
                    yield f"data: {await asyncio.wait_for(mine.get(), 0.5)}\n\n"
                except asyncio.TimeoutError:
                    yield ": still here\n\n"  # a client that has left is noticed by writing to it
        finally:
            readers.discard(mine)

    return StreamingResponse(events(), media_type="text/event-stream")


async def publish(request: Request) -> Response:
    """Answers first; the readers get it from the background task."""
    text = (await request.json())["text"]

    async def deliver() -> None:
        for reader in readers:
            reader.put_nowait(text)

    return Response(status_code=204, background=BackgroundTask(deliver))


async def count_readers(request: Request) -> Response:
    return JSONResponse({"readers": len(readers)})


async def error(request: Request) -> Response:
    raise RuntimeError("on purpose")


app = Starlette(
    lifespan=lifespan,
    middleware=[Middleware(SessionMiddleware, secret_key="change me")],
    routes=[
        Route("/", index),
        Route("/greet/{name}", greet),
        Route("/echo", echo, methods=["POST"]),
        Route("/visits", visits),
        Route("/upload", upload, methods=["POST"]),
        Route("/download/{mib:int}", download),
        Route("/feed", feed),
        Route("/feed", publish, methods=["POST"]),
        Route("/feed/readers", count_readers),
        Route("/error", error),
    ],
)
