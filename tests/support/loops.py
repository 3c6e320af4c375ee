"""What the tests of the event loop share: a loop of ours, a pair of sockets, steps."""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    import licorne

    loop = licorne.new_event_loop()
    yield loop
    if not loop.is_closed():
        loop.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    with a, b:
        yield a, b


def turn(loop: asyncio.AbstractEventLoop, times: int = 1) -> None:
    for _ in range(times):
        loop.call_soon(loop.stop)
        loop.run_forever()


def run_in_python(code: str, *arguments: str, status: int = 0) -> str:
    """Runs `code` in an interpreter of its own; returns what it printed."""
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert result.returncode == status, result.stderr
    return result.stdout


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def start(loop, coro, name="request"):
    """Starts a task as the server does: from a callback, no task being current. Returns what _start_task() did."""
    outcome = []

    def callback():
        try:
            outcome.append(loop._start_task(coro, name))
        except Exception as error:
            outcome.append(error)

    loop.call_soon(callback, context=contextvars.copy_context())
    turn(loop)
    return outcome[0]
