"""Nothing stays behind of WebSockets: objects, references, memory, descriptors and tasks are flat over thousands of
them, whatever way they end; and ten thousand at once come and go without anybody else waiting for it."""

from __future__ import annotations

import itertools
import multiprocessing
import resource
import selectors
import socket
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from support.raw_http import Client
from support.raw_websocket import WebSocket, close_frame, frame, offer
from support.server import Server, wait_until

APPS = Path(__file__).parent / "apps"
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
RESET = struct.pack("ii", 1, 0)
WINDOWS, WINDOW = 3, 300


def packed(data: bytes) -> bytes:
    compress = zlib.compressobj(9, zlib.DEFLATED, -9)
    return (compress.compress(data) + compress.flush(zlib.Z_SYNC_FLUSH))[:-4]


MESSAGES = [
    frame(0x81, b"hello"),
    frame(0x82, bytes(40_000)),
    frame(0x01, b"in ") + frame(0x89, b"beat") + frame(0x80, b"pieces"),
    frame(0xC1, packed(b"again and " * 500)),
]
ENDS = [
    close_frame(1000, b"bye"),
    frame(0x88),
    b"",  # disappears
    frame(0x02, b"incomplete"),
    frame(0x81, b"\xff"),
    frame(0xC1, b"\xff\xff\xff"),
    frame(0x83),
    b"\x82\xff" + bytes(3),
]
ANSWERS = ["/refuse", "/deny", "/gone", "/close", "/accept_return", "/send_after", "/push", "/bad_accepts", "/flood"]
FAILURES = ["/deny_half", "/fail", "/fail_first", "/return", "/accept_fail"]


def one(server: Server, number: int, answers: list[str]) -> None:
    with WebSocket(server.connect()) as websocket:
        if number % 2:
            path = answers[number // 2 % len(answers)]
            websocket.send(offer(path))
            if number % 3 and path != "/gone":  # that one never answers
                websocket.socket.recv(100)
        else:
            websocket.open(extra=DEFLATE)
            websocket.send(b"".join(MESSAGES))
            for _ in range(5):
                websocket.read()
            end = ENDS[number // 2 % len(ENDS)]
            websocket.send(end)
            if end and number % 4:
                websocket.socket.settimeout(0.01)
                try:
                    websocket.read_rest()
                except TimeoutError:
                    pass
        if number % 5 == 0:
            websocket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def stats(server: Server) -> dict[str, Any]:
    def settled() -> dict[str, Any] | None:
        with Client(server.connect()) as client:
            found = client.ask("/stats").json()
        return found if found["tasks"] <= 3 else None

    wait_until(settled, "the end of all tasks")
    return wait_until(settled)


@pytest.mark.sanitized
def test_every_way_to_end() -> None:
    with Server("websocket_cases:app", "--chdir", str(APPS)) as server:
        for number in range(4 * len(ANSWERS + FAILURES)):
            one(server, number, ANSWERS + FAILURES)
        assert stats(server)["tasks"] <= 3


@pytest.mark.parametrize(
    ("takeover", "answers", "blocks"),
    [
        ("--no-ws-deflate-takeover", ANSWERS, 50),
        ("--ws-deflate-takeover", ANSWERS, 50),
        ("--no-ws-deflate-takeover", FAILURES, 1000),  # of tracebacks CPython keeps something, ever less
    ],
)
def test_nothing_stays_behind(takeover: str, answers: list[str], blocks: int) -> None:
    with Server("websocket_cases:app", "--chdir", str(APPS), takeover) as server:
        found = []
        for _ in range(WINDOWS + 1):
            for number in range(WINDOW):
                one(server, number, answers)
            found.append(stats(server))
    # Caches settle sooner or later; a leak shows in every window.
    windows = list(itertools.pairwise(found))
    grown = {key: min(after[key] - before[key] for before, after in windows) for key in found[0]}
    assert grown["tasks"] == grown["fds"] == 0, windows
    assert grown["objects"] < 50, windows
    assert grown["blocks"] < blocks, windows
    assert grown["total_refs"] < 200, windows
    assert grown["rss"] < 256 << 10, windows


# --- ten thousand at once

COUNT = 10_000


def open_all(server: Server, count: int) -> list[socket.socket]:
    """All handshakes at once."""
    selector, sockets = selectors.DefaultSelector(), []
    assert not isinstance(server.address, str)
    for _ in range(count):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(server.address)
        selector.register(client, selectors.EVENT_WRITE)
        sockets.append(client)
    done = 0
    while done < count:
        for key, events in selector.select():
            client = key.fileobj
            assert isinstance(client, socket.socket)
            if events & selectors.EVENT_WRITE:
                client.send(offer("/plain"))
                selector.modify(client, selectors.EVENT_READ)
            else:
                assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
                selector.unregister(client)
                done += 1
    return sockets


def come_and_go(server: Server, times: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (COUNT + 1000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for _ in range(times):
        opened = open_all(server, COUNT)
        for websocket in opened:
            websocket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        for websocket in opened:
            websocket.close()


def others(server: Server, times: int) -> multiprocessing.Process:
    """In a process of their own: what they cost must not slow the probe."""
    process = multiprocessing.get_context("fork").Process(target=come_and_go, args=(server, times))
    process.start()
    return process


def cpu_seconds(pid: int) -> float:
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


@pytest.mark.soak
def test_ten_thousand_at_once() -> None:
    """Opened at once, dropped at once: nobody else waits for long, and the memory comes back. What a request waits for
    is counted as the worker's CPU time meanwhile, so that a busy machine counts little; CPython's collector does count,
    which looks at all that ten thousand applications hold, 20 ms for each time."""
    args = ["--worker-connections", str(2 * COUNT), "--backlog", str(COUNT)]
    with Server("websocket_cases:app", "--chdir", str(APPS), *args) as server:
        (worker,) = server.workers()
        others(server, 1).join()  # the first time grows what stays
        before = stats(server)
        waits = []
        with Client(server.connect()) as probe:
            crowd = others(server, 3)
            while crowd.is_alive():
                began = cpu_seconds(worker)
                probe.ask("/nothing")
                waits.append(cpu_seconds(worker) - began)
                time.sleep(0.002)
        assert crowd.exitcode == 0
        wait_until(lambda: stats(server)["fds"] == before["fds"], "the end of all connections")
        wait_until(lambda: stats(server)["rss"] < before["rss"] + (8 << 20), "the memory")
    waits.sort()
    assert len(waits) > 100
    assert waits[len(waits) * 95 // 100] < 0.02, waits[-20:]
    assert waits[-1] < 0.05, waits[-20:]
