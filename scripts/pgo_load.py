"""What the profile of scripts/pgo is of: requests of the usual kinds, to the applications that instructions are counted
of. A few thousand each are enough: what counts is which way a branch goes, not how often."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.instructions import APPS, FIELDS, GET, Hello, Post, WebSocket
from support.server import Server

CONNECTIONS = 8
ROUNDS = 250  # on each of them

BROWSER = b"""GET /items/17?sort=name&page=2 HTTP/1.1
Host: www.example.org
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8
Accept-Language: en-US,en;q=0.5
Accept-Encoding: gzip, deflate, br, zstd
Connection: keep-alive
Cookie: session=0123456789abcdef; theme=dark
Sec-Fetch-Mode: navigate

""".replace(b"\n", b"\r\n")
CHUNKED = b"POST /echo HTTP/1.1\r\n" + FIELDS + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
PIPELINED = 16


def exchanges(server: Server, kind: type[Hello]) -> None:
    clients = [kind(server.connect()) for _ in range(CONNECTIONS)]
    for _ in range(ROUNDS):
        for client in clients:
            client.once()
    for client in clients:
        client.socket.close()


def requests(server: Server, request: bytes, body: bytes) -> None:
    with server.connect() as connected:
        client = Hello(connected)
        for _ in range(ROUNDS):
            assert client.ask(request) == body


def pipelined(server: Server) -> None:
    with server.connect() as connected:
        client = Hello(connected)
        for _ in range(ROUNDS // PIPELINED):
            connected.sendall(GET % b"" * (PIPELINED - 1))
            for _ in range(PIPELINED - 1):
                client.ask(b"")
            client.once()


def new_connections(server: Server) -> None:
    for _ in range(ROUNDS):
        with server.connect() as connected:
            Hello(connected).once()


def load(app: str, *args: str, asgi: bool = False) -> None:
    with Server(app, *args, cwd=APPS) as server:
        for kind in (Hello, Post, WebSocket) if asgi else (Hello,):
            exchanges(server, kind)
        requests(server, BROWSER, b"Hello, World!")
        if asgi:
            requests(server, CHUNKED, b"hello")
        pipelined(server)
        new_connections(server)


def main() -> None:
    load("counted_asgi:app", asgi=True)
    load("counted_asgi:app", "--access-logfile", "/dev/null", asgi=True)
    load("counted_wsgi:app")
    load("counted_wsgi:app", "--threads", "4")


if __name__ == "__main__":
    main()
