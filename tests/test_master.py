"""The master alone: start-up, exit codes, signals, replacing, reloading, with a fake mold and fake workers."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.server import Server, alive, command, wait_until

FAKE_MOLD = Path(__file__).parent / "support" / "fake_mold.py"


@pytest.fixture
def fake_python(tmp_path: Path) -> Path:
    """What the master runs as the interpreter: the fake mold, under this Python whatever is on PATH."""
    program = tmp_path / "fake-python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{FAKE_MOLD}" "$@"\n')
    program.chmod(0o755)
    return program


@pytest.fixture
def fake_server(tmp_path: Path, fake_python: Path) -> Callable[..., Server]:
    def make(*args: str, app: str = "fake:app", **options: object) -> Server:
        env = {"FAKE_MOLD": str(tmp_path / "misfortune")}
        args = ("--boot-grace", "0.1", *args)
        return Server(app, "--python", str(fake_python), *args, cwd=tmp_path, env=env, **options)

    return make


FakeServer = Callable[..., Server]


def ask(server: Server, path: str) -> str:
    with server.connect() as client:
        client.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        return client.makefile().read().strip()


def pids(server: Server) -> list[int]:
    return [int(match[1]) for match in server.wait_log(r"Booting worker with pid: (\d+)")]


def log_errors(server: Server) -> list[str]:
    return re.findall(r"\[ERROR\] (.*)", server.log)


# --- starting


def test_few_descriptors_are_enough(fake_server: FakeServer) -> None:
    with fake_server("--open-files", "32") as server:
        assert ask(server, "/")


def test_start_up_lines(fake_server: FakeServer) -> None:
    with fake_server("--workers", "2") as server:
        lines = [line.partition("] [INFO] ")[2] for line in server.log.splitlines()]
        assert re.fullmatch(rf"Starting licorne \d+\.\d+\.\d+ \(Python 3\.99\.0, master {server.pid}\)", lines[0])
        assert re.fullmatch(rf"Listening at: http://127\.0\.0\.1:[1-9]\d* \({server.pid}\)", lines[1])
        assert lines[2] == "Serving fake:app with 2 workers"
        assert re.fullmatch(r"Ready: 2 workers after \d+\.\d\d s", lines[-1])
        assert sorted(pids(server)) == sorted(server.workers())
        assert ask(server, "/pid") in map(str, server.workers())


def test_the_workers_are_the_masters_children(fake_server: FakeServer) -> None:
    with fake_server("--workers", "3") as server:
        for pid in server.workers():
            status = Path(f"/proc/{pid}/status").read_text()
            assert re.search(r"PPid:\t(\d+)", status)[1] == str(server.pid)


def test_unix_socket_is_unlinked_at_the_end(fake_server: FakeServer) -> None:
    with fake_server(bind="unix") as server:
        path = Path(server.address)
        assert path.is_socket()
        assert ask(server, "/pid")
        server.stop()
        assert not path.exists()


def test_stale_unix_socket_is_replaced(fake_server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "s"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.listen()
    stale.close()
    with fake_server("--bind", f"unix:{path}", bind=None) as server:
        assert ask(server, "/pid")


def test_unix_socket_of_a_living_server_is_left_alone(fake_server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with fake_server("--bind", f"unix:{path}", bind=None, wait=False) as server:
            assert server.wait_exit() == 1
            assert "another server listens there" in server.log
        assert path.is_socket()


def test_a_file_in_the_way_is_left_alone(fake_server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with fake_server("--bind", f"unix:{path}", bind=None, wait=False) as server:
        assert server.wait_exit() == 1
        assert "not a socket" in server.log
    assert path.read_text() == "data"


def test_several_addresses(fake_server: FakeServer, tmp_path: Path) -> None:
    with fake_server("--bind", "127.0.0.1:0", "--bind", f"unix:{tmp_path / 's'}", bind=None) as server:
        assert len(server.addresses) == 2
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
        assert ask(server, "/pid")


def test_port_in_use(fake_server: FakeServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with fake_server("--bind", address, bind=None, wait=False) as server:
            assert server.wait_exit() == 1
            errors = log_errors(server)
            assert len(errors) == 1
            assert f"Cannot listen on {address}: Address already in use" in errors[0]
            assert "--bind" in errors[0]


def test_inherited_descriptor_must_listen(fake_server: FakeServer) -> None:
    with fake_server("--bind", "fd://0", bind=None, wait=False) as server:
        assert server.wait_exit() == 1
        assert "Cannot listen on fd://0" in server.log


# --- which interpreter


@pytest.fixture
def lonely_program(tmp_path: Path) -> Path:
    """The executable, in a folder where no Python is beside it."""
    folder = tmp_path / "environment" / "bin"
    folder.mkdir(parents=True)
    return Path(shutil.copy(command()[0], folder))


def serves(program: Path, folder: Path, *args: str, **env: str) -> bool:
    clean = {"VIRTUAL_ENV": "", "PATH": os.environ["PATH"], **env}
    with Server("fake:app", *args, program=[str(program)], cwd=folder, env=clean, wait=False) as server:
        return "Python 3.99.0" in server.wait_log("(Python 3.99.0|Starting|ERROR)", 10)[0].string


def test_the_interpreter_beside_the_executable(lonely_program: Path, fake_python: Path, tmp_path: Path) -> None:
    (lonely_program.parent / "python3").symlink_to(fake_python)
    link = tmp_path / "link"
    link.symlink_to(lonely_program)
    assert serves(lonely_program, tmp_path, PATH="/nonexistent:/usr/bin:/bin")
    assert serves(link, tmp_path)


def test_the_interpreter_of_the_active_environment(lonely_program: Path, fake_python: Path, tmp_path: Path) -> None:
    active = tmp_path / "active"
    (active / "bin").mkdir(parents=True)
    (active / "bin" / "python").symlink_to(fake_python)
    assert serves(lonely_program, tmp_path, VIRTUAL_ENV=str(active))


def test_the_interpreter_on_path(lonely_program: Path, fake_python: Path, tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to(fake_python)
    assert serves(lonely_program, tmp_path, PATH=f"/nonexistent:{tmp_path}:/usr/bin:/bin")
    assert serves(lonely_program, tmp_path, "--python", "fake-python", PATH=f"{tmp_path}:/usr/bin:/bin")


def test_no_interpreter(lonely_program: Path, tmp_path: Path) -> None:
    env = {"VIRTUAL_ENV": "", "PATH": "/nonexistent"}
    with Server("fake:app", program=[str(lonely_program)], cwd=tmp_path, env=env, wait=False) as server:
        assert server.wait_exit() == 1
        assert "say which with --python" in server.log


# --- exit codes


@pytest.mark.parametrize(
    ("misfortune", "exit_code", "says"),
    [
        ("exits-at-once", 3, "cannot run licorne's extension"),
        ("other-version", 3, "another version"),
        ("other-package", 3, "another version (0.0.1, protocol"),
        ("bad-config", 1, "workers"),
        ("cannot-load", 4, "sorry: cannot-load"),
        ("worker-cannot-boot", 3, "sorry: worker-cannot-boot"),
        ("worker-cannot-load", 4, "sorry: worker-cannot-load"),
        ("worker-dies-booting", 3, "exited with status 7"),
    ],
)
def test_failing_start(fake_server: FakeServer, tmp_path: Path, misfortune: str, exit_code: int, says: str) -> None:
    (tmp_path / "misfortune").write_text(misfortune)
    with fake_server("--workers", "3", wait=False) as server:
        assert server.wait_exit() == exit_code
        errors = log_errors(server)
        assert says in errors[0]
        assert len(errors) == 1


@pytest.mark.parametrize("misfortune", ["hangs-loading", "worker-hangs-booting"])
def test_boot_timeout(fake_server: FakeServer, misfortune: str) -> None:
    with fake_server("--boot-timeout", "0.5", app=misfortune, wait=False) as server:
        assert server.wait_exit() == 3
        assert len(log_errors(server)) == 1
        assert "--boot-timeout" in log_errors(server)[0]


@pytest.mark.parametrize("misfortune", ["hangs-loading", "worker-hangs-booting"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_while_starting(fake_server: FakeServer, misfortune: str, number: int) -> None:
    with fake_server(app=misfortune, wait=False) as server:
        server.wait_log("Serving")
        assert server.stop(number) == 0
        server.assert_nothing_left()


@pytest.mark.parametrize(
    ("args", "exit_code", "says"),
    [
        ([], 2, "no application"),
        (["app:app", "--no-such-option"], 2, "--no-such-option"),
        (["app:app", "--workers", "many"], 1, "workers"),
        (["app:app", "--python", "/nonexistent/python"], 1, "/nonexistent/python"),
    ],
)
def test_wrong_command_line(tmp_path: Path, args: list[str], exit_code: int, says: str) -> None:
    with Server(*args, bind=None, cwd=tmp_path, wait=False) as server:
        assert server.wait_exit() == exit_code
        assert says in server.log


def test_version_and_help(tmp_path: Path) -> None:
    for option, begins in (("--version", "licorne "), ("--help", "Usage")):
        with Server(option, bind=None, cwd=tmp_path, wait=False) as server:
            assert server.wait_exit() == 0
            assert server.output.lower().startswith(begins.lower())


# --- stopping


def test_term_lets_requests_finish(fake_server: FakeServer) -> None:
    with fake_server() as server, server.connect() as client:
        client.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        ask(server, "/pid")  # served after the slow one was accepted
        assert server.stop() == 0
        assert client.makefile().read() == "slow\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_fast_stop(fake_server: FakeServer, number: int) -> None:
    with fake_server("--workers", "2") as server:
        assert server.stop(number) == 0


def test_graceful_timeout_ends_in_a_kill(fake_server: FakeServer) -> None:
    with fake_server("--graceful-timeout", "0.1") as server:
        (pid,) = server.workers()
        os.kill(pid, signal.SIGSTOP)
        assert server.stop() == 0
        assert f"Worker {pid} had not ended in time: killed" in server.log


def test_a_second_signal_ends_it_at_once(fake_server: FakeServer) -> None:
    with fake_server("--graceful-timeout", "1000") as server:
        os.kill(server.workers()[0], signal.SIGSTOP)
        server.send_signal(signal.SIGTERM)
        server.wait_log("Received SIGTERM: ")
        assert server.stop(signal.SIGINT) == 0


def test_nothing_is_left_when_the_master_is_killed(fake_server: FakeServer) -> None:
    with fake_server("--workers", "3") as server:
        assert len(server.processes()) == 5
        server.stop(signal.SIGKILL)
        server.assert_nothing_left()


def test_interrupt_of_the_whole_group(tmp_path: Path, fake_server: FakeServer) -> None:
    with fake_server("--workers", "2") as server:
        for pid in server.processes():
            with contextlib.suppress(ProcessLookupError):  # the first ones end the others
                os.kill(pid, signal.SIGINT)
        assert server.wait_exit() == 0


def test_drain_delay(fake_server: FakeServer) -> None:
    with fake_server("--drain-delay", "1") as server:
        server.send_signal(signal.SIGTERM)
        server.wait_log(r"The server stops in 1 s \(--drain-delay\)")
        assert ask(server, "/pid")
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_log("Booting worker", count=2)
        assert server.wait_exit() == 0


def test_a_second_signal_ends_the_drain_delay(fake_server: FakeServer) -> None:
    with fake_server("--drain-delay", "1000") as server:
        server.send_signal(signal.SIGTERM)
        server.wait_log("The server stops in 1000 s")
        wait_until(lambda: server.exited or server.send_signal(signal.SIGTERM), "the end")  # an echo does not count
        assert server.wait_exit() == 0


# --- replacing


@pytest.mark.parametrize(
    ("path", "says"),
    [("/exit?9", "exited with status 9"), ("/abort", "was killed by SIGABRT"), ("/exit?0", "exited with status 0")],
)
def test_a_dead_worker_is_replaced(fake_server: FakeServer, path: str, says: str) -> None:
    with fake_server() as server:
        (before,) = server.workers()
        assert ask(server, path) == ""
        (line,) = server.wait_log(rf"\[ERROR\] Worker {before} (.*)")
        assert re.search(rf"{says} at the age of \d+\.\d s; it is replaced", line[1])
        server.wait_log("Booting worker", count=2)
        assert int(ask(server, "/pid")) != before


def test_the_mold_is_made_again_when_needed(fake_server: FakeServer) -> None:
    with fake_server() as server:
        (before,) = server.workers()
        (mold,) = set(server.processes()) - {before, server.pid}
        os.kill(mold, signal.SIGKILL)
        server.wait_log(r"The mold \(pid \d+\) was killed by SIGKILL")
        assert int(ask(server, "/pid")) == before
        assert len(server.processes()) == 2
        os.kill(before, signal.SIGKILL)
        server.wait_log("Booting worker", count=2)
        assert int(ask(server, "/pid")) != before


def test_a_mold_may_die_at_any_time(fake_server: FakeServer) -> None:
    """Of either generation, at different moments of a reload: the reload fails or not, and the server serves on."""
    with fake_server("--workers", "2") as server:
        for round in range(12):
            server.send_signal(signal.SIGHUP)
            time.sleep(0.012 * round)
            for pid in set(server.processes()) - set(server.workers()) - {server.pid}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            server.wait_log(r"Reloaded: |The reload has failed", count=round + 1)
            assert ask(server, "/pid").isdigit()
        server.send_signal(signal.SIGTTIN)
        wait_until(lambda: len(server.workers()) == 3)
        server.send_signal(signal.SIGHUP)
        number = server.wait_log(r"Reloading: generation (\d+)", count=13)[-1][1]
        server.wait_log(f"Reloaded: generation {number}")
        wait_until(lambda: len(server.processes()) == 5)


def test_a_leaving_worker_serves_until_its_replacement_is_ready(fake_server: FakeServer) -> None:
    with fake_server() as server:
        before = int(ask(server, "/leave"))
        server.wait_log(rf"Worker {before} is to be replaced: asked to")
        server.wait_log(rf"Worker {before} has left")
        assert server.log.index("has left") > server.log.rindex("Booting worker")
        assert int(ask(server, "/pid")) != before


def test_crash_loop_backs_off(fake_server: FakeServer, tmp_path: Path) -> None:
    with fake_server() as server:
        (tmp_path / "misfortune").write_text("worker-dies-young")
        for pid in set(server.processes()) - {server.pid}:
            os.kill(pid, signal.SIGKILL)
        server.wait_log("the next one is started in 1 s")
        server.wait_log("the next one is started in 2 s")
        assert len(pids(server)) <= 4
        server.stop()


def test_a_mold_that_cannot_fork_is_asked_again(fake_server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "misfortune").write_text("cannot-fork")
    with fake_server(wait=False) as server:
        server.wait_log("sorry: cannot-fork", count=2)
        server.wait_log("the next one is started in 1 s")
        server.stop()


def test_a_stuck_worker_is_killed_and_replaced(fake_server: FakeServer) -> None:
    with fake_server("--timeout", "0.5") as server:
        (before,) = server.workers()
        assert ask(server, "/stuck") == ""
        server.wait_log(rf"Worker {before} was stuck in one turn for more than 0.5 s \(--timeout\): killed")
        server.wait_log("Booting worker", count=2)
        assert int(ask(server, "/pid")) != before
        assert len(log_errors(server)) == 1


def raw(server: Server, request: bytes) -> bytes:
    with server.connect() as client:
        client.sendall(request)
        return client.makefile("rb").read()


REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def test_the_master_answers_while_no_worker_is_ready(fake_server: FakeServer, tmp_path: Path) -> None:
    with fake_server("--no-worker-grace", "0.5") as server:
        served_before = server.log.count("newcomers are served again")  # after a start that took long
        (worker,) = server.workers()
        (mold,) = set(server.processes()) - {server.pid, worker}
        (tmp_path / "misfortune").write_text("cannot-fork")
        os.kill(mold, signal.SIGKILL)
        server.wait_log(r"The mold \(pid \d+\) was killed")
        os.kill(worker, signal.SIGKILL)
        server.wait_log("newcomers get 503 from the master", count=served_before + 1)
        for request in (b"GET / HTTP/1.1\r\n\r\n", b"", b"x" * 40000):
            assert raw(server, request) == REFUSAL
        silent = [server.connect() for _ in range(100)]  # more than it takes at once
        for client in silent:
            with client:
                client.shutdown(socket.SHUT_WR)
                assert client.makefile("rb").read() == REFUSAL

        (tmp_path / "misfortune").write_text("")
        (mold,) = set(server.processes()) - {server.pid}
        os.kill(mold, signal.SIGKILL)
        server.wait_log("newcomers are served again", count=served_before + 1)
        assert int(ask(server, "/pid")) in server.workers()


def test_the_master_answers_during_a_start_that_takes_long(fake_server: FakeServer) -> None:
    with fake_server("--no-worker-grace", "0.1", app="worker-hangs-booting", wait=False) as server:
        server.wait_log("newcomers get 503 from the master")
        assert raw(server, b"GET / HTTP/1.1\r\n\r\n") == REFUSAL


@contextlib.contextmanager
def turning_away(fake_server: FakeServer) -> Iterator[Server]:
    with fake_server("--no-worker-grace", "0.1", app="worker-hangs-booting", wait=False) as server:
        server.wait_log("newcomers get 503 from the master")
        yield server


def descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def test_the_master_answers_64_at_a_time(fake_server: FakeServer) -> None:
    with turning_away(fake_server) as server, contextlib.ExitStack() as stack:
        before = descriptors(server)
        clients = [stack.enter_context(server.connect()) for _ in range(70)]
        most = 0
        for client in clients:  # none of them closes: each is kept for a while, and then the next ones' turn comes
            assert client.recv(1000) == REFUSAL
            most = max(most, descriptors(server) - before)
        assert 0 < most <= 64
        wait_until(lambda: descriptors(server) == before, "the master to let go of those that stay")


def test_the_master_reads_no_more_than_it_must(fake_server: FakeServer) -> None:
    with turning_away(fake_server) as server:
        before = descriptors(server)
        with server.connect() as client, pytest.raises((BrokenPipeError, ConnectionResetError)):
            assert client.recv(1000) == REFUSAL
            while True:  # it would go on for ever
                client.sendall(bytes(65536))
        wait_until(lambda: descriptors(server) == before)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_master_does_not_spin_without_descriptors(fake_server: FakeServer) -> None:
    with turning_away(fake_server) as server, contextlib.ExitStack() as stack:
        numbers = [int(entry.name) for entry in Path(f"/proc/{server.pid}/fd").iterdir()]
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (max(numbers) + 1, hard))  # only gaps are free
        before = cpu_seconds(server.pid)
        waiting = [stack.enter_context(server.connect()) for _ in range(max(numbers) + 2)]
        time.sleep(1)  # in which it could spin
        assert cpu_seconds(server.pid) - before < 0.05
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard, hard))
        assert all(client.recv(1000) == REFUSAL for client in waiting)


def test_a_blocked_worker_counts_as_ready(fake_server: FakeServer) -> None:
    with fake_server("--no-worker-grace", "0.1") as server:
        served_before = server.log.count("newcomers get 503 from the master")
        (worker,) = server.workers()
        os.kill(worker, signal.SIGSTOP)
        with server.connect() as client:
            client.sendall(b"GET /pid HTTP/1.1\r\n\r\n")
            time.sleep(0.5)  # five times the grace: the answer must not come from the master
            os.kill(worker, signal.SIGCONT)
            assert int(client.makefile().read()) == worker
        assert server.log.count("newcomers get 503 from the master") == served_before


# --- scaling, reloading, logs


def test_ttin_and_ttou(fake_server: FakeServer) -> None:
    with fake_server() as server:
        (oldest,) = server.workers()
        server.send_signal(signal.SIGTTIN)
        wait_until(lambda: len(server.workers()) == 2)
        server.wait_log("Workers wanted: 2")
        server.send_signal(signal.SIGTTOU)
        server.wait_log(rf"Worker {oldest} has left")
        server.send_signal(signal.SIGTTOU)
        server.wait_log("Workers wanted: 1", count=2)
        assert len(server.workers()) == 1


def test_hup_exchanges_the_generation(fake_server: FakeServer) -> None:
    with fake_server("--workers", "2") as server:
        before = server.workers()
        server.send_signal(signal.SIGHUP)
        server.wait_log("Reloaded: generation 2 serves")
        wait_until(lambda: not any(map(alive, before)))
        assert ask(server, "/generation") == "2"
        wait_until(lambda: len(server.processes()) == 4)


@pytest.mark.parametrize(
    "misfortune", ["bad-config", "cannot-load", "worker-cannot-boot", "worker-dies-booting", "exits-at-once"]
)
def test_a_failed_hup_changes_nothing(fake_server: FakeServer, tmp_path: Path, misfortune: str) -> None:
    with fake_server("--workers", "2") as server:
        before = server.workers()
        wait_until(lambda: len(server.processes()) == 4)  # what the mold has forked between may not be gone yet
        processes = server.processes()
        (tmp_path / "misfortune").write_text(misfortune)
        server.send_signal(signal.SIGHUP)
        server.wait_log("The reload has failed: generation 1 serves on")
        wait_until(lambda: server.processes() == processes)
        assert server.workers() == before
        (tmp_path / "misfortune").write_text("")
        server.send_signal(signal.SIGHUP)
        server.wait_log("Reloaded: generation 3 serves")
        wait_until(lambda: ask(server, "/generation") == "3")  # the old ones may still accept until they hear of it


@pytest.mark.parametrize("misfortune", ["hangs-loading", "worker-hangs-booting", "worker-dies-young"])
def test_a_hup_that_does_not_get_ready(fake_server: FakeServer, tmp_path: Path, misfortune: str) -> None:
    with fake_server("--boot-timeout", "1", "--boot-grace", "1", "--workers", "2") as server:
        before = server.workers()
        (tmp_path / "misfortune").write_text(misfortune)
        server.send_signal(signal.SIGHUP)
        server.wait_log("The reload has failed: generation 1 serves on")
        wait_until(lambda: server.workers() == before)
        assert "Reloaded" not in server.log


@pytest.mark.parametrize("misfortune", ["other-version", "other-package"])
def test_hup_with_an_upgraded_package(fake_server: FakeServer, tmp_path: Path, misfortune: str) -> None:
    with fake_server() as server:
        (tmp_path / "misfortune").write_text(misfortune)
        server.send_signal(signal.SIGHUP)
        server.wait_log("another version .*: use USR2, which exchanges the executable too")
        server.wait_log("The reload has failed: generation 1 serves on")
        assert ask(server, "/generation") == "1"


def test_boot_grace(fake_server: FakeServer) -> None:
    """A new worker that does not stay ready long enough ends the reload, although all were ready."""
    with fake_server("--boot-grace", "1000") as server:
        (before,) = server.workers()
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: len(server.workers()) == 2)
        (new,) = set(server.workers()) - {before}
        wait_until(lambda: ask(server, "/generation") == "2")
        assert alive(before)
        os.kill(new, signal.SIGKILL)
        server.wait_log("The reload has failed: generation 1 serves on")
        wait_until(lambda: server.workers() == [before])


def test_reload_step(fake_server: FakeServer) -> None:
    """One after the other: an old worker has retired before the third new one is booted."""
    with fake_server("--workers", "3", "--reload-step", "1") as server:
        before = server.workers()
        server.send_signal(signal.SIGHUP)
        server.wait_log("Reloaded: generation 2 serves")
        wait_until(lambda: not any(map(alive, before)))
        server.wait_log("has left", count=3)
        events = re.findall("Booting worker|has left", server.log)
        assert len(events) == 9
        assert events.index("has left") < [i for i, event in enumerate(events) if event == "Booting worker"][5]
        assert len(server.workers()) == 3


def test_a_rolling_reload_that_fails_half_way(fake_server: FakeServer, tmp_path: Path) -> None:
    with fake_server("--workers", "3", "--reload-step", "1") as server:
        before = server.workers()
        (tmp_path / "misfortune").write_text("second-worker-dies-booting")
        server.send_signal(signal.SIGHUP)
        server.wait_log("The reload has failed: generation 1 serves on")
        wait_until(lambda: len(server.workers()) == 3 and len(server.processes()) == 5)
        assert len(set(server.workers()) & set(before)) == 2
        assert {ask(server, "/generation") for _ in range(10)} == {"1"}


def test_hup_opens_and_closes_addresses(fake_server: FakeServer, tmp_path: Path) -> None:
    settings, first, second = tmp_path / "settings", tmp_path / "first", tmp_path / "second"
    settings.write_text(f"bind 127.0.0.1:0\nbind unix:{first}\n")
    with fake_server(bind=None) as server:
        assert ask(server, "/generation") == "1"
        settings.write_text(f"bind 127.0.0.1:0\nbind unix:{second}\n")
        server.send_signal(signal.SIGHUP)
        server.wait_log(f"Listening at: unix:{second}")
        server.wait_log(f"Not listening any more at: unix:{first}")
        server.wait_log("has left")
        assert not first.exists()
        assert ask(server, "/generation") == "2"
        assert ask_path(second, "/generation") == "2"


def test_a_failed_hup_closes_what_it_opened(fake_server: FakeServer, tmp_path: Path) -> None:
    settings, extra = tmp_path / "settings", tmp_path / "extra"
    settings.write_text("bind 127.0.0.1:0\n")
    with fake_server(bind=None) as server:
        with socket.create_server(("127.0.0.1", 0)) as other:
            settings.write_text(f"bind 127.0.0.1:0\nbind unix:{extra}\nbind 127.0.0.1:{other.getsockname()[1]}\n")
            server.send_signal(signal.SIGHUP)
            server.wait_log("Cannot listen on 127.0.0.1")
            server.wait_log("The reload has failed: generation 1 serves on")
            assert not extra.exists()
        settings.write_text(f"bind 127.0.0.1:0\nbind unix:{extra}\n")
        (tmp_path / "misfortune").write_text("cannot-load")
        server.send_signal(signal.SIGHUP)
        server.wait_log(f"Not listening any more at: unix:{extra}")
        assert not extra.exists()
        assert ask(server, "/generation") == "1"


def ask_path(path: Path, what: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(f"GET {what} HTTP/1.1\r\n\r\n".encode())
        return client.makefile().read().strip()


def test_max_worker_lifetime(fake_server: FakeServer) -> None:
    with fake_server("--max-worker-lifetime", "0.3") as server:
        (before,) = server.workers()
        server.wait_log(rf"Worker {before} is to be replaced: max_worker_lifetime: \d+\.\d s")
        server.wait_log(rf"Worker {before} has left")
        assert int(ask(server, "/pid")) != before
        assert not log_errors(server)


def test_recycle_concurrency(fake_server: FakeServer) -> None:
    """Of four that want to be replaced at once, the second has to wait until the first one's replacement is ready."""
    with fake_server("--workers", "4") as server:
        before = server.workers()
        wait_until(lambda: len(server.processes()) == 6)
        (mold,) = set(server.processes()) - {server.pid, *before}
        os.kill(mold, signal.SIGSTOP)
        asked = set()
        while len(asked) < 4:
            asked.add(int(ask(server, "/leave")))
        os.kill(mold, signal.SIGCONT)
        wait_until(lambda: not any(map(alive, before)))
        wait_until(lambda: len(server.workers()) == 4)
        server.wait_log("has left", count=4)
        events = re.findall("Booting worker|has left", server.log)[4:]
        ahead = [events[: i + 1].count("Booting worker") - events[: i + 1].count("has left") for i in range(8)]
        assert max(ahead) <= 2


def test_many_hups_are_two(fake_server: FakeServer) -> None:
    with fake_server() as server:
        for _ in range(5):
            server.send_signal(signal.SIGHUP)
        server.wait_log("Reloaded: ")
        wait_until(lambda: len(server.processes()) == 3)
        assert ask(server, "/pid")


def test_usr1_reopens_the_error_log(fake_server: FakeServer, tmp_path: Path) -> None:
    log = tmp_path / "error.log"
    with fake_server("--error-logfile", str(log), wait=False) as server:
        wait_until(lambda: log.exists() and "Ready: " in log.read_text())
        log.rename(tmp_path / "error.log.1")
        server.send_signal(signal.SIGUSR1)
        wait_until(lambda: log.exists() and "Reopened" in log.read_text())
        server.stop()
