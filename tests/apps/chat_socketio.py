"""Socket.IO: events, acknowledgements, rooms, a namespace that refuses."""

from __future__ import annotations

from typing import Any

import socketio

server = socketio.AsyncServer(async_mode="asgi")
app = socketio.ASGIApp(server)


@server.event
async def connect(sid: str, environ: dict[str, Any]) -> None:
    await server.enter_room(sid, "everybody")


@server.event
async def say(sid: str, text: str) -> str:
    await server.emit("said", {"text": text}, room="everybody")
    return f"{server.transport(sid)}: {len(text)}"


@server.event
async def mirror(sid: str, data: bytes) -> bytes:
    return data


@server.on("connect", namespace="/closed")
async def refuse(sid: str, environ: dict[str, Any]) -> bool:
    return False
