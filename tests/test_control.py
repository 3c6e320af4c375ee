"""`licorne ctl` and the control socket, from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from support.server import Server, alive, command, wait_until

APP = """
import os

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text(APP)
    return tmp_path


def ctl(*args: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **({"XDG_RUNTIME_DIR": str(folder)} if folder else {})}
    return subprocess.run([command()[0], "ctl", *args], capture_output=True, text=True, env=env, timeout=60)


def serve(folder: Path, *args: str, socket_path: Path | None = None) -> Server:
    more = ["--control-socket", str(socket_path)] if socket_path else []
    return Server("a:app", "--boot-grace", "0.1", *more, *args, cwd=folder, env={"XDG_RUNTIME_DIR": str(folder)})


def status(folder: Path) -> dict:
    answer = ctl("status", "--json", folder=folder)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def request(server: Server) -> None:
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert client.makefile().read().endswith("ok")


def test_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "licorne", "ctl", "-h"], capture_output=True, text=True, timeout=60)
    assert "usage: licorne ctl" in done.stdout + done.stderr


def test_status(folder: Path) -> None:
    with serve(folder, "--workers", "2") as server:
        request(server)
        wait_until(lambda: sum(worker["requests"] for worker in status(folder)["workers"]) == 1)
        state = status(folder)
        assert state["pid"] == server.pid
        assert state["app"] == "a:app"
        assert state["generation"] == 1
        assert state["listeners"] == server.addresses
        assert sorted(worker["pid"] for worker in state["workers"]) == sorted(server.workers())
        for worker in state["workers"]:
            assert worker["state"] == "ready"
            assert worker["rss_bytes"] > 1 << 20
            assert worker["in_flight"] == 0
        assert sum(worker["status"]["2xx"] for worker in state["workers"]) == 1
        table = ctl("status", folder=folder).stdout
        for pid in server.workers():
            assert f" {pid}  ready " in table


def test_the_socket_is_the_owners_alone_and_goes_with_the_server(folder: Path) -> None:
    path = folder / "control"
    with serve(folder, socket_path=path) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert ctl("-s", str(path), "help").stdout.startswith("status")
        server.stop()
        assert not path.exists()
        assert ctl("-s", str(path), "status").returncode == 1


def test_a_stale_socket_is_replaced(folder: Path) -> None:
    path = folder / "control"
    with serve(folder, socket_path=path) as server:
        server.stop(signal.SIGKILL)
        server.assert_nothing_left()
    assert path.is_socket()
    with serve(folder, socket_path=path) as server:
        assert ctl("-s", str(path), "status").returncode == 0


def test_a_path_that_cannot_be_had(folder: Path) -> None:
    path = str(folder / "missing" / "control")
    with Server("a:app", "--control-socket", path, cwd=folder, wait=False) as server:
        assert server.wait_exit() == 1
        assert f"Cannot make the control socket {path}" in server.log


def test_no_control_socket(folder: Path) -> None:
    with serve(folder, "--no-control-socket"):
        assert not (folder / "licorne").exists()
        answer = ctl("status", folder=folder)
        assert answer.returncode == 1
        assert "no server" in answer.stderr


def test_several_servers(folder: Path) -> None:
    with serve(folder) as first, serve(folder) as second:
        answer = ctl("status", folder=folder)
        assert answer.returncode == 1
        assert str(first.pid) in answer.stderr
        assert str(second.pid) in answer.stderr
        assert f"master {second.pid}" in ctl("-p", str(second.pid), "status", folder=folder).stdout
        first.stop(signal.SIGKILL)
        first.assert_nothing_left()
        assert f"master {second.pid}" in ctl("status", folder=folder).stdout


def test_scale(folder: Path) -> None:
    with serve(folder) as server:
        assert ctl("scale", "+1", folder=folder).stdout == "2 workers wanted\n"
        wait_until(lambda: len(server.workers()) == 2)
        assert ctl("scale", "=3", folder=folder).stdout == "3 workers wanted\n"
        wait_until(lambda: len(server.workers()) == 3)
        assert ctl("worker", "remove", "2", folder=folder).stdout == "1 workers wanted\n"
        wait_until(lambda: len(server.workers()) == 1)
        for wrong in ("-1", "=0", "3", "=", "+x", "=2000"):
            assert ctl("scale", wrong, folder=folder).returncode == 1, wrong
        assert status(folder)["workers_wanted"] == 1


def test_reload_and_reopen(folder: Path) -> None:
    log = folder / "log"
    with Server("a:app", "--error-logfile", str(log), cwd=folder, env={"XDG_RUNTIME_DIR": str(folder)}, wait=False):
        wait_until(lambda: log.exists() and "Ready: " in log.read_text())
        assert ctl("reload", folder=folder).returncode == 0
        wait_until(lambda: status(folder)["generation"] == 2)
        log.rename(folder / "old")
        assert ctl("reopen", folder=folder).returncode == 0
        wait_until(lambda: log.exists() and "Reopened" in log.read_text())
        assert ctl("shutdown", "graceful", folder=folder).returncode == 0


@pytest.mark.parametrize("how", [[], ["--now"]])
def test_stop(folder: Path, how: list[str]) -> None:
    with serve(folder) as server:
        assert ctl("stop", *how, folder=folder).returncode == 0
        assert server.wait_exit() == 0


def test_kill_replaces_first(folder: Path) -> None:
    with serve(folder) as server:
        (before,) = server.workers()
        assert ctl("worker", "kill", str(before), folder=folder).returncode == 0
        server.wait_log(f"Worker {before} has left")
        assert server.log.index("has left") > server.log.rindex("Booting worker")
        assert not alive(before)
        assert ctl("worker", "kill", "1", folder=folder).returncode == 1


def test_config(folder: Path) -> None:
    with serve(folder, "--workers", "2"):
        config = ctl("show", "config", folder=folder).stdout
        assert re.search(r"^workers +=  *2 .*--workers", config, re.MULTILINE), config


def test_dump(folder: Path) -> None:
    with serve(folder, "--workers", "2") as server:
        for pid in [*server.workers(), server.workers()[0]]:
            told = ctl("dump", str(pid), folder=folder)
            assert told.returncode == 0
            assert told.stdout.startswith(f"Worker {pid}\n")
            assert "most recent call first" in told.stdout
        assert "most recent call first" not in server.log
        assert ctl("dump", "1", folder=folder).returncode == 0
        assert ctl("dump", "77", folder=folder).returncode == 1
        request(server)
        assert len(server.workers()) == 2


def test_wrong_use(folder: Path) -> None:
    assert ctl().returncode == 2
    assert ctl("--nonsense").returncode == 2
    with serve(folder):
        answer = ctl("nonsense", folder=folder)
        assert answer.returncode == 1
        assert "no such command" in answer.stderr


def test_rude_clients_do_no_harm(folder: Path) -> None:
    path = folder / "control"
    with serve(folder, socket_path=path) as server:
        silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
        for client in silent:
            client.connect(str(path))
        assert ctl("-s", str(path), "status").returncode == 0
        for client, data in zip(silent, [b"x" * 5000, b"\0\0\n", b"\n", b"status\n" * 100], strict=False):
            try:
                client.send(data)
            except OSError:
                continue
        assert ctl("-s", str(path), "status").returncode == 0
        for client in silent:
            client.close()
        request(server)
