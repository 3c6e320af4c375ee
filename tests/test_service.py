"""As a service: systemd's notifications and sockets, pidfile, daemon, process titles."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.server import MARK, Server, alive, command, wait_until

APP = """
import json, os

def app(environ, start_response):
    body = json.dumps([name for name in os.environ if name.startswith(("NOTIFY", "LISTEN", "WATCHDOG"))]).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text(APP)
    return tmp_path


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(30)
        yield receiver


def receive(manager: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())


def request(address: object) -> bytes:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(30)
        client.connect(address)
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200 ")
    return answer.partition(b"\r\n\r\n")[2]


def test_notifications(folder: Path, manager: socket.socket) -> None:
    env = {"NOTIFY_SOCKET": str(folder / "notify")}
    with Server("a:app", "--workers", "2", "--boot-grace", "0.1", cwd=folder, env=env) as server:
        ready = receive(manager)
        assert ready["READY"] == "1"
        assert ready["MAINPID"] == str(server.pid)
        assert ready["STATUS"] == "Generation 1 serves with 2 workers"
        assert json.loads(request(server.address)) == []

        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        server.send_signal(signal.SIGHUP)
        reloading = receive(manager)
        assert reloading["RELOADING"] == "1"
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert receive(manager)["STATUS"] == "Generation 2 serves with 2 workers"

        (folder / "a.py").write_text("1 / 0")
        server.send_signal(signal.SIGHUP)
        assert receive(manager)["RELOADING"] == "1"
        again = receive(manager)
        assert again["READY"] == "1"
        assert again["STATUS"] == "Generation 2 serves with 2 workers"

        server.stop()
        assert receive(manager)["STOPPING"] == "1"


def test_watchdog(folder: Path, manager: socket.socket) -> None:
    env = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "400000"}
    with Server("a:app", cwd=folder, env=env):
        seen = [receive(manager) for _ in range(6)]
        assert sum("WATCHDOG" in message for message in seen) >= 4


def test_the_watchdog_of_another_process(folder: Path, manager: socket.socket) -> None:
    env = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}
    with Server("a:app", cwd=folder, env=env) as server:
        assert receive(manager)["READY"] == "1"
        server.stop()
        assert receive(manager)["STOPPING"] == "1"


def passing(listener: socket.socket) -> list[str]:
    """Starts licorne as systemd does: the socket is descriptor 3, $LISTEN_PID the process itself."""
    code = f"""if True:
        import os, sys
        os.dup2({listener.fileno()}, 3)
        os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="web")
        os.execv(sys.argv[1], sys.argv[1:])"""
    return [sys.executable, "-c", code, *command()]


def test_sockets_of_systemd(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        path = str(folder / "out")
        code = passing(listener)
        with open(path, "wb") as log:
            server = subprocess.Popen(
                [*code, "a:app", "--bind", "127.0.0.1:1", "--boot-grace", "0.1"],
                cwd=folder,
                stderr=log,
                pass_fds=[listener.fileno()],
            )
        try:
            wait_until(lambda: "Ready: " in Path(path).read_text())
            assert json.loads(request(address)) == []
            assert f"Listening at: http://127.0.0.1:{address[1]}" in Path(path).read_text()
            server.send_signal(signal.SIGHUP)
            wait_until(lambda: "Reloaded: generation 2" in Path(path).read_text())
            request(address)
        finally:
            server.terminate()
            assert server.wait(30) == 0
        socket.create_connection(address, 5).close()  # systemd's own end still listens


def test_pidfile(folder: Path) -> None:
    path = folder / "pid"
    with Server("a:app", "--pid", str(path), cwd=folder) as server:
        assert path.read_text() == f"{server.pid}\n"
        with Server("a:app", "--pid", str(path), cwd=folder, wait=False) as second:
            assert second.wait_exit() == 1
            assert f"Already running: process {server.pid} is named by the pidfile {path}" in second.log
        assert path.read_text() == f"{server.pid}\n"
        server.stop()
        assert not path.exists()


@pytest.mark.parametrize("content", ["", "nonsense\n", "999999999\n", "another's"])
def test_stale_pidfile(folder: Path, content: str) -> None:
    path = folder / "pid"
    path.write_text(f"{os.getpid()}\n" if content == "another's" else content)
    with Server("a:app", "--pid", str(path), cwd=folder) as server:
        assert path.read_text() == f"{server.pid}\n"


def test_a_pidfile_that_cannot_be_written(folder: Path) -> None:
    path = folder / "missing" / "pid"
    with Server("a:app", "--pid", str(path), cwd=folder, wait=False) as server:
        assert server.wait_exit() == 1
        assert f"Cannot write the pidfile {path}: No such file" in server.log


def test_daemon(folder: Path) -> None:
    pidfile, log, path = folder / "pid", folder / "log", folder / "socket"
    args = ["--daemon", "--pid", str(pidfile), "--error-logfile", str(log), "--bind", f"unix:{path}"]
    with Server("a:app", *args, bind=None, cwd=folder, wait=False) as server:
        assert server.wait_exit() == 0
        wait_until(lambda: log.exists() and "Ready: " in log.read_text())
        pid = int(pidfile.read_text())
        assert os.getsid(pid) != os.getsid(0)
        assert os.readlink(f"/proc/{pid}/fd/2") == "/dev/null"
        request(str(path))
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not alive(pid))
        assert not pidfile.exists()


def test_daemon_in_the_configuration_file(folder: Path) -> None:
    pidfile, log, path = folder / "pid", folder / "log", folder / "socket"
    lines = ["daemon = True", f"pidfile = {str(pidfile)!r}", f"errorlog = {str(log)!r}", f"bind = 'unix:{path}'"]
    (folder / "gunicorn.conf.py").write_text("\n".join(lines))
    with Server("a:app", bind=None, cwd=folder, wait=False) as server:
        assert server.wait_exit() == 0
        wait_until(lambda: log.exists() and "Ready: " in log.read_text())
        pid = int(pidfile.read_text())
        assert os.getsid(pid) != os.getsid(0)
        assert os.readlink(f"/proc/{pid}/fd/0") == os.readlink(f"/proc/{pid}/fd/1") == "/dev/null"
        request(str(path))
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not alive(pid))
        assert "Starting" in log.read_text() and server.log == ""


@pytest.mark.parametrize("where", ["option", "file"])
def test_a_daemon_that_keeps_its_output(folder: Path, where: str) -> None:
    """As gunicorn: output and error stay, unless they are a terminal; input does not."""
    (folder / "a.py").write_text(APP + "print('printed', flush=True)\n")
    pidfile, path = folder / "pid", folder / "socket"
    arguments = ["--pid", str(pidfile), "--bind", f"unix:{path}"]
    if where == "option":
        arguments += ["-D", "-R"]
    else:
        (folder / "gunicorn.conf.py").write_text("daemon = True\nenable_stdio_inheritance = True\n")
    with Server("a:app", *arguments, bind=None, cwd=folder, wait=False) as server:
        assert server.wait_exit() == 0
        wait_until(lambda: "Ready: " in server.log)
        pid = int(pidfile.read_text())
        assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
        request(str(path))
        assert server.output == "printed\n"
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not alive(pid))


def test_a_daemon_leaves_its_terminal(folder: Path) -> None:
    pidfile, path = folder / "pid", folder / "socket"
    master, terminal = os.openpty()
    line = [*command(), "a:app", "-D", "-R", "--pid", str(pidfile), "--bind", f"unix:{path}"]
    subprocess.run(line, cwd=folder, stdin=terminal, stdout=terminal, stderr=terminal, check=True)
    os.close(terminal)
    wait_until(lambda: pidfile.exists() and pidfile.read_text().strip())
    pid = int(pidfile.read_text())
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)} == {"/dev/null"}
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not alive(pid))
    os.close(master)


def test_umask_of_a_unix_socket(folder: Path) -> None:
    path = folder / "socket"
    with Server("a:app", "--umask", "027", "--bind", f"unix:{path}", bind=None, cwd=folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().strip(b"\0 ").decode()


def test_titles(folder: Path) -> None:
    with Server("a:app", "--name", "shop", "--boot-grace", "0.1", cwd=folder) as server:
        (worker,) = server.workers()
        (mold,) = set(server.processes()) - {worker, server.pid}
        wait_until(lambda: title(worker) == "licorne: worker 1 [gen 1, 0 req] shop")
        assert title(mold) == "licorne: mold [shop]"
        wait_until(lambda: title(server.pid) == "licorne: master [gen 1, 1 worker] shop")
        assert f"{MARK}={server.mark}".encode() in Path(f"/proc/{server.pid}/environ").read_bytes()
        server.send_signal(signal.SIGTTIN)
        wait_until(lambda: title(server.pid) == "licorne: master [gen 1, 2 workers] shop")
        server.send_signal(signal.SIGTTOU)
        wait_until(lambda: server.workers() != [worker] and len(server.workers()) == 1)
        (worker,) = server.workers()
        with socket.create_connection(server.address) as client:
            for _ in range(1234):
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert client.recv(4096).startswith(b"HTTP/1.1 200")
        wait_until(lambda: title(worker) == "licorne: worker 2 [gen 1, 1 234 req] shop")
        server.send_signal(signal.SIGHUP)
        server.wait_log("has left", count=2)
        assert re.fullmatch(r"licorne: worker \d \[gen 2, 0 req\] shop", title(server.workers()[0]))


# --- what a reload makes of them


def test_hup_follows_pidfile_control_socket_log_and_folder(folder: Path) -> None:
    (folder / "new").mkdir()
    shutil.copy(folder / "a.py", folder / "new")
    config = folder / "licorne.conf.py"
    rows = 'boot_grace = 0.1\npidfile = "pid"\ncontrol_socket = "ctl"\nerrorlog = "log"\naccesslog = "access"\n'
    config.write_text(rows)

    def there(name: str) -> Path:
        return folder / "new" / name

    with Server("a:app", cwd=folder, wait=False) as server:
        wait_until(lambda: (folder / "log").exists() and "] Ready: " in (folder / "log").read_text())
        assert (folder / "pid").read_text() == f"{server.pid}\n"

        config.write_text(f'{rows}chdir = "missing"')
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: "The reload has failed" in (folder / "log").read_text())
        assert "Cannot change to missing: No such file or directory" in (folder / "log").read_text()
        config.write_text(f'{rows}control_socket = "missing/ctl"\npidfile = "pid2"')
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: (folder / "log").read_text().count("The reload has failed") == 2)
        assert (folder / "pid").exists() and (folder / "ctl").exists() and not (folder / "pid2").exists()

        config.write_text(f'{rows}chdir = "new"')
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: there("log").exists() and "has left at" in there("log").read_text())
        assert "Reloaded: generation 4" in there("log").read_text()
        assert there("pid").read_text() == f"{server.pid}\n"
        assert not (folder / "pid").exists()
        assert there("ctl").exists() and not (folder / "ctl").exists()
        assert os.readlink(f"/proc/{server.pid}/cwd") == str(folder / "new")
        port = int(re.findall(r"Listening at: http://127.0.0.1:(\d+)", (folder / "log").read_text())[0])
        request(("127.0.0.1", port))
        wait_until(lambda: there("access").exists() and there("access").read_text().count("GET /") == 1)
        there("log").rename(there("log.1"))
        server.send_signal(signal.SIGUSR1)
        wait_until(lambda: there("log").exists() and "Reopened" in there("log").read_text())

        config.write_text(rows.replace('"ctl"', '""').replace('"pid"', "None"))
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: "Reloaded: generation 5" in (folder / "log").read_text())
        assert not there("pid").exists() and not there("ctl").exists()


def test_hup_finds_the_folder_by_its_name(folder: Path) -> None:
    """A deployment points a link to another release."""
    for number in (1, 2):
        (folder / f"release{number}").mkdir()
        text = APP.replace("json.dumps(", f"json.dumps({number}).encode() or (")
        (folder / f"release{number}" / "a.py").write_text(text)
    current = folder / "current"
    current.symlink_to("release1")
    with Server("a:app", "--boot-grace", "0.1", cwd=current, env={"PWD": str(current)}) as server:
        assert request(server.address).startswith(b"1")
        current.unlink()
        current.symlink_to("release2")
        server.send_signal(signal.SIGHUP)
        server.wait_log("Reloaded: generation 2")
        wait_until(lambda: request(server.address).startswith(b"2"), "the new release")  # the old one is leaving
