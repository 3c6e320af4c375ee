"""Protocols for the tests of transports."""

from __future__ import annotations

import asyncio


class Recorder(asyncio.Protocol):
    """Notes what happens to it. `keep_open`: what eof_received() answers."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.data = bytearray()
        self.keep_open = False
        self.transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data) -> None:
        assert type(data) is bytes and data
        self.data += data

    def eof_received(self) -> bool:
        self.events.append("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)


class Buffered(Recorder, asyncio.BufferedProtocol):
    """The same, with a buffer of its own: of `size` bytes, a new one each time."""

    def __init__(self, size: int = 5_000) -> None:
        super().__init__()
        self.size = size

    def get_buffer(self, hint: int) -> memoryview:
        self.buffer = memoryview(bytearray(self.size))  # the standard library slices it
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.data += self.buffer[:count]
