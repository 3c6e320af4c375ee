"""The bench itself: its statistics, its comparison of results, what its generator sees, and one short run of it all."""

from __future__ import annotations

import html.parser
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.server import command

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))

from harness import figures, generator, loads, report, servers, table  # noqa: E402

# --- statistics -------------------------------------------------------------------------------------------------------


def test_quartiles_hold_the_middle_half() -> None:
    assert figures.quartiles([5, 1, 4, 2, 3]) == (2, 4)
    assert figures.quartiles([7]) == (7, 7)
    assert figures.quartiles([3, 9]) == (3, 9)


def test_ratios_are_taken_round_by_round() -> None:
    assert figures.ratios([10, 30], [5, 10]) == [2, 3]
    assert figures.ratios([10, 30, 50], [5, float("nan"), 0]) == [2]


@pytest.mark.parametrize(
    ("before", "after", "beyond"),
    [
        ([10, 10.1, 10.2, 9.9, 10], [11, 11.1, 11.2, 10.9, 11], True),
        ([10, 10.1, 10.2, 9.9, 10], [9, 9.1, 9.2, 8.9, 9], True),
        ([10, 10], [20, 20], False),  # what the spread is, nobody knows
        ([10, 12, 8, 11, 9], [11, 13, 9, 12, 10], False),  # apart, but within the spread
        ([10, 10, 10, 10, 10], [10.1, 10.1, 10.1, 10.1, 10.1], False),  # beyond the spread, but within the tolerance
    ],
)
def test_a_change_is_beyond_noise_when_the_middle_halves_are_apart(
    before: list[float], after: list[float], beyond: bool
) -> None:
    assert figures.change(before, after, 0.02).beyond_noise is beyond


def test_goals_follow_the_machine_and_the_peers() -> None:
    medians = {"yardstick": 5.0, "alone": 40.0, "granian": 60.0, "bjoern": 8.0, "licorne": 6.0, "licorne_threads": 1.0}
    limits = {
        figures.at_most(11): 22.0,
        figures.over("yardstick", 2.0): 9.0,
        figures.times("granian", 0.5): 30.0,
        figures.share("granian", 0.45): 49.0,
        figures.ahead_of_all(): 8.0,  # neither ours nor references are peers
        figures.all_of(figures.ahead_of_all(), figures.exactly(7)): 7.0,
        figures.times("absent", 1): None,
    }
    for goal, limit in limits.items():
        assert goal.limit(medians, 2.0) == limit, goal.text


# --- two results ------------------------------------------------------------------------------------------------------


def result(**samples: list[float]) -> dict[str, Any]:
    row = {
        "name": "hello/asgi",
        "text": "The smallest.",
        "measure": "cpu",
        "per": "request",
        "main": "cpu_us",
        "metrics": {
            "cpu_us": {"licorne": samples["licorne"], "yardstick": samples["pace"], "<peer>": [30.0] * 5},
            "pace_us": {"yardstick": samples["pace"]},
        },
        "failed": {"socketify": "wrong <answers>"},
        "errors": {},
        "notes": [],
        "speed": 1.0,
        "goal": {"text": "<= yardstick + 2", "limit": 7.0},
    }
    about = {"date": "today", "cpu": "one", "cpus": 2, "kernel": "6", "python": "3", "commit": "0"}
    about |= {"rounds": 5, "seconds": 1}
    return {"format": 1, "about": about, "versions": {"licorne": "licorne 1"}, "rows": [row]}


STEADY = [7.0, 7.1, 6.9, 7.0, 7.05]
PACE = [5.0, 5.05, 4.95, 5.0, 5.02]


def compare(folder: Path, before: dict[str, Any], after: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    for name, content in (("a", before), ("b", after)):
        (folder / name).write_text(json.dumps(content))
    run = [sys.executable, str(BENCH / "compare"), str(folder / "a"), str(folder / "b")]
    return subprocess.run(run, capture_output=True, text=True, timeout=60)


def test_compare_finds_a_regression_and_says_where(tmp_path: Path) -> None:
    done = compare(tmp_path, result(licorne=STEADY, pace=PACE), result(licorne=[x * 1.2 for x in STEADY], pace=PACE))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "hello/asgi" in done.stdout and "REGRESSION" in done.stdout and "+20" in done.stdout


def test_compare_is_not_misled_by_a_slower_machine(tmp_path: Path) -> None:
    slower = result(licorne=[x * 1.3 for x in STEADY], pace=[x * 1.3 for x in PACE])
    done = compare(tmp_path, result(licorne=STEADY, pace=PACE), slower)
    assert done.returncode == 0 and "0 regressions" in done.stdout, done.stdout + done.stderr


def test_compare_counts_a_row_that_works_no_more(tmp_path: Path) -> None:
    broken = result(licorne=STEADY, pace=PACE)
    del broken["rows"][0]["metrics"]["cpu_us"]["licorne"]
    broken["rows"][0]["failed"]["licorne"] = "wrong answers"
    done = compare(tmp_path, result(licorne=STEADY, pace=PACE), broken)
    assert done.returncode == 1 and "FAILS NOW" in done.stdout, done.stdout + done.stderr


def test_compare_refuses_results_that_have_nothing_in_common(tmp_path: Path) -> None:
    other = result(licorne=STEADY, pace=PACE)
    other["rows"][0]["name"] = "hello/wsgi"
    assert compare(tmp_path, result(licorne=STEADY, pace=PACE), other).returncode == 2


class Elements(html.parser.HTMLParser):
    """Which there are; every one that is opened must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_a_page_that_needs_nothing_else() -> None:
    page = report.html(result(licorne=STEADY, pace=PACE))
    elements = Elements(page)
    assert not elements.open and elements.seen.count("svg") == 1 and elements.seen.count("rect") == 3
    assert "wrong &lt;answers&gt;" in page and "http" not in page and "<script" not in page
    assert "7; goal 7 (<= yardstick + 2): met" == table.verdict(result(licorne=[7.0], pace=PACE)["rows"][0])


# --- loads and servers ------------------------------------------------------------------------------------------------


def test_every_load_names_an_application_that_is_there() -> None:
    for row in loads.find_rows([]):
        module, _, attribute = row.app.partition(":")
        text = (BENCH / "apps" / f"{module}.py").read_text()
        assert attribute in text and row.text, row.name
        assert set(row.load.goals) <= set(row.load.apps), row.name
        assert all(name in servers.peer_names() for names in row.load.peers.values() for name in names), row.name


def test_every_server_from_elsewhere_is_pinned() -> None:
    for name in servers.peer_names():
        peer = servers.load_peer(name)
        assert peer.KINDS <= {"asgi", "wsgi"} and peer.__doc__, name
        assert all("==" in requirement for requirement in peer.REQUIREMENTS), name


# --- the generator ----------------------------------------------------------------------------------------------------

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@contextmanager
def answering(answer: Callable[[int], bytes | None]) -> Iterator[int]:
    """A server whose every answer is a function of its number; None closes. Yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    numbers = iter(range(10**9))

    def serve(client: socket.socket) -> None:
        with client:
            while client.recv(65536):
                bytes_ = answer(next(numbers))
                if bytes_ is None:
                    return
                client.sendall(bytes_)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=[client], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def generate(port: int, *options: str, body: bytes = b"hello") -> dict[str, Any]:
    return generator.run(port, loads.get("/"), body, list(options), lambda: 0).counts


def errors(counts: dict[str, Any]) -> dict[str, int]:
    return {kind: count for kind, count in counts["errors"].items() if count}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 5\r\n\r\nhello", "status"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhell", "length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhullo", "body"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, and more", "malformed"),
        (b"something else entirely\r\n\r\n", "malformed"),
        (None, "closed"),
    ],
)
def test_the_generator_sees_each_wrong_answer(answer: bytes | None, kind: str) -> None:
    """One of many is wrong, and neither the first nor the last."""
    with answering(lambda number: answer if number == 8 else GOOD) as port:
        counts = generate(port, "--connections", "2", "--seconds", "0.6")
    assert errors(counts) == {kind: 1}, counts
    assert counts["responses"] > 8


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\ncontent-length:5\r\nConnection: close\r\n\r\nhello",
    ],
)
def test_the_generator_reads_every_framing(answer: bytes) -> None:
    closes = b"close" in answer
    with answering(lambda number: answer) as port:
        counts = generate(port, "--connections", "2", "--seconds", "0.05")
    assert not errors(counts) and counts["responses"] > 2, counts
    assert (counts["opened"] > 2) is closes


def test_pipelined_answers_are_counted_each() -> None:
    with answering(lambda number: GOOD * 16) as port:
        counts = generate(port, "--connections", "1", "--seconds", "0.05", "--pipeline", "16")
    assert not errors(counts) and counts["responses"] % 16 == 0 and counts["responses"] > 0, counts


def test_who_waits_for_a_server_that_pauses_is_counted() -> None:
    """Coordinated omission: the pause delays all requests that fell due meanwhile, not the one that met it."""

    def pausing(number: int) -> bytes:
        if number == 1:
            time.sleep(1)
        return GOOD

    with answering(pausing) as port:
        counts = generate(port, "--connections", "1", "--seconds", "1.5", "--rate", "200")
    assert not errors(counts), counts
    assert 200 < counts["responses"] < 400, counts
    assert counts["latency_us"]["p90"] > 500_000 and counts["latency_us"]["p50"] > 100_000, counts


# --- all of it --------------------------------------------------------------------------------------------------------


def test_a_short_run(tmp_path: Path) -> None:
    out, page = tmp_path / "result.json", tmp_path / "report.html"
    licorne = os.path.dirname(command()[0])
    run = [sys.executable, str(BENCH / "run.py"), "hello/asgi/1", "post/wsgi", "--servers", "yardstick,licorne"]
    run += ["--rounds", "2", "--seconds", "0.15", "--json", str(out), "--report", str(page), "--licorne", licorne]
    done = subprocess.run(run, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads(out.read_text())
    assert [row["name"] for row in measured["rows"]] == ["hello/asgi", "post/wsgi"]
    for row in measured["rows"]:
        assert not row["failed"] and not row["errors"], row
        samples = row["metrics"]["cpu_us"]
        assert len(samples["licorne"]) == len(samples["yardstick"]) == len(row["metrics"]["pace_us"]["yardstick"]) == 2
        assert min(samples["licorne"]) > min(samples["yardstick"]) > 0
        assert row["goal"]["limit"] > 0 and "licorne: " in done.stdout
    assert str(BENCH.parent) not in out.read_text()
    assert Elements(page.read_text()).seen.count("svg") == 2
