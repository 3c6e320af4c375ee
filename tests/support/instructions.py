"""Instructions per request: what one worker executes in user space, counted by callgrind, so that they are the same in
each run, whatever else the machine does.

The interpreter runs under valgrind (`licorne --python` gets a script), the master does not. callgrind writes what it
has counted, and begins anew, whenever libc's getpgid() is called (--dump-before): the applications counted_*.py do so
when they are asked for `/mark`. Requests come one by one on one connection, so each is a turn of the loop; between two
marks lie `ROUNDS` of them. Only the first thread counts: the guard ticks by the clock.

    with Callgrind("counted_asgi:app") as callgrind:
        print(callgrind.count("hello"))
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from .raw_websocket import frame, offer
from .server import Server, wait_until

TESTS = Path(__file__).resolve().parent.parent
APPS = TESTS / "apps"
FIGURES = TESTS / "instructions.json"
WARM_UP = 200  # CPython specialises code while it runs, pools and caches fill
ROUNDS = 200
PATIENCE = 300.0  # seconds: under valgrind, on a busy machine, starting takes a while
TEXT = 0x81  # a final text frame

FIELDS = b"Host: localhost:8000\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: */*\r\n"
GET = b"GET /%b HTTP/1.1\r\n" + FIELDS + b"\r\n"
BODY = b"x" * 1024
POST = b"POST /echo HTTP/1.1\r\n" + FIELDS + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


class Hello:
    """A GET and its answer, on a kept connection."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.data = b""

    def take(self, count: int) -> bytes:
        while len(self.data) < count:
            part = self.socket.recv(65536)
            assert part, f"closed after {self.data!r}"
            self.data += part
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def ask(self, request: bytes) -> bytes:
        """The body of the answer."""
        self.socket.sendall(request)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.take(1)
        assert head.startswith(b"HTTP/1.1 "), head
        length = re.search(rb"content-length: (\d+)", head)
        return self.take(int(length[1]) if length else 0)

    def once(self) -> None:
        assert self.ask(GET % b"") == b"Hello, World!"

    def mark(self) -> None:
        assert self.ask(GET % b"mark") == b"Hello, World!"


class Post(Hello):
    """A body of 1 KiB and its echo."""

    def once(self) -> None:
        assert self.ask(POST) == BODY


class WebSocket(Hello):
    """A message of 64 bytes and its echo."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(connected)
        self.ask(offer())

    def echo(self, text: bytes) -> None:
        self.socket.sendall(frame(TEXT, text))
        assert self.take(2 + len(text))[2:] == text

    def once(self) -> None:
        self.echo(b"m" * 64)

    def mark(self) -> None:
        self.echo(b"mark")


EXCHANGES: dict[str, type[Hello]] = {"hello": Hello, "post": Post, "websocket": WebSocket}


def total(profile: Path) -> int:
    found = re.search(r"^totals: (\d+)", profile.read_text(), re.M)
    assert found, f"{profile} has no totals"
    return int(found[1])


class Row(NamedTuple):
    app: str
    exchange: str


ROWS = {
    "asgi-hello": Row("counted_asgi:app", "hello"),
    "asgi-post": Row("counted_asgi:app", "post"),
    "asgi-websocket": Row("counted_asgi:app", "websocket"),
    "wsgi-hello": Row("counted_wsgi:app", "hello"),
}


def missing() -> str | None:
    """Why nothing can be counted here."""
    return None if shutil.which("valgrind") else "valgrind is not installed"


def environment() -> str:
    """What else the figures depend on: the interpreter's build, our compiler, libc and what it chooses functions by."""
    options = sysconfig.get_config_var("CONFIG_ARGS") or ""
    build = "optimized" if "--enable-optimizations" in options else "plain"
    compiler = subprocess.run([os.environ.get("CC", "cc"), "-dumpfullversion"], capture_output=True, text=True).stdout
    wide = "avx2" if re.search(r"\bavx2\b", Path("/proc/cpuinfo").read_text()) else "baseline"
    return ", ".join(
        (
            f"{platform.python_implementation()} {platform.python_version()} {build} ({platform.python_compiler()})",
            f"cc {compiler.strip()}",
            " ".join(platform.libc_ver()),
            f"{platform.machine()} {wide}",
        )
    )


def known() -> dict[str, int]:
    """What was counted in an environment like this one."""
    return json.loads(FIGURES.read_text()).get(environment(), {})


def remember(figures: dict[str, int]) -> None:
    all_figures = {**json.loads(FIGURES.read_text()), environment(): figures}
    FIGURES.write_text(json.dumps(all_figures, indent=2, sort_keys=True) + "\n")


class Callgrind:
    def __init__(self, app: str, *args: str, env: dict[str, str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="licorne-callgrind-"))
        self.server = Server(
            app,
            *("--timeout", "0", "--python", str(self._interpreter()), *args),
            bind="unix",
            wait=False,
            env={"PYTHONPATH": str(APPS), "PYTHONHASHSEED": "0", **(env or {})},
        )

    def _interpreter(self) -> Path:
        """The name of callgrind's files is its own default: licorne's process titles overwrite the arguments."""
        script = self.folder / "python"
        command = "valgrind -q --tool=callgrind --separate-threads=yes --dump-before=getpgid"
        script.write_text(f'#!/bin/sh\ncd "{self.folder}" && exec {command} "{sys.executable}" "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        return script

    def __enter__(self) -> Callgrind:
        try:
            self.server.start()
            self.server.wait_ready(PATIENCE)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.server.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- counting

    def dumps(self) -> list[Path]:
        """What the worker's first thread has written, in order."""
        (worker,) = self.server.workers()
        found = self.folder.glob(f"callgrind.out.{worker}.*-01")
        return sorted(found, key=lambda path: int(path.name.split(".")[-1].split("-")[0]))

    def _profiles(self, name: str, rounds: Sequence[int]) -> list[Path]:
        """callgrind's files: each of so many exchanges, and one mark."""
        with self.server.connect(timeout=PATIENCE) as connected:
            exchange = EXCHANGES[name](connected)
            for _ in range(WARM_UP):
                exchange.once()
            exchange.mark()
            before = len(self.dumps())
            for count in rounds:
                for _ in range(count):
                    exchange.once()
                exchange.mark()
            wait_until(lambda: len(self.dumps()) == before + len(rounds), "callgrind's files", PATIENCE)
            return self.dumps()[before:]

    def profile(self, name: str) -> Path:
        """callgrind's file of `ROUNDS` exchanges, and one mark."""
        return self._profiles(name, [ROUNDS])[0]

    def count(self, name: str) -> int:
        """Instructions an exchange: the marks are the same in both halves, and so cancel each other out."""
        once, twice = (total(path) for path in self._profiles(name, [ROUNDS, 2 * ROUNDS]))
        return round((twice - once) / ROUNDS)
