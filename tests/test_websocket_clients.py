"""WebSocket with the clients and frameworks that people have."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.server import Server

APPS = Path(__file__).parent / "apps"
MESSAGES = ["hello", b"\0\1\2", "é€😀" * 1000, b"x" * 500_000, "a" * 500_000, ""]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("websocket_cases:app", "--chdir", str(APPS)) as running:
        yield running


@pytest.mark.parametrize("compression", ["deflate", None])
def test_websockets(server: Server, compression: str | None) -> None:
    client = pytest.importorskip("websockets.sync.client")
    with client.connect(f"ws://127.0.0.1:{server.port}/", compression=compression) as websocket:
        assert bool(websocket.protocol.extensions) == (compression is not None)
        for message in MESSAGES:
            websocket.send(message)
            assert websocket.recv() == message
        websocket.send(["frag", "men", "ts"])
        assert websocket.recv() == "fragments"
        assert websocket.ping().wait(30)
        websocket.close(4000, "bye")
        assert websocket.close_code == 4000


def test_wsproto(server: Server) -> None:
    wsproto = pytest.importorskip("wsproto")
    events = pytest.importorskip("wsproto.events")
    deflate = pytest.importorskip("wsproto.extensions").PerMessageDeflate()
    connection = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    with server.connect() as raw:

        def next_event() -> object:
            while True:
                for event in connection.events():
                    return event
                connection.receive_data(raw.recv(65536) or None)

        raw.sendall(connection.send(events.Request(host="a", target="/", extensions=[deflate])))
        accepted = next_event()
        assert isinstance(accepted, events.AcceptConnection)
        assert len(accepted.extensions) == 1
        for text in ("hello", "é" * 3000):
            raw.sendall(connection.send(events.TextMessage(data=text)))
            got = ""
            while True:
                event = next_event()
                assert isinstance(event, events.TextMessage)
                got += event.data
                if event.message_finished:
                    break
            assert got == text
        raw.sendall(connection.send(events.CloseConnection(code=1000)))
        closed = next_event()
        assert isinstance(closed, events.CloseConnection)
        assert closed.code == 1000


@pytest.mark.parametrize("compress", [0, 15])
def test_aiohttp(server: Server, compress: int) -> None:
    aiohttp = pytest.importorskip("aiohttp")

    async def talk() -> None:
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"http://127.0.0.1:{server.port}/", compress=compress) as websocket:
                assert bool(websocket.compress) == bool(compress)
                for message in MESSAGES:
                    if isinstance(message, str):
                        await websocket.send_str(message)
                        assert await websocket.receive_str() == message
                    else:
                        await websocket.send_bytes(message)
                        assert await websocket.receive_bytes() == message
                await websocket.close(code=4001)
                assert websocket.close_code == 4001

    asyncio.run(talk())


FRAMEWORK = """
import asyncio

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI()
room = set()


@app.websocket("/room/{name}")
async def enter(websocket: WebSocket, name: str, loud: bool = False) -> None:
    await websocket.accept()
    room.add(websocket)
    try:
        while True:
            text = await websocket.receive_text()
            for other in room:
                await other.send_json({"from": name, "text": text.upper() if loud else text})
    except WebSocketDisconnect:
        room.discard(websocket)
        for other in room:
            await other.send_json({"left": name})


@app.websocket("/refused")
async def refused(websocket: WebSocket) -> None:
    await websocket.close(code=1008)


@app.get("/count")
async def count() -> int:
    return len(room)
"""


def test_fastapi(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    client = pytest.importorskip("websockets.sync.client")
    exceptions = pytest.importorskip("websockets.exceptions")
    (tmp_path / "rooms.py").write_text(FRAMEWORK)
    with Server("rooms:app", "--chdir", str(tmp_path)) as server:
        base = f"ws://127.0.0.1:{server.port}"
        with client.connect(f"{base}/room/ann") as ann:
            with client.connect(f"{base}/room/bob?loud=1") as bob:
                bob.send("hi")
                assert bob.recv() == ann.recv() == '{"from":"bob","text":"HI"}'
                ann.send("ho")
                assert bob.recv() == ann.recv() == '{"from":"ann","text":"ho"}'
            assert ann.recv() == '{"left":"bob"}'
        for path, status in (("/refused", 403), ("/nowhere", 403)):
            with pytest.raises(exceptions.InvalidStatus) as refused:
                client.connect(base + path)
            assert refused.value.response.status_code == status
        assert "[ERROR]" not in server.log
