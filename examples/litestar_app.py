"""Litestar: JSON, sessions, uploads, streaming, server-sent events.

pip install 'litestar[cryptography]' python-multipart
licorne litestar_app:app --chdir examples
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

from litestar import Litestar, MediaType, Request, get, post
from litestar.datastructures import UploadFile
from litestar.enums import RequestEncodingType
from litestar.middleware.session.client_side import CookieBackendConfig
from litestar.params import Body
from litestar.response import ServerSentEvent, Stream

BLOCK = bytes(range(256)) * 256  # 64 KiB
readers: set[asyncio.Queue] = set()


@get("/", media_type=MediaType.TEXT, sync_to_thread=False)
def index() -> str:
    return "Hello from Litestar\n"


@get("/greet/{name:str}")
async def greet(name: str, times: int = 1) -> dict[str, Any]:
    return {"hello": name, "times": times}


@post("/echo", status_code=200)
async def echo(data: dict[str, Any]) -> dict[str, Any]:
    return data


@get("/visits")
async def visits(request: Request) -> dict[str, int]:
    count = request.session.get("visits", 0) + 1
    request.set_session({"visits": count})
    return {"visits": count}


@post("/upload", status_code=200, request_max_body_size=100 << 20)
async def upload(
    data: Annotated[dict[str, Any], Body(media_type=RequestEncodingType.MULTI_PART)],
) -> dict[str, Any]:
    file: UploadFile = data["file"]
    digest = hashlib.sha256()
    size = 0
    while chunk := await file.read(65536):
        digest.update(chunk)
        size += len(chunk)
    return {"name": file.filename, "note": data.get("note"), "size": size, "sha256": digest.hexdigest()}


@get("/download/{mib:int}")
async def download(mib: int) -> Stream:
    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(mib * 16):
            yield BLOCK

    return Stream(blocks(), media_type="application/octet-stream")


@get("/feed")
async def feed() -> ServerSentEvent:
    async def events() -> AsyncIterator[str]:
        mine: asyncio.Queue[str] = asyncio.Queue()
        readers.add(mine)
        try:
            yield "welcome"
            while True:
                yield await mine.get()
        finally:
            readers.discard(mine)

    return ServerSentEvent(events())


@post("/feed", status_code=204)
async def publish(data: dict[str, str]) -> None:
    for reader in readers:
        reader.put_nowait(data["text"])


@get("/feed/readers")
async def count_readers() -> dict[str, int]:
    return {"readers": len(readers)}


@get("/error")
async def error() -> None:
    raise RuntimeError("on purpose")


session = CookieBackendConfig(secret=b"change me please")  # 16, 24 or 32 bytes
app = Litestar(
    [index, greet, echo, visits, upload, download, feed, publish, count_readers, error],
    middleware=[session.middleware],
)
