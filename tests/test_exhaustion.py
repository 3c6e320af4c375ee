"""Fewer descriptors than clients: nobody spins, nobody floods the log, and all get their turn."""

from __future__ import annotations

import os
import re
import selectors
import socket
import time
from pathlib import Path

import pytest

from support.server import Server, command, wait_until

APPS = """
import os

held = []

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/hold":
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
    elif environ["PATH_INFO"] == "/release":
        while held:
            os.close(held.pop())
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]

async def asgi(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})
"""
CLIENTS = 300
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SAID = re.compile(r"connections that this worker may have are taken|Cannot accept connections")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text(APPS)
    return tmp_path


def start(app: str, folder: Path, *args: str) -> Server:
    few = ["sh", "-c", 'ulimit -n 128 && exec "$@"', "sh"]
    return Server(f"a:{app}", "--lifespan", "off", *args, cwd=folder, program=[*few, *command()])


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Client:
    """Wants so many answers; opens a new connection whenever the server has closed."""

    def __init__(self, address: tuple[str, int], wanted: int) -> None:
        self.address, self.wanted, self.failures = address, wanted, 0
        self.open()

    def open(self) -> None:
        self.socket, self.received, self.fresh = socket.create_connection(self.address, 30), b"", True
        self.socket.sendall(REQUEST)

    def hear(self) -> None:
        """To be called when there is something to be read."""
        data = self.socket.recv(4096)
        self.received += data
        if self.received.endswith(b"hello"):
            assert self.received.startswith(b"HTTP/1.1 200 ")
            self.wanted -= 1
            closes = b"connection: close" in self.received.lower()
            self.received, self.fresh = b"", False
            if closes:
                self.socket.close()
            if self.wanted and closes:
                self.open()
            elif self.wanted:
                self.socket.sendall(REQUEST)
        elif not data:
            self.failures += self.fresh  # a kept one may be closed at any time
            self.open()


def serve_all(clients: list[Client]) -> None:
    due = time.monotonic() + 60
    waiting = set(clients)
    while waiting:
        assert time.monotonic() < due, f"{len(waiting)} clients were not served"
        with selectors.DefaultSelector() as selector:
            for client in waiting:
                selector.register(client.socket, selectors.EVENT_READ, client)
            for key, _ in selector.select(1):
                key.data.hear()
        waiting = {client for client in waiting if client.wanted}


@pytest.mark.parametrize(("app", "wanted"), [("wsgi", 1), ("asgi", 5)])
def test_more_clients_than_descriptors(folder: Path, app: str, wanted: int) -> None:
    """Those who have been served keep their connections open as long as they may."""
    with start(app, folder) as server:
        clients = [Client(server.address, wanted) for _ in range(CLIENTS)]
        serve_all(clients)
        assert sum(client.failures for client in clients) == 0
        (worker,) = server.workers()
        before = cpu_seconds(worker), cpu_seconds(server.pid)
        time.sleep(0.5)  # with all the connections that are left: nobody has anything to do
        assert cpu_seconds(worker) - before[0] < 0.1
        assert cpu_seconds(server.pid) - before[1] < 0.1
        assert len(SAID.findall(server.log)) <= 1
        for client in clients:
            client.socket.close()


def test_clients_that_only_connect_do_not_keep_others_out(folder: Path) -> None:
    with start("asgi", folder) as server:
        silent = [socket.create_connection(server.address) for _ in range(CLIENTS)]
        serve_all([Client(server.address, 1) for _ in range(5)])
        assert len(SAID.findall(server.log)) == 1
        for client in silent:
            client.close()


def test_the_application_has_taken_all(folder: Path) -> None:
    """accept() itself fails: it is tried again now and then."""
    with start("wsgi", folder) as server:
        with socket.create_connection(server.address) as holder:
            holder.sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
            assert holder.recv(4096).startswith(b"HTTP/1.1 200 ")
            (worker,) = server.workers()
            client = Client(server.address, 1)
            server.wait_log("Cannot accept connections: Too many open files")
            before = cpu_seconds(worker)
            time.sleep(0.5)
            assert cpu_seconds(worker) - before < 0.1
            holder.sendall(b"GET /release HTTP/1.1\r\nHost: a\r\n\r\n")
            serve_all([client])
            assert client.failures == 0
        assert len(SAID.findall(server.log)) == 1


def test_worker_connections(folder: Path) -> None:
    """The owner's own limit: the same rules."""
    with Server("a:asgi", "--worker-connections", "10", cwd=folder) as server:
        clients = [Client(server.address, 3) for _ in range(40)]
        serve_all(clients)
        assert sum(client.failures for client in clients) == 0
        wait_until(lambda: "All 10 connections that this worker may have are taken" in server.log)
