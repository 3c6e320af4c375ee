#!/usr/bin/env python3
"""A mold and its workers in plain Python, which speak the channel (server/process/channel.h) and little else: so that
the master is tested alone, and misfortunes can be had on order.

The master runs it in place of a Python interpreter (--python). What goes wrong is said by the application's name, or by
the file that $FAKE_MOLD names, read at each start of a mold: one of the words of MISFORTUNES. The file `settings`
beside it is the configuration: lines of NAME VALUE.

A worker answers one line, `GET /WHAT ...`, and closes: /pid, /generation, /exit?N, /abort, /stuck (its slot says that a
turn began long ago), /leave (it asks to be replaced), /slow (answers when it is told to stop).
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path

HELLO, SETTINGS, CONFIGURED, LOADED, SPAWN, READY, FAILED, LEAVING, STOP, REOPEN, EVENT, LOG, AWAKE = range(1, 14)
SOURCES = Path(__file__).resolve().parents[2]
VERSION = int(re.search(r"#define CHANNEL_VERSION (\d+)", (SOURCES / "server/process/channel.h").read_text())[1])
NO_SLOT = 0xFFFFFFFF
TAB = "\t1\tfake.conf.py:1\t"  # between name and value: source and origin
MAX_BYTES = 128 * 1024 + 4

SLOTS_AT, SLOT_BYTES, TURN_AT, UNSEEN_AT = 8256, 192, 16, 24  # struct scoreboard

MISFORTUNES = (
    "exits-at-once",
    "other-version",
    "other-package",
    "bad-config",
    "cannot-load",
    "hangs-loading",
    "cannot-fork",
    "worker-cannot-boot",
    "worker-cannot-load",
    "worker-dies-booting",
    "worker-hangs-booting",
    "worker-dies-young",
    "second-worker-dies-booting",
)


class Channel:
    def __init__(self, fd: int) -> None:
        self.socket = socket.socket(fileno=fd)
        self.socket.setblocking(True)

    def send(self, kind: int, data: bytes = b"") -> None:
        self.socket.send(struct.pack("=I", kind) + data)

    def receive(self) -> tuple[int, bytes, list[int]]:
        """Kind 0: the master is gone."""
        data, fds, _, _ = socket.recv_fds(self.socket, MAX_BYTES, 128)
        if not data:
            return 0, b"", fds
        return struct.unpack_from("=I", data)[0], data[4:], fds

    def hello(self, slot: int = 0, version: int = VERSION, package: bytes = b"") -> None:
        self.send(HELLO, struct.pack("=II32s24s", version, slot, b"3.99.0", package))

    def failed(self, exit_code: int, message: str, slot: int = NO_SLOT) -> None:
        self.send(FAILED, struct.pack("=iI1024s", exit_code, slot, message.encode()))


class Worker:
    def __init__(self, channel: Channel, listeners: list[socket.socket], spawn: tuple[int, int, int], misfortune: str):
        self.channel, self.listeners, self.misfortune = channel, listeners, misfortune
        self.slot, self.generation, _ = spawn
        self.scoreboard = -1
        self.slow: list[socket.socket] = []

    def run(self) -> None:
        self.channel.hello(self.slot)
        self.boot()
        self.channel.send(READY)
        if self.misfortune == "worker-dies-young":
            os._exit(8)
        while True:
            for ready in select.select([self.channel.socket, *self.listeners], [], [])[0]:
                if ready is self.channel.socket:
                    self.hear()
                else:
                    self.serve(ready)

    def boot(self) -> None:
        if self.misfortune in ("worker-cannot-boot", "worker-cannot-load"):
            code = 3 if self.misfortune == "worker-cannot-boot" else 4
            self.channel.failed(code, f"sorry: {self.misfortune}")
            os._exit(code)
        if self.misfortune == "worker-dies-booting":
            os._exit(7)
        if self.misfortune == "worker-hangs-booting":
            time.sleep(1000)

    def hear(self) -> None:
        kind, _, _ = self.channel.receive()
        if kind not in (0, STOP):
            return
        for client in self.slow:
            self.answer(client, "slow")
        os._exit(0)

    def answer(self, client: socket.socket, text: str) -> None:
        with contextlib.suppress(OSError):
            client.sendall(f"{text}\n".encode())
        client.close()

    def serve(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return
        client.setblocking(True)
        what, _, argument = client.recv(1000).split()[1].decode().removeprefix("/").partition("?")
        if what == "exit":
            os._exit(int(argument))
        elif what == "abort":
            os.abort()
        elif what == "stuck":
            began = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            slot = SLOTS_AT + self.slot * SLOT_BYTES
            os.pwrite(self.scoreboard, struct.pack("=Q", began), slot + TURN_AT)
            if os.pread(self.scoreboard, 4, slot + UNSEEN_AT) != bytes(4):
                self.channel.send(AWAKE)
            signal.pause()
        elif what == "leave":
            self.channel.send(LEAVING, struct.pack("=64s", b"asked to"))
            self.answer(client, str(os.getpid()))
        elif what == "slow":
            self.slow.append(client)
        else:
            self.answer(client, str(self.generation if what == "generation" else os.getpid()))


class Mold:
    def __init__(self, channel: Channel, scoreboard: int) -> None:
        self.channel, self.scoreboard = channel, scoreboard
        file = os.environ.get("FAKE_MOLD")
        self.misfortune = Path(file).read_text().strip() if file and Path(file).exists() else ""
        settings = Path(file).with_name("settings") if file else None
        self.settings = settings.read_text() if settings and settings.exists() else ""
        self.spawned = 0

    def run(self) -> None:
        if self.misfortune == "exits-at-once":
            sys.exit(5)
        other = b"0.0.1" if self.misfortune == "other-package" else b""
        self.channel.hello(version=VERSION + (self.misfortune == "other-version"), package=other)
        _, given, _ = self.channel.receive()
        found = re.search(rb"^app\t\d\t[^\t]*\t(.*)$", given, re.MULTILINE)
        if not self.misfortune and found and found[1].decode() in MISFORTUNES:
            self.misfortune = found[1].decode()
        self.answer()
        for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(signal_number, signal.SIG_IGN)
        while True:
            kind, data, fds = self.channel.receive()
            if kind in (0, STOP):
                sys.exit(0)
            if kind == SPAWN:
                self.spawn(struct.unpack("=III", data), fds)

    def answer(self) -> None:
        bad = self.misfortune == "bad-config"
        rows = ["workers many"] if bad else self.settings.splitlines()
        self.channel.send(SETTINGS, "".join(f"{row.replace(' ', TAB, 1)}\n" for row in rows).encode())
        if self.channel.receive()[0] != CONFIGURED:
            sys.exit(0)
        if self.misfortune == "cannot-load":
            self.channel.failed(4, "sorry: cannot-load")
            sys.exit(4)
        if self.misfortune == "hangs-loading":
            time.sleep(1000)
        self.channel.send(LOADED, struct.pack("=16s", b""))

    def spawn(self, spawn: tuple[int, int, int], fds: list[int]) -> None:
        self.spawned += 1
        if self.misfortune == "second-worker-dies-booting" and self.spawned >= 2:
            self.misfortune = "worker-dies-booting"
        if self.misfortune == "cannot-fork":
            self.channel.failed(3, "sorry: cannot-fork", spawn[0])
        else:
            child = os.fork()
            if child == 0:
                self.fork_again(spawn, fds)
            os.waitpid(child, 0)
        for fd in fds:
            os.close(fd)

    def fork_again(self, spawn: tuple[int, int, int], fds: list[int]) -> None:
        if os.fork() == 0:
            self.channel.socket.close()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            listeners = [socket.socket(fileno=fd) for fd in fds[2 : 2 + (len(fds) - 2) // 3]]
            worker = Worker(Channel(fds[0]), listeners, spawn, self.misfortune)
            worker.scoreboard = self.scoreboard
            worker.run()
        os._exit(0)


if __name__ == "__main__":
    numbers = re.search(r"mold\((\d+), (\d+)\)", " ".join(sys.argv))
    assert numbers
    Mold(Channel(int(numbers[1])), int(numbers[2])).run()
