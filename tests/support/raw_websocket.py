"""A WebSocket client that says exactly what a test wants: bytes out, frames in."""

from __future__ import annotations

import os
import socket
import struct
from types import TracebackType

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
PROOF = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def offer(path: str = "/", extra: bytes = b"") -> bytes:
    return (
        b"GET " + path.encode() + b" HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n" + extra + b"\r\n"
    )


def frame(first: int, payload: bytes = b"") -> bytes:
    """`first`: FIN, RSV and opcode."""
    count = len(payload)
    if count < 126:
        head = bytes([first, 0x80 | count])
    elif count < 65536:
        head = struct.pack("!BBH", first, 0xFE, count)
    else:
        head = struct.pack("!BBQ", first, 0xFF, count)
    mask = os.urandom(4)
    key = (mask * (count // 4 + 1))[:count]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(count, "big")
    return head + mask + masked


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return frame(0x88, struct.pack("!H", code) + reason)


class WebSocket:
    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.buffer = b""
        self.head = b""

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def open(self, path: str = "/", extra: bytes = b"") -> WebSocket:
        self.send(offer(path, extra))
        self.read_head()
        assert self.head.startswith(b"HTTP/1.1 101 "), self.head
        return self

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def more(self) -> bool:
        data = self.socket.recv(65536)
        self.buffer += data
        return bool(data)

    def take(self, count: int) -> bytes:
        while len(self.buffer) < count:
            if not self.more():
                raise EOFError(f"the server has closed after {self.buffer!r}")
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def read_head(self) -> bytes:
        while b"\r\n\r\n" not in self.buffer:
            if not self.more():
                raise EOFError(f"no head: {self.buffer!r}")
        self.head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return self.head

    def read_rest(self) -> bytes:
        while self.more():
            pass
        rest, self.buffer = self.buffer, b""
        return rest

    def read(self) -> tuple[int, bytes]:
        """The next frame: its first byte, its payload."""
        first, count = self.take(2)
        assert count < 128, "the server has masked a frame"
        if count == 126:
            (count,) = struct.unpack("!H", self.take(2))
        elif count == 127:
            (count,) = struct.unpack("!Q", self.take(8))
        return first, self.take(count)

    def read_close(self) -> tuple[int, bytes]:
        """The close frame, which must come next; then the end of the connection. Code (1005: none) and reason."""
        first, payload = self.read()
        assert first == 0x88, (first, payload)
        code = struct.unpack("!H", payload[:2])[0] if payload else 1005
        return code, payload[2:]

    def read_end(self) -> tuple[int, bytes]:
        """As read_close(), and nothing follows it."""
        closed = self.read_close()
        assert self.read_rest() == b""
        return closed
