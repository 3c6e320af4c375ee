"""A thousand WebSockets while their workers are replaced, recycled and killed: each is told what can be told, those of
other workers feel nothing, and all can come back at once."""

from __future__ import annotations

import os
import resource
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.raw_websocket import WebSocket, close_frame, frame
from support.server import Server, alive, wait_until

APPS = Path(__file__).parent / "apps"
COUNT = 1000


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, COUNT + 500), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Crowd:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.members: list[WebSocket] = []
        self.grow()

    def grow(self) -> None:
        while len(self.members) < COUNT:
            self.members.append(WebSocket(self.server.connect()).open("/plain"))

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *exception: object) -> None:
        for member in self.members:
            member.socket.close()

    def spoken_to(self) -> list[WebSocket]:
        poll = select.poll()
        by_fd = {member.socket.fileno(): member for member in self.members}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        return [by_fd[fd] for fd, _ in poll.poll(0)]

    def leave(self, member: WebSocket) -> None:
        member.socket.close()
        self.members.remove(member)

    def answer_restarts(self) -> int:
        """Those to whom the server says 1012 answer, and see the connection end; how many."""
        told = self.spoken_to()
        for member in told:
            assert member.read_close()[0] == 1012
            member.send(close_frame(1012))
        for member in told:
            assert member.read_rest() == b""
            self.leave(member)
        return len(told)

    def drop_the_lost(self) -> int:
        """Those whose connection has ended without a word leave; how many."""
        lost = self.spoken_to()
        for member in lost:
            try:
                assert member.socket.recv(100) == b""
            except ConnectionResetError:
                pass
            self.leave(member)
        return len(lost)

    def chat(self) -> None:
        for number, member in enumerate(self.members):
            member.send(frame(0x81, b"%d" % number))
        for number, member in enumerate(self.members):
            assert member.read() == (0x81, b"%d" % number)


def test_replaced_recycled_killed() -> None:
    args = ["--workers", "2", "--backlog", str(COUNT)]
    with Server("websocket_cases:app", "--chdir", str(APPS), *args) as server, Crowd(server) as crowd:
        old = server.workers()
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: crowd.answer_restarts() >= 0 and not crowd.members, "1012 to all")
        crowd.grow()
        wait_until(lambda: not any(map(alive, old)), "the end of the old workers")
        crowd.chat()

        recycled = server.workers()[0]
        os.kill(recycled, signal.SIGTERM)
        wait_until(lambda: not (crowd.answer_restarts() or alive(recycled)), "the end of the recycled worker")
        assert COUNT // 4 < len(crowd.members) < COUNT * 3 // 4
        crowd.chat()
        crowd.grow()

        wait_until(lambda: len(server.workers()) == 2)
        killed = server.workers()[0]
        os.kill(killed, signal.SIGKILL)
        server.wait_log(f"Worker {killed} was killed")  # with all its threads: its connections are closed
        lost = crowd.drop_the_lost()
        assert 0 < lost == COUNT - len(crowd.members)
        crowd.chat()
        crowd.grow()
        crowd.chat()
