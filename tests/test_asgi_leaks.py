"""Nothing stays behind: objects, references, memory, descriptors and tasks are flat over many mixed requests;
and bodies stream through bounded memory both ways."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path
from typing import Any

from support.raw_http import Client
from support.server import Server, wait_until

APPS = Path(__file__).parent / "apps"

BAD = json.dumps([{"type": "http.response.start", "status": "x"}]).encode()
PIPELINED = [
    b"GET /hello HTTP/1.1\r\nHost: a\r\nUser-Agent: test\r\n\r\n",
    b"GET /scope/%41?q=NUMBER HTTP/1.1\r\nHost: a\r\nX-Own: NUMBER\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /task?later=1 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /timeout HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD /status/200 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /boom HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /boom_later HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /child_tasks HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /raw/leak HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(BAD), BAD),
    b"GET /download?size=100000&piece=30000 HTTP/1.1\r\nHost: a\r\n\r\n",
]
FATAL = [  # the connection ends with these
    b"GET /boom_after HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /unfinished HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /half_body HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc",
    b"GET /wait_disconnect HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n",
]


def mixed(server: Server, rounds: int) -> int:
    """Returns how many requests that were."""
    count = 0
    for number in range(rounds):
        with Client(server.connect()) as client:
            requests = PIPELINED * 7
            client.send(b"".join(requests).replace(b"NUMBER", b"%d" % number))
            for request in requests:
                client.read(request.split(b" ", 1)[0].decode())
            last = FATAL[number % len(FATAL)]
            client.send(last)
            if number % 2:
                client.socket.recv(10) if b"endless" in last else None
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            count += len(requests) + 1
    return count


def stats(server: Server, client: Client) -> dict[str, Any]:
    wait_until(lambda: client.ask("/stats").json()["tasks"] <= 3, "the end of all requests' tasks")
    client.ask("/forget")
    return client.ask("/stats").json()


def test_nothing_stays_behind() -> None:
    with Server("asgi_cases:app", "--chdir", str(APPS)) as server, Client(server.connect()) as client:
        mixed(server, 40)  # caches, free lists and specialised code have come to rest
        before = stats(server, client)
        count = mixed(server, 200)
        after = stats(server, client)
    assert count >= 19_000
    grown = {key: after[key] - before[key] for key in before}
    assert grown["pid"] == grown["tasks"] == grown["fds"] == 0, grown
    assert grown["objects"] < 100, grown
    assert grown["blocks"] < 1000, grown
    assert grown["total_refs"] < 2000, grown
    assert grown["rss"] < 4 << 20, grown


def test_upload_streams_in_bounded_pieces() -> None:
    with Server("asgi_cases:app", "--chdir", str(APPS)) as server, Client(server.connect()) as client:
        size, block = 1 << 30, bytes(1 << 20)
        before = client.ask("/stats").json()["rss"]
        client.send(b"POST /sum HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(block)):
            client.send(block)
        answer = client.read().json()
        assert answer["total"] == size
        assert answer["greatest"] <= 256 * 1024
        assert client.ask("/stats").json()["rss"] < before + (32 << 20)


def read_away(client: Client) -> int:
    """How many bytes of body come; nothing is kept."""
    reader = client._reader()
    length = 0
    while (line := reader.readline()) != b"\r\n":
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    total = 0
    while total < length and (piece := reader.read(min(1 << 20, length - total))):
        total += len(piece)
    return total


def test_download_waits_for_a_slow_client() -> None:
    with Server("asgi_cases:app", "--chdir", str(APPS)) as server, Client(server.connect()) as client:
        size = 1 << 30
        with Client(server.connect()) as other:
            before = other.ask("/stats").json()["rss"]
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.send(b"GET /download?size=%d HTTP/1.1\r\nHost: a\r\n\r\n" % size)
            sent = 0
            for _ in range(100):
                now = other.ask("/notes/download").json()[0]
                if now == sent:
                    break
                sent = now
            assert sent < 64 << 20
            assert read_away(client) == size
            assert other.ask("/notes/download_rss").json()[0] < before + (32 << 20)
