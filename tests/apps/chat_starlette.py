"""Starlette: a chat room by WebSocket, and the same room as server-sent events; a page with both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from weakref import WeakSet

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

room: set[asyncio.Queue[str]] = set()
listeners: WeakSet[asyncio.Queue[str]] = WeakSet()  # Starlette does not end a generator whose client has gone

PAGE = """<!doctype html><title>chat</title><script>
const got = [], heard = [], codes = [];
let socket, opened = 0;
function connect() {
  socket = new WebSocket(`ws://${location.host}/chat`);
  socket.onopen = () => { opened += 1; };
  socket.onmessage = (event) => got.push(event.data);
  socket.onclose = (event) => {
    codes.push(event.code);
    setTimeout(connect, 50);
  };
}
connect();
new EventSource("/events").onmessage = (event) => heard.push(event.data);
</script>"""


def say(text: str) -> None:
    for queue in [*room, *listeners]:
        queue.put_nowait(text)


async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    queue: asyncio.Queue[str] = asyncio.Queue()
    room.add(queue)

    async def pass_on() -> None:
        while True:
            await websocket.send_text(await queue.get())

    task = asyncio.create_task(pass_on())
    try:
        async for text in websocket.iter_text():
            say(text)
    finally:
        room.discard(queue)
        task.cancel()


async def events(request: Request) -> StreamingResponse:
    queue: asyncio.Queue[str] = asyncio.Queue()
    listeners.add(queue)

    async def stream() -> AsyncIterator[str]:
        while True:
            yield f"data: {await queue.get()}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")


async def count(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{len(room)} {len(listeners)}")


async def page(request: Request) -> HTMLResponse:
    return HTMLResponse(PAGE)


routes = [Route("/", page), Route("/count", count), Route("/events", events), WebSocketRoute("/chat", chat)]
app = Starlette(routes=routes)
