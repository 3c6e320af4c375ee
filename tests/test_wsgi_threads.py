"""threads > 1: how many run at a time, and that none of them stops the others or the loop."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.raw_client import RawClient
from support.server import wait_until
from support.wsgi_probe import Probe, probe_server

THREADS = 4

pytestmark = pytest.mark.sanitized


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    with probe_server(THREADS) as probe:
        yield probe


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def block(probe: Probe, gate: Path, count: int) -> list[tuple[RawClient, str]]:
    """So many requests that block until the gate is there."""
    blocked = []
    for _ in range(count):
        client, token = probe.connect(), probe.token()
        client.request("GET", f"/blocked/{token}?gate={gate}")
        blocked.append((client, token))
    return blocked


def unblock(blocked: list[tuple[RawClient, str]], gate: Path) -> None:
    gate.touch()
    for client, _ in blocked:
        assert client.response().body == b"went on"
        client.close()


@pytest.mark.smoke
def test_one_that_blocks_does_not_stop_the_others(probe: Probe, gate: Path) -> None:
    blocked = block(probe, gate, 1)
    probe.wait_report(blocked[0][1], "blocks")
    with probe.connect() as client:
        for _ in range(50):
            assert client.ask("GET", "/hello").status == 200
    unblock(blocked, gate)


def test_as_many_run_at_a_time_as_there_are_threads(probe: Probe, gate: Path) -> None:
    blocked = block(probe, gate, THREADS + 3)
    reached = [token for _, token in blocked]
    wait_until(lambda: sum(bool(probe.reports(token)) for token in reached) == THREADS, "all threads to be busy")
    with probe.connect() as waiting:
        waiting.request("GET", "/hello")
        # The loop goes on: it answers what needs no thread, and takes new connections.
        with probe.connect() as client:
            client.send(b"GET / HTTP/9.9\r\nHost: t\r\n\r\n")
            assert client.response().status == 505
        assert sum(bool(probe.reports(token)) for token in reached) == THREADS
        unblock(blocked, gate)
        assert waiting.response().status == 200
    assert probe.get("/most").body == b"%d" % THREADS


def test_the_requests_of_one_turn_are_run_side_by_side(probe: Probe, gate: Path) -> None:
    """Several come in one batch and all block: the second must not wait for the first."""
    blocked = block(probe, gate, THREADS)
    for _, token in blocked:
        probe.wait_report(token, "blocks")
    unblock(blocked, gate)


def test_threads_are_real(probe: Probe) -> None:
    names, uses = set(), 0
    with probe.connect() as client:
        for _ in range(20):
            facts = json.loads(client.ask("GET", "/thread").body)
            assert facts["class"] == "Thread"
            assert facts["known"] and facts["ident"]
            names.add(facts["name"])
            uses = max(uses, facts["uses"])
    assert all(name.startswith("licorne-wsgi-") for name in names)
    assert len(names) <= THREADS + 1
    assert uses > 1  # thread locals last


def test_clients_that_do_not_read_hold_no_thread_for_a_complete_response(probe: Probe) -> None:
    slow = [probe.connect() for _ in range(THREADS * 2)]
    for client in slow:
        client.request("GET", "/big/x?size=20000000&blocks=1&as=list")
    for client in slow:
        client.head()
    assert probe.get("/hello").status == 200
    for client in slow:
        assert len(client.exactly(20000000)) == 20000000
        client.close()


def test_many_clients_at_once(probe: Probe) -> None:
    """Short and longer requests mixed: the lead changes hands all the time."""
    failures: list[str] = []

    def use(number: int) -> None:
        try:
            with probe.connect() as client:
                for i in range(60):
                    name = ["hello", "short-sleep?seconds=0.003", "short-sleep?seconds=0.0005"][(number + i) % 3]
                    assert client.ask("GET", f"/{name}").status == 200
                    assert client.ask("POST", "/echo", body=b"%d" % i * 1000).body == b"%d" % i * 1000
        except Exception as error:
            failures.append(repr(error))

    users = [threading.Thread(target=use, args=(number,)) for number in range(16)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert failures == []


def test_no_wake_ups_when_idle(probe: Probe) -> None:
    """The guard sleeps when nothing runs."""
    (worker,) = probe.server.workers()

    def switches() -> int:
        total = 0
        for task in Path(f"/proc/{worker}/task").iterdir():
            text = (task / "status").read_text()
            total += sum(int(line.split()[1]) for line in text.splitlines() if "voluntary_ctxt_switches" in line)
        return total

    assert probe.get("/hello").status == 200

    def is_quiet() -> bool:
        before = switches()
        threading.Event().wait(0.3)
        return switches() - before <= 3  # the loop's coarse timer

    wait_until(is_quiet, "the worker to be quiet")


def test_requests_in_flight_are_finished_at_the_end(gate: Path) -> None:
    with probe_server(THREADS) as probe:
        blocked = block(probe, gate, 2)
        for _, token in blocked:
            probe.wait_report(token, "blocks")
        probe.server.send_signal(signal.SIGTERM)
        probe.server.wait_log("SIGTERM")
        unblock(blocked, gate)
        assert probe.server.wait_exit() == 0


def test_a_thread_that_never_ends_does_not_keep_the_server(gate: Path) -> None:
    with probe_server(THREADS, "--graceful-timeout", "0.5") as probe:
        blocked = block(probe, gate, 2)
        for _, token in blocked:
            probe.wait_report(token, "blocks")
        assert probe.server.stop() == 0
        assert [client.rest() for client, _ in blocked] == [b"", b""]


def test_threads_with_one_thread_to_spare(gate: Path) -> None:
    """threads = 2: the smallest number that has a leader."""
    with probe_server(2) as probe:
        blocked = block(probe, gate, 1)
        probe.wait_report(blocked[0][1], "blocks")
        assert probe.get("/hello").status == 200
        unblock(blocked, gate)


@pytest.mark.parametrize("threads", [1, THREADS])
def test_a_signal_handler_of_the_application_runs_at_once(threads: int) -> None:
    """Also while no request is there that would run Python code."""
    with probe_server(threads, app="wsgi_signal:app") as probe:
        assert probe.get("/").body == b"waits"
        (worker,) = probe.server.workers()
        for count in (1, 2):
            os.kill(worker, signal.SIGALRM)
            probe.server.wait_log("handled SIGALRM", count=count)
        assert probe.get("/").body == b"waits"
