"""An HTTP/1.1 client that hides nothing: sends bytes as they are given, and reads what comes back piece by piece."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field


@dataclass
class Response:
    status: int
    reason: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = True  # False: the connection ended before the body did

    def __getitem__(self, name: str) -> str | None:
        """The field's value, repetitions joined; None: there is none."""
        values = [value for key, value in self.fields if key.lower() == name.lower()]
        return ", ".join(values) if values else None


class RawClient:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.data = b""  # received, not yet looked at
        self.ended = False

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    def reset(self) -> None:
        """Closes so that the server sees a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()

    # --- sending

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def request(self, method: str, target: str, *fields: str, body: bytes | None = None) -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: test", *fields]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))

    # --- receiving

    def receive(self) -> bool:
        """Waits for more. False: the connection has ended."""
        if self.ended:
            return False
        try:
            data = self.connection.recv(65536)
        except ConnectionResetError:
            data = b""
        self.data += data
        self.ended = data == b""
        return not self.ended

    def until(self, mark: bytes) -> bytes:
        """All up to and including the mark."""
        while mark not in self.data:
            assert self.receive(), f"no {mark!r} in what came before the end: {self.data!r}"
        found, _, self.data = self.data.partition(mark)
        return found + mark

    def exactly(self, size: int) -> bytes:
        """That many bytes; fewer if the connection ends."""
        found = bytearray(self.data)
        while len(found) < size:
            self.data = b""
            if not self.receive():
                break
            found += self.data
        self.data = bytes(found[size:])
        return bytes(found[:size])

    def rest(self) -> bytes:
        while self.receive():
            pass
        found, self.data = self.data, b""
        return found

    def head(self) -> Response:
        """Status line and fields: the body is still to come."""
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")[:-2]
        _, status, reason = lines[0].split(" ", 2)
        fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        return Response(int(status), reason, fields)

    def chunk(self) -> bytes | None:
        """One chunk of a chunked body; None: the connection has ended."""
        while b"\r\n" not in self.data:
            if not self.receive():
                return None
        size = int(self.until(b"\r\n"), 16)
        data = self.exactly(size + 2)
        return data[:-2] if len(data) == size + 2 else None

    def response(self, method: str = "GET") -> Response:
        response = self.head()
        if method == "HEAD" or response.status in (204, 304) or response.status < 200:
            return response
        if response["transfer-encoding"] == "chunked":
            while (part := self.chunk()) != b"":
                if part is None:
                    response.complete = False
                    break
                response.body += part
        elif response["content-length"] is not None:
            response.body = self.exactly(int(response["content-length"]))
            response.complete = len(response.body) == int(response["content-length"])
        else:
            response.body = self.rest()
        return response

    def ask(self, method: str, target: str, *fields: str, body: bytes | None = None) -> Response:
        self.request(method, target, *fields, body=body)
        return self.response(method)
