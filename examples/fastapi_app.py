"""FastAPI: validation, dependencies with yield, background tasks, uploads, streaming, server-sent events.

pip install fastapi itsdangerous python-multipart
licorne fastapi_app:app --chdir examples          # and open /docs
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI, Form, HTTPException, Request, UploadFile
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field
from starlette.middleware.sessions import SessionMiddleware

app = FastAPI(title="licorne's FastAPI example")
app.add_middleware(SessionMiddleware, secret_key="change me")

BLOCK = bytes(range(256)) * 256  # 64 KiB
readers: set[asyncio.Queue] = set()
opened: dict[str, int] = {"now": 0, "ever": 0, "failed": 0}
sent: list[str] = []


class Order(BaseModel):
    item: str = Field(min_length=1, max_length=40)
    count: int = Field(ge=1, le=100)
    price: float = Field(gt=0)


async def connection() -> AsyncIterator[str]:
    """Stands for a database session: opened for a request, closed when it is over, told of its failure."""
    opened["now"] += 1
    opened["ever"] += 1
    try:
        yield f"connection {opened['ever']}"
    except Exception:
        opened["failed"] += 1
        raise
    finally:
        opened["now"] -= 1


def blocking_connection() -> Iterator[str]:
    """The same, run in a thread because it is no coroutine."""
    opened["now"] += 1
    try:
        yield "blocking connection"
    finally:
        opened["now"] -= 1


@app.get("/", response_class=PlainTextResponse)
async def index() -> str:
    return "Hello from FastAPI\n"


@app.get("/greet/{name}")
async def greet(name: str, times: int = 1) -> dict[str, Any]:
    return {"hello": name, "times": times}


@app.post("/echo")
async def echo(body: dict[str, Any]) -> dict[str, Any]:
    return body


@app.get("/visits")
async def visits(request: Request) -> dict[str, int]:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return {"visits": request.session["visits"]}


@app.post("/upload")
async def upload(file: UploadFile, note: Annotated[str | None, Form()] = None) -> dict[str, Any]:
    digest = hashlib.sha256()
    size = 0
    while chunk := await file.read(65536):
        digest.update(chunk)
        size += len(chunk)
    return {"name": file.filename, "note": note, "size": size, "sha256": digest.hexdigest()}


@app.get("/download/{mib}")
async def download(mib: int, source: Annotated[str, Depends(connection)]) -> StreamingResponse:
    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(mib * 16):
            yield BLOCK

    return StreamingResponse(blocks(), media_type="application/octet-stream", headers={"x-source": source})


@app.get("/feed", response_class=EventSourceResponse)
async def feed() -> AsyncIterator[ServerSentEvent]:
    mine: asyncio.Queue[str] = asyncio.Queue()
    readers.add(mine)
    try:
        yield ServerSentEvent(raw_data="welcome")
        while True:
            try:
                yield ServerSentEvent(raw_data=await asyncio.wait_for(mine.get(), 0.5))
            except asyncio.TimeoutError:
                yield ServerSentEvent(comment="still here")  # a client that has left is noticed by writing to it
    finally:
        readers.discard(mine)


class Message(BaseModel):
    text: str


@app.post("/feed", status_code=204)
async def publish(message: Message) -> None:
    for reader in readers:
        reader.put_nowait(message.text)


@app.get("/feed/readers")
async def count_readers() -> dict[str, int]:
    return {"readers": len(readers)}


# --- validation, dependencies, background tasks


@app.post("/orders", status_code=201)
async def create_order(
    order: Order, tasks: BackgroundTasks, source: Annotated[str, Depends(connection)]
) -> dict[str, Any]:
    """The client has its answer before the letter is written."""
    tasks.add_task(sent.append, f"{order.count} x {order.item}")
    return {"total": order.count * order.price, "source": source}


@app.get("/letters")
async def letters() -> list[str]:
    return sent


@app.get("/blocking")
def blocking(source: Annotated[str, Depends(blocking_connection)]) -> dict[str, str]:
    """No coroutine: FastAPI runs it in a thread."""
    return {"source": source}


@app.get("/refused")
async def refused(source: Annotated[str, Depends(connection)]) -> None:
    raise HTTPException(409, f"refused while holding {source}")


@app.get("/connections")
async def connections() -> dict[str, int]:
    return opened


@app.get("/error")
async def error(source: Annotated[str, Depends(connection)]) -> None:
    raise RuntimeError("on purpose")
