"""Servers under test: the peers' environments, how each starts, and that it answers.

A peer is a file under ../peers: REQUIREMENTS (pinned; none for what is not from PyPI), KINDS (of applications), and
command(bin_dir, app, kind, port, workers). Optional: ENVIRONMENT, whose virtual environment it shares; BUSY, kinds
for which it uses CPU while nothing asks, so it is stopped while others are measured; KEEPS = False, it keeps no
connections; MAX_WORKERS; VERSION, how to ask for it; OPTIONS and more for the rows of lifecycle.py.

A *reference* has no application: it answers what the row expects by itself. Its reference(row, port, workers, folder)
returns the command, or None if it cannot.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from . import machine

BENCH, ROOT = machine.BENCH, machine.ROOT
ENVIRONMENTS = machine.BUILD / "venvs"
SITE = machine.BUILD / "site"  # what the applications import: the same for every server
APP_PINS = BENCH / "apps" / "requirements.txt"
PROBE = b"GET /ready HTTP/1.1\r\nHost: bench\r\n\r\n"
READY_S = 30


class Unavailable(Exception):
    """This server cannot be measured here; the text says why."""


# --- peers and their environments -------------------------------------------------------------------------------------


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_peer(name: str) -> ModuleType:
    path = BENCH / "peers" / f"{name}.py"
    if not path.exists():
        raise SystemExit(f"no such server: {name}; there are: {', '.join(peer_names())}")
    return load_module(path)


def peer_names() -> list[str]:
    return sorted(path.stem for path in (BENCH / "peers").glob("*.py"))


def is_reference(peer: ModuleType) -> bool:
    return hasattr(peer, "reference")


def pip_install(python: str, *arguments: str) -> None:
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Unavailable("not installed: " + (done.stderr.strip().splitlines() or ["pip failed"])[-1])


def make_environment(name: str, requirements: list[str]) -> Path:
    """A virtual environment with these, of the Python that runs this; made again when they have changed."""
    venv = ENVIRONMENTS / name
    wanted = "\n".join([sys.version, *requirements])
    stamp = venv / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"  installing {name}: {' '.join(requirements)}", file=sys.stderr)
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip_install(str(venv / "bin" / "python"), *requirements)
        stamp.write_text(wanted)
    return venv / "bin"


def make_site() -> Path:
    """The frameworks of the applications under ../apps, for every server the same."""
    stamp, wanted = SITE / "installed", sys.version + APP_PINS.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        print("  installing what the applications need", file=sys.stderr)
        shutil.rmtree(SITE, ignore_errors=True)
        pip_install(sys.executable, "--target", str(SITE), "-r", str(APP_PINS))
        stamp.write_text(wanted)
    return SITE


def peer_bin(name: str, peer: Any, licorne: str) -> str:
    """The bin directory of the peer's environment."""
    if not peer.REQUIREMENTS:
        return licorne
    return str(make_environment(getattr(peer, "ENVIRONMENT", name), peer.REQUIREMENTS))


def peer_version(peer: ModuleType, bin_dir: str) -> str:
    if hasattr(peer, "VERSION"):
        done = subprocess.run([word.format(bin=bin_dir) for word in peer.VERSION], capture_output=True, text=True)
        return (done.stdout + done.stderr).strip().splitlines()[0]
    return ", ".join(peer.REQUIREMENTS)


# --- one server -------------------------------------------------------------------------------------------------------


class Server:
    """In a process group of its own, on CPUs of its own, with a folder for what it writes."""

    def __init__(
        self,
        name: str,
        command: list[str],
        port: int,
        workers: int = 1,
        environment: dict[str, str] | None = None,
        probe: bytes = PROBE,
        busy: bool = False,
        folder: tempfile.TemporaryDirectory | None = None,
    ) -> None:
        self.name, self.port, self.busy, self._probe = name, port, busy, probe
        self.keeps = True
        self._folder = folder or tempfile.TemporaryDirectory(prefix="bench-")
        self.log_file = Path(self._folder.name) / "log"
        with open(self.log_file, "wb") as log:
            self.began = time.monotonic()
            self.process = subprocess.Popen(
                ["taskset", "-c", machine.server_cpus(workers), *command],
                cwd=BENCH / "apps",
                env={**os.environ, "PYTHONPATH": f"{BENCH / 'apps'}{os.pathsep}{SITE}", **(environment or {})},
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as s:
                s.settimeout(5)
                s.sendall(self._probe)
                return not self._probe or bool(s.recv(4096))
        except OSError:
            return False

    def _wait_ready(self) -> None:
        while not self._answers():
            said = self.last_words()
            if self.process.poll() is not None:
                raise Unavailable(f"ended with {self.process.returncode}{said}")
            if time.monotonic() > self.began + READY_S:
                raise Unavailable(f"no answer within {READY_S} s{said}")
            time.sleep(0.001)
        self.ready_after = time.monotonic() - self.began

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def last_words(self) -> str:
        """The end of its log, for a message."""
        lines = [line.strip() for line in self.log.splitlines() if line.strip()]
        return f"; it said: {lines[-1][:200]}" if lines else ""

    def _signal(self, number: signal.Signals) -> None:
        if self.busy:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def rest(self) -> None:
        """Until wake(): a server that polls without sleeping takes nothing from the others."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        self._folder.cleanup()


def start_app(
    name: str,
    app: str,
    kind: str,
    workers: int,
    licorne: str,
    environment: dict[str, str] | None = None,
    options: tuple[str, ...] = (),
) -> Server:
    """A peer with an application. `options` are names in its OPTIONS; one that it lacks is left out."""
    peer, port = load_peer(name), machine.free_port()
    if kind not in peer.KINDS:
        raise Unavailable(f"has no {kind}")
    if workers > getattr(peer, "MAX_WORKERS", workers):
        raise Unavailable("has no workers")
    command = peer.command(peer_bin(name, peer, licorne), app, kind, port, workers)
    for option in options:
        command += getattr(peer, "OPTIONS", {}).get(option, [])
    server = Server(name, command, port, workers, environment, busy=kind in getattr(peer, "BUSY", ()))
    server.keeps = getattr(peer, "KEEPS", True)
    return server


def start_reference(name: str, row: Any) -> Server:
    peer, port = load_peer(name), machine.free_port()
    folder = tempfile.TemporaryDirectory(prefix="bench-")
    try:
        command = peer.reference(row, port, row.workers, Path(folder.name))
    except FileNotFoundError as error:
        raise Unavailable(str(error)) from None
    if command is None:
        folder.cleanup()
        raise Unavailable("has no such row")
    return Server(name, command, port, row.workers, probe=b"", folder=folder)
