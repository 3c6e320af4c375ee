"""The server of the WSGI tests: tests/apps/wsgi_probe.py under one worker."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from support.raw_client import RawClient, Response
from support.server import Server

APPS = Path(__file__).parent.parent / "apps"


class Probe:
    def __init__(self, server: Server, threads: int) -> None:
        self.server = server
        self.threads = threads
        self._tokens = itertools.count()

    def connect(self) -> RawClient:
        return RawClient(self.server.connect())

    def token(self) -> str:
        return f"t{next(self._tokens)}"

    def get(self, target: str, *fields: str, method: str = "GET", body: bytes | None = None) -> Response:
        """One request on a connection of its own."""
        with self.connect() as client:
            return client.ask(method, target, *fields, body=body)

    def wait_report(self, token: str, what: str) -> re.Match[str]:
        """Waits until the application has reported this."""
        return self.server.wait_log(rf"(?m)^probe {token} {what}")[0]

    def reports(self, token: str) -> list[str]:
        return re.findall(rf"(?m)^probe {token} (.*)$", self.server.log)

    def wait_closed(self, token: str) -> None:
        """close() was called, once, and nothing else was reported. It may come after the client has its response."""
        self.wait_report(token, "closed")
        assert self.reports(token) == ["closed"]

    def count_log(self, text: str) -> int:
        return self.server.log.count(text)


class Fifo:
    """What an application waits for: it goes on when the test says so."""

    def __init__(self, folder: Path, name: str = "fifo") -> None:
        self.path = folder / name
        os.mkfifo(self.path)

    def touch(self) -> None:
        """Waits until the application waits, and lets it go on."""
        with open(self.path, "wb"):
            pass


@contextlib.contextmanager
def probe_server(threads: int, *args: str, app: str = "wsgi_probe:app") -> Iterator[Probe]:
    with Server(app, "--threads", str(threads), *args, cwd=APPS) as server:
        yield Probe(server, threads)
