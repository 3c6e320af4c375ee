"""A licorne server for a test: the built command, run as a user runs it.

    with Server("app:app", "--workers", "2", cwd=tmp_path) as server:
        with server.connect() as client: ...

The command is $LICORNE_BIN, else the `licorne` beside this interpreter. Leaving the block stops the server and fails if
any process is left behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

Result = TypeVar("Result")

DEADLINE = 30.0  # seconds: a bound for what should take a moment, generous for a busy machine
MARK = "TESTED_LICORNE_MARK"  # in the environment of all processes of one server
LISTENING = re.compile(r"Listening at: (\S+) \((\d+)\)")
READY = re.compile(r"\] Ready: ")


def wait_until(condition: Callable[[], Result], what: str = "the condition", timeout: float = DEADLINE) -> Result:
    """Returns the first true value of `condition`; fails when there is none in time."""
    due = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > due:
            raise AssertionError(f"waited {timeout} s in vain for {what}")
        time.sleep(0.005)


def command() -> list[str]:
    """How to start licorne. Outside the environment it is told its interpreter: $LICORNE_PYTHON, else this one."""
    given = os.environ.get("LICORNE_BIN")
    if given:
        return [str(Path(given).absolute()), "--python", os.environ.get("LICORNE_PYTHON", sys.executable)]
    return [str(Path(sys.executable).parent / "licorne")]


def process_state(pid: int) -> str | None:
    """'R', 'S', 'Z' ...; None: no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[0]


def alive(pid: int) -> bool:
    return process_state(pid) not in (None, "Z", "X")


def children(pid: int) -> list[int]:
    """Living direct children, oldest first."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        found = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return sorted(child for child in found if alive(child))


class Server:
    """`bind`: "tcp" (a free port), "unix" (a path of its own), None: `args` say it. `program`: instead of command().
    `address_log`: where the error log goes by Python's logging."""

    def __init__(
        self,
        *args: str,
        bind: str | None = "tcp",
        cwd: str | os.PathLike[str] | None = None,
        env: dict[str, str] | None = None,
        wait: bool = True,
        program: list[str] | None = None,
        pass_fds: Sequence[socket.socket] = (),
        address_log: Path | None = None,
    ) -> None:
        self._program = program or command()
        self._folder = tempfile.TemporaryDirectory(prefix="licorne-")
        self.folder = Path(self._folder.name)
        self.args = [*args, *self._bind_arguments(bind)]
        self.cwd = cwd
        self.mark = uuid.uuid4().hex
        surroundings = {name: value for name, value in os.environ.items() if name != "LICORNE_BIN"}
        self.env = {**surroundings, **(env or {}), MARK: self.mark}
        self._wait = wait
        self._bind = bind
        self._address_log = address_log
        self._pass_fds = [passed.fileno() for passed in pass_fds]
        self._process: subprocess.Popen[bytes] | None = None
        self._first_address: str | None = None

    def _bind_arguments(self, bind: str | None) -> list[str]:
        if bind == "tcp":
            return ["--bind", "127.0.0.1:0"]
        if bind == "unix":
            return ["--bind", f"unix:{self.folder / 'licorne.sock'}"]
        return []

    # --- life

    def start(self) -> Server:
        self._first_address = None
        with open(self.folder / "err", "wb") as err, open(self.folder / "out", "wb") as out:
            self._process = subprocess.Popen(
                [*self._program, *self.args],
                cwd=self.cwd,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=self._pass_fds,
            )
        if self._wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout: float = DEADLINE) -> None:
        self.wait_log(READY, timeout)

    def wait_exit(self, timeout: float = DEADLINE) -> int:
        """The exit code; negative: died by that signal."""
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server did not end within {timeout} s; its log:\n{self.log}") from None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    @property
    def exited(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def stop(self, number: int = signal.SIGTERM, timeout: float = DEADLINE) -> int:
        """Signals the master unless it has ended, waits, and returns its exit code."""
        if not self.exited:
            self.send_signal(number)
        return self.wait_exit(timeout)

    def kill_all(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def assert_nothing_left(self, timeout: float = DEADLINE) -> None:
        wait_until(lambda: not self.processes(), f"the end of {self.processes()}; the log:\n{self.log}", timeout)

    def __enter__(self) -> Server:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.stop()
                self.assert_nothing_left()
            else:
                sys.stderr.write(f"--- log of the server\n{self.log}")
        finally:
            self.close()

    def close(self) -> None:
        self.kill_all()
        self._folder.cleanup()

    # --- what it says

    @property
    def log(self) -> str:
        return (self.folder / "err").read_text(errors="replace")

    @property
    def output(self) -> str:
        return (self.folder / "out").read_text(errors="replace")

    def wait_log(
        self, pattern: str | re.Pattern[str], timeout: float = DEADLINE, count: int = 1
    ) -> list[re.Match[str]]:
        """Waits until the log has `count` matches; returns all there are."""
        compiled = re.compile(pattern)

        def matches() -> list[re.Match[str]] | None:
            found = list(compiled.finditer(self.log))
            if len(found) >= count:
                return found
            if self._process is not None and self._process.poll() is not None:
                found = list(compiled.finditer(self.log))
                if len(found) < count:
                    code = self._process.returncode
                    raise AssertionError(f"the server ended with {code} before it logged {pattern!r}:\n{self.log}")
            return None

        try:
            return wait_until(matches, f"{count} x {compiled.pattern!r} in the log", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n--- log of the server\n{self.log}") from None

    # --- where it listens

    @property
    def addresses(self) -> list[str]:
        """As in the log: http://127.0.0.1:43211, unix:/path."""
        there = self._address_log is not None and self._address_log.exists()
        text = self._address_log.read_text() if self._address_log and there else self.log
        return [match.group(1) for match in LISTENING.finditer(text)]

    @property
    def address(self) -> tuple[str, int] | str:
        """The first one, as socket.connect() takes it: (host, port) or a path."""
        if self._first_address is None and self._bind == "unix":
            return str(self.folder / "licorne.sock")
        if self._first_address is None:  # else the whole log would be read again for each connection
            self._first_address = self.addresses[0]
        first = self._first_address
        if first.startswith("unix:"):
            return first.removeprefix("unix:")
        host, _, port = first.removeprefix("http://").rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def port(self) -> int:
        assert not isinstance(self.address, str)
        return self.address[1]

    @property
    def url(self) -> str:
        """http://host:port; for a unix socket a host name that the client maps itself."""
        return "http://localhost" if isinstance(self.address, str) else str(self._first_address)

    def connect(self, timeout: float = DEADLINE) -> socket.socket:
        address = self.address
        if isinstance(address, str):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(timeout)
            client.connect(address)
            return client
        return socket.create_connection(address, timeout)

    # --- its processes

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def processes(self) -> list[int]:
        """All living processes that carry this server's mark, the master included."""
        mark = f"{MARK}={self.mark}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0") and alive(int(folder.name)):
                    found.append(int(folder.name))
            except OSError:
                continue
        return sorted(found)

    def workers(self) -> list[int]:
        """The living workers' pids, oldest first: what the log says was booted and is still there."""
        booted = [int(match.group(1)) for match in re.finditer(r"Booting worker with pid: (\d+)", self.log)]
        return [pid for pid in booted if alive(pid)]
