"""The executable is exchanged (USR2): both serve, one leaves, nothing is lost; and what goes wrong harms nobody."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.server import Server, alive, children, command, wait_until

APP = """
import json, os, time

def app(environ, start_response):
    time.sleep(float(environ["QUERY_STRING"] or 0))
    names = [name for name in os.environ if name.startswith(("LICORNE_HER", "NOTIFY", "LISTEN", "WATCHDOG"))]
    body = json.dumps({"master": os.getppid(), "names": names}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text(APP)
    return tmp_path


def ask(address: tuple[str, int] | str, query: str = "") -> dict[str, object]:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(30)
        client.connect(address)
        client.sendall(f"GET /?{query} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return json.loads(body)


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().strip(b"\0 ").decode()


def served_by(address: tuple[str, int] | str, master: int) -> bool:
    """Not if it answers for its workers, as none is ready."""
    with contextlib.suppress(AssertionError):
        return ask(address)["master"] == master
    return False


def masters(address: tuple[str, int] | str) -> set[object]:
    """Who answers several requests at a time: whose worker is busy leaves the next one to others."""
    with ThreadPoolExecutor(6) as pool:
        return {answer["master"] for answer in pool.map(lambda _: ask(address, "0.05"), range(6))}


def upgrade(server: Server, count: int = 1) -> int:
    """The new master's pid, once it is ready."""
    server.send_signal(signal.SIGUSR2)
    return int(server.wait_log(r"The new master (\d+) is ready", count=count)[-1][1])


def read(path: Path) -> str:
    """Between the end of one master and the next one's taking its name there is none."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text()
    return ""


def end(server: Server, master: int, number: int = signal.SIGTERM) -> None:
    """Of one that is not the server's first process."""
    os.kill(master, number)
    wait_until(lambda: not alive(master), f"the end of {master}; the log:\n{server.log}")


def wait_for(server: Server, pattern: str) -> re.Match[str]:
    """In the log of a server whose first process has ended."""
    return wait_until(lambda: re.search(pattern, server.log), f"{pattern}\n{server.log}")


def ctl(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([command()[0], "ctl", "--socket", str(path), *words], capture_output=True, text=True)


# --- what it is for


@pytest.mark.parametrize("bind", ["tcp", "unix"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_the_old_one_leaves(folder: Path, bind: str, number: int) -> None:
    pidfile, control = folder / "pid", folder / "ctl"
    pidfile2, control2 = folder / "pid.2", folder / "ctl.2"
    args = ["--pid", str(pidfile), "--control-socket", str(control)]
    with Server("a:app", *args, bind=bind, cwd=folder) as server:
        new = upgrade(server)
        assert new in children(server.pid)
        assert pidfile.read_text() == f"{server.pid}\n"
        assert pidfile2.read_text() == f"{new}\n"
        wait_until(lambda: title(new) == "licorne: master [gen 1, 1 worker] a:app.2")
        assert f"master {new} serves beside it" in ctl(control, "status").stdout
        assert f"beside its predecessor, master {server.pid}" in ctl(control2, "status").stdout
        wait_until(lambda: masters(server.address) == {server.pid, new})

        assert server.stop(number) == 0
        wait_for(server, f"The old master {server.pid} has ended: this one has taken over")
        wait_until(lambda: read(pidfile) == f"{new}\n")
        wait_until(lambda: not pidfile2.exists() and control.exists() and not control2.exists())
        assert ask(server.address) == {"master": new, "names": []}
        wait_until(lambda: title(new) == "licorne: master [gen 1, 1 worker] a:app")

        end(server, new)
        assert not pidfile.exists()
        assert not control.exists()
        if bind == "unix":
            assert not Path(str(server.address)).exists()


def test_again_and_again(folder: Path) -> None:
    pidfile = folder / "pid"
    with Server("a:app", "--pid", str(pidfile), cwd=folder) as server:
        for _ in range(3):
            old = int(pidfile.read_text())
            os.kill(old, signal.SIGUSR2)
            wait_for(server, rf"\[{old}\] \[INFO\] The new master \d+ is ready")
            os.kill(old, signal.SIGTERM)
            wait_until(lambda old=old: read(pidfile) not in ("", f"{old}\n"))
            assert ask(server.address)["master"] == int(pidfile.read_text())
        end(server, int(pidfile.read_text()))
        server.wait_exit()


class Load:
    """One client after another on new connections; every failure is kept."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        self.address, self.failures, self.masters = address, [], set()
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(3)]

    def run(self) -> None:
        while not self.stopped.is_set():
            try:
                self.masters.add(ask(self.address, "0.01")["master"])
            except (OSError, AssertionError, ValueError) as error:
                self.failures.append(repr(error))

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()


@pytest.mark.parametrize("bind", ["tcp", "unix"])
def test_nothing_is_lost(folder: Path, bind: str) -> None:
    with Server("a:app", "--workers", "2", bind=bind, cwd=folder) as server:
        with Load(server.address) as load:
            new = upgrade(server)
            wait_until(lambda: new in load.masters)
            server.stop()
            wait_for(server, "this one has taken over")
            ask(server.address)
        assert load.failures == []
        assert load.masters == {server.pid, new}
        end(server, new)


def test_in_flight_requests_of_the_old_one_are_finished(folder: Path) -> None:
    with Server("a:app", "--workers", "1", cwd=folder) as server:
        answers = []
        client = threading.Thread(target=lambda: answers.append(ask(server.address, "1.5")["master"]))
        client.start()
        new = upgrade(server)
        server.stop()
        client.join()
        assert answers == [server.pid]
        end(server, new)


def test_pre_exec(folder: Path) -> None:
    (folder / "gunicorn.conf.py").write_text("def pre_exec(server):\n    server.log.info('before %d', server.pid)\n")
    with Server("a:app", cwd=folder) as server:
        new = upgrade(server)
        server.wait_log(f"before {server.pid}")
        server.stop()
        end(server, new)


def test_the_new_one_has_the_new_command(folder: Path) -> None:
    """The program is looked for again, under the name by which it was started: here a link that changes."""
    link = folder / "licorne"
    link.symlink_to(command()[0])
    shim = folder / "shim"
    shim.write_text(f'#!/bin/sh\nexec "{command()[0]}" "$@" --name shimmed\n')
    shim.chmod(0o755)
    python = ["--python", os.environ.get("LICORNE_PYTHON", sys.executable)]
    with Server("a:app", *python, cwd=folder, program=["./licorne"]) as server:
        link.unlink()
        link.symlink_to(shim)
        new = upgrade(server)
        (worker, *_) = [pid for pid in children(new) if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert b"shimmed" in Path(f"/proc/{worker}/cmdline").read_bytes()
        server.stop()
        end(server, new)


# --- when it goes wrong


def test_a_new_one_that_cannot_boot(folder: Path) -> None:
    pidfile = folder / "pid"
    with Server("a:app", "--pid", str(pidfile), bind="unix", cwd=folder) as server:
        (folder / "a.py").write_text("1 / 0")
        server.send_signal(signal.SIGUSR2)
        server.wait_log(r"\[ERROR\] The new master \d+ exited with status 4 before it was ready: this one serves on")
        assert pidfile.read_text() == f"{server.pid}\n"
        assert not (folder / "pid.2").exists()
        assert ask(server.address)["master"] == server.pid

        (folder / "a.py").write_text(APP)
        new = upgrade(server)
        server.stop()
        assert ask(server.address)["master"] == new
        end(server, new)


def test_a_program_that_is_gone(folder: Path) -> None:
    link = folder / "licorne"
    link.symlink_to(command()[0])
    python = ["--python", os.environ.get("LICORNE_PYTHON", sys.executable)]
    with Server("a:app", *python, cwd=folder, program=[str(link)]) as server:
        link.unlink()
        server.send_signal(signal.SIGUSR2)
        server.wait_log(f"Cannot run {link}: No such file or directory")
        server.wait_log("The new master .* this one serves on alone")
        assert ask(server.address)["master"] == server.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("bind", ["tcp", "unix"])
def test_the_new_one_leaves_again(folder: Path, number: int, bind: str) -> None:
    with Server("a:app", "--pid", str(folder / "pid"), bind=bind, cwd=folder) as server:
        with Load(server.address) as load:
            new = upgrade(server)
            wait_until(lambda: new in load.masters)
            end(server, new, number)
            server.wait_log("The new master .* this one serves on alone")
            wait_until(lambda: server.pid in masters(server.address))
        if number == signal.SIGTERM:
            assert load.failures == []
            assert not (folder / "pid.2").exists()
        assert (folder / "pid").read_text() == f"{server.pid}\n"
        assert ask(server.address)["master"] == server.pid


def test_the_old_one_is_killed(folder: Path) -> None:
    pidfile = folder / "pid"
    with Server("a:app", "--pid", str(pidfile), cwd=folder) as server:
        new = upgrade(server)
        server.send_signal(signal.SIGKILL)
        server.wait_exit()
        wait_until(lambda: read(pidfile) == f"{new}\n")
        wait_until(lambda: len(server.processes()) == 3)  # with its mold and its worker: no orphans of the old one
        assert ask(server.address)["master"] == new
        end(server, new)


def test_the_old_one_leaves_before_the_new_one_is_ready(folder: Path) -> None:
    """Newcomers wait in the backlog that both share."""
    ready = folder / "ready"
    with Server("a:app", cwd=folder) as server:
        waiting = f"import os, time\nwhile not os.path.exists({str(ready)!r}): time.sleep(0.01)\n"
        (folder / "a.py").write_text(waiting + APP)
        server.send_signal(signal.SIGUSR2)
        new = int(server.wait_log(r"A new master, process (\d+), is started")[0][1])
        server.wait_log(f"Listening at: .* \\({new}\\)")
        server.stop()
        assert f"The new master {new} is not ready yet: newcomers wait for it" in server.log
        answers = []
        client = threading.Thread(target=lambda: answers.append(ask(server.address)["master"]))
        client.start()
        ready.touch()
        client.join()
        assert answers == [new]
        end(server, new)


def test_refused(folder: Path) -> None:
    with Server("a:app", cwd=folder) as server:
        new = upgrade(server)
        server.send_signal(signal.SIGUSR2)
        server.wait_log("No new master is started: the new master is there already")
        os.kill(new, signal.SIGUSR2)
        server.wait_log("No new master is started: the old master is still there: end it first")
        server.stop()
        end(server, new)


def test_the_variable_is_not_for_users(folder: Path) -> None:
    with Server("a:app", cwd=folder, env={"LICORNE_HERITAGE": "0"}, wait=False) as server:
        assert server.wait_exit() == 1
        assert "The old master's sockets cannot be taken over (LICORNE_HERITAGE is licorne's own)" in server.log


def test_by_the_control_socket(folder: Path) -> None:
    control = folder / "ctl"
    with Server("a:app", "--control-socket", str(control), cwd=folder) as server:
        answer = ctl(control, "upgrade")
        new = int(server.wait_log(r"The new master (\d+) is ready")[0][1])
        assert answer.stdout == f"process {new} is started beside this one\n"
        assert "the new master is there already" in ctl(control, "upgrade").stderr
        server.stop()
        end(server, new)


# --- the same addresses, others


def test_another_address(folder: Path) -> None:
    config = folder / "licorne.conf.py"
    config.write_text(f'bind = ["unix:{folder}/one", "unix:{folder}/two"]')
    with Server("a:app", bind=None, cwd=folder) as server:
        config.write_text(f'bind = ["unix:{folder}/two", "unix:{folder}/three"]')
        new = upgrade(server)
        assert ask(f"{folder}/one")["master"] == server.pid
        assert ask(f"{folder}/three")["master"] == new
        server.stop()
        assert ask(f"{folder}/two")["master"] == new
        end(server, new)
        assert not (folder / "two").exists()
        assert not (folder / "three").exists()


# --- in the background, under a service manager


@contextlib.contextmanager
def daemon(folder: Path, *args: str) -> Iterator[tuple[Server, Path]]:
    """Its log goes where a server's in the foreground would, so that it can be waited for."""
    pidfile, path = folder / "pid", folder / "socket"
    server = Server(
        "a:app", "--daemon", "--pid", str(pidfile), "--bind", f"unix:{path}", *args, bind=None, cwd=folder, wait=False
    )
    server.args += ["--error-logfile", str(server.folder / "err")]
    with server:
        assert server.wait_exit() == 0
        wait_until(lambda: "] Ready: " in server.log)
        yield server, pidfile
        end(server, int(pidfile.read_text()))


def test_a_daemon(folder: Path) -> None:
    with daemon(folder) as (server, pidfile):
        old = int(pidfile.read_text())
        os.kill(old, signal.SIGUSR2)
        new = int(wait_for(server, r"The new master (\d+) is ready")[1])
        end(server, old)
        wait_until(lambda: read(pidfile) == f"{new}\n")
        assert ask(f"{folder}/socket")["master"] == new


def test_winch_of_a_daemon(folder: Path) -> None:
    """gunicorn's way: USR2, WINCH of the old one, and then either its QUIT, or HUP or TTIN to go back."""
    with daemon(folder, "--no-worker-grace", "0.1") as (server, pidfile):
        old, address = int(pidfile.read_text()), f"{folder}/socket"
        os.kill(old, signal.SIGUSR2)
        new = int(wait_for(server, r"The new master (\d+) is ready")[1])
        workers = server.workers()
        os.kill(old, signal.SIGWINCH)
        wait_until(lambda: len(server.workers()) == 1)
        time.sleep(0.2)  # more than no_worker_grace: the old master must not answer 503 where the new one serves
        assert {ask(address)["master"] for _ in range(10)} == {new}

        os.kill(old, signal.SIGTTIN)
        wait_for(server, r"Workers are started again: 1 wanted")
        wait_until(lambda: old in masters(address))
        assert set(server.workers()) - set(workers)

        os.kill(old, signal.SIGWINCH)
        wait_until(lambda: len(server.workers()) == 1)
        assert "No worker is ready" not in server.log
        end(server, new)
        wait_for(server, "The new master .* this one serves on alone")  # its workers come back by themselves
        wait_until(lambda: served_by(address, old))


def test_winch_in_the_foreground_is_a_window_that_has_changed(folder: Path) -> None:
    with Server("a:app", cwd=folder) as server:
        server.send_signal(signal.SIGWINCH)
        server.send_signal(signal.SIGUSR1)
        server.wait_log("Reopened the logs")
        assert len(server.workers()) == 1
        assert ask(server.address)["master"] == server.pid


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        receiver.settimeout(20)  # less than any time limit of the server's own
        yield receiver


def receive(manager: socket.socket) -> tuple[int, dict[str, str]]:
    """Who says what."""
    data, control, _, _ = manager.recvmsg(4096, 1000)
    pid = int.from_bytes(control[0][2][:4], sys.byteorder)
    return pid, dict(line.split("=", 1) for line in data.decode().splitlines())


def receive_main_pid(manager: socket.socket) -> tuple[int, int]:
    """Who says that who is the main process; pats of the watchdog are passed over."""
    while True:
        pid, message = receive(manager)
        if "MAINPID" in message:
            return pid, int(message["MAINPID"])
        assert "STOPPING" not in message


def test_notifications(folder: Path, manager: socket.socket) -> None:
    env = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "500000"}
    with Server("a:app", cwd=folder, env=env) as server:
        old = server.pid
        assert receive_main_pid(manager) == (old, old)
        new = upgrade(server)
        assert receive_main_pid(manager) == (old, new)
        assert receive(manager) == (new, {"WATCHDOG": "1"})
        assert ask(server.address)["names"] == []

        end(server, new)
        pid, message = receive(manager)
        while pid == new:  # STOPPING among it: of the main process that it was
            pid, message = receive(manager)
        assert (pid, message["MAINPID"], message["READY"]) == (old, str(old), "1")
        assert receive(manager) == (old, {"WATCHDOG": "1"})

        again = upgrade(server, count=2)
        assert receive_main_pid(manager) == (old, again)
        server.stop()
        wait_for(server, "this one has taken over")
        end(server, again)
        manager.setblocking(False)
        spoke = set()
        with contextlib.suppress(BlockingIOError):
            while True:
                spoke.add(receive(manager)[0])
        assert spoke == {again}


def test_sockets_of_systemd(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        code = f"""if True:
            import os, sys
            os.dup2({listener.fileno()}, 3)
            os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="web")
            os.execv(sys.argv[1], sys.argv[1:])"""
        os.set_inheritable(listener.fileno(), True)
        program = [sys.executable, "-c", code, *command()]
        other = ["--bind", "127.0.0.1:1"]
        with Server("a:app", *other, bind=None, cwd=folder, program=program, pass_fds=[listener]) as server:
            new = upgrade(server)
            server.stop()
            assert ask(address) == {"master": new, "names": []}
            os.kill(new, signal.SIGHUP)
            wait_until(lambda: "Reloaded: generation 2" in server.log)
            assert ask(address)["master"] == new
            end(server, new)
        socket.create_connection(address, 5).close()
