"""A client that sends the bytes it is told to and reads responses one by one, on one connection."""

from __future__ import annotations

import http.client
import json
import socket
from types import TracebackType
from typing import Any


class Response:
    def __init__(self, parsed: http.client.HTTPResponse) -> None:
        self.status = parsed.status
        self.headers = parsed.headers  # the last of duplicates wins in [], get_all() has them all
        self.header_pairs = parsed.getheaders()
        self.complete = True
        try:
            self.body = parsed.read()
        except http.client.IncompleteRead as error:
            self.body, self.complete = error.partial, False
        except ConnectionResetError:
            self.body, self.complete = b"", False

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Takes a connected socket over."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self, method: str = "GET") -> Response:
        parsed = http.client.HTTPResponse(self.socket, method=method)
        # One buffered reader for all responses of the connection: HTTPResponse would swallow the next one's start.
        parsed.fp.close()
        parsed.fp = self._reader()
        parsed.begin()
        return Response(parsed)

    def _reader(self) -> Any:
        if not hasattr(self, "_file"):
            self._file = self.socket.makefile("rb")
        return _Unclosed(self._file)

    def ask(
        self, target: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Response:
        fields = {"Host": "test", **(headers or {})}
        if body is not None:
            fields.setdefault("Content-Length", str(len(body)))
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n"
        self.send(head.encode("latin-1") + (body or b""))
        return self.read(method)

    def at_end(self) -> bool:
        """Has the server closed, with nothing more sent? Waits for it."""
        try:
            return self._reader().read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Unclosed:
    """A reader that HTTPResponse may close without closing it."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def close(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
