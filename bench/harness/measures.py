"""The measures that a load may ask for: each runs a row's servers side by side, and fills a table of samples.

Rounds are interleaved: each runs every server once, in an order that is reversed from round to round, so that a host
that drifts is felt by all. A server whose answers are wrong has no figures.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import figures, generator, loads, machine, needs, servers
from .loads import Row
from .servers import Server, Unavailable

SETTLE_S = 1.0
WARM_S = 0.3
MIN_STREAM_S = 3
TOO_FEW = 0.5  # of the events: less is an error, and more is told by their number a second
WRONG_ANSWERS = 0.001  # of all, from which on a server's figures mean nothing
BUSY_GENERATOR = 0.95  # of a CPU
LATE_US = 200


@dataclass
class Plan:
    rounds: int
    seconds: float
    licorne: str  # bin directory
    say: Callable[[str], None]


@dataclass
class Table:
    """metric -> server -> samples, one a round; why servers have none; what was noticed."""

    main: str
    metrics: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    errors: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, metric: str, server: str, value: float) -> None:
        self.metrics.setdefault(metric, {}).setdefault(server, []).append(round(value, 4))

    def fail(self, server: str, reason: str) -> None:
        self.failed[server] = reason
        for samples in self.metrics.values():
            samples.pop(server, None)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def count_errors(self, server: str, said: generator.Said) -> None:
        """Fails the server if they are many."""
        if not said.errors:
            return
        found = self.errors.setdefault(server, {"first": said.counts["first_error"]})
        for kind, count in said.counts["errors"].items():
            if count:
                found[kind] = found.get(kind, 0) + count
        if said.errors > WRONG_ANSWERS * max(said.responses, 1):
            kinds = ", ".join(f"{count} {kind}" for kind, count in found.items() if kind != "first")
            self.fail(server, f"wrong answers ({kinds}); first: {found['first'][:200]!r}")


# --- servers of a row -------------------------------------------------------------------------------------------------


def names_of(row: Row, wanted: Sequence[str]) -> list[str]:
    """In the order of the tables: references, ours, peers."""
    known = {name: servers.load_peer(name) for name in servers.peer_names()}
    chosen = [name for name, peer in known.items() if row.kind in peer.KINDS]
    if row.kind in row.load.peers:
        chosen = [name for name in chosen if name in row.load.peers[row.kind] or servers.is_reference(known[name])]
    if wanted:
        chosen = [name for name in chosen if name in wanted]
    return sorted(chosen, key=lambda name: (name != "yardstick", name != "nginx", "licorne" not in name, name))


def start(name: str, row: Row, plan: Plan, environment: dict[str, str], options: tuple[str, ...] = ()) -> Server:
    if servers.is_reference(servers.load_peer(name)):
        return servers.start_reference(name, row)
    return servers.start_app(name, row.app, row.kind, row.workers, plan.licorne, environment, options)


@contextlib.contextmanager
def needed(row: Row) -> Iterator[dict[str, str]]:
    with contextlib.ExitStack() as stack:
        environment: dict[str, str] = {}
        for name in row.load.needs:
            environment |= stack.enter_context(getattr(needs, name)())
        yield environment


@contextlib.contextmanager
def running(row: Row, names: Sequence[str], plan: Plan, table: Table) -> Iterator[list[Server]]:
    """All that start; those that poll without sleeping rest until they are measured."""
    started: list[Server] = []
    with needed(row) as environment:
        try:
            for name in names:
                plan.say(f"{row.name}: starting {name}")
                try:
                    started.append(start(name, row, plan, environment))
                    started[-1].rest()
                except Unavailable as reason:
                    if str(reason) != "has no such row":
                        table.fail(name, str(reason))
            yield started
        finally:
            for server in started:
                server.stop()


def interleaved(started: list[Server], rounds: int, table: Table) -> Iterator[tuple[int, Server]]:
    """Forwards and backwards; without those that have failed."""
    for number in range(rounds):
        for server in started if number % 2 == 0 else started[::-1]:
            if server.name not in table.failed:
                server.wake()
                try:
                    yield number, server
                finally:
                    server.rest()


def ask(server: Server, row: Row, options: list[str], table: Table) -> generator.Said | None:
    """Runs the generator; None: nothing that could be counted, and the table knows why."""
    options = options if server.keeps or "--fresh" in options else [*options, "--fresh"]
    try:
        said = generator.run(server.port, row.load.request, row.load.body, options, lambda: machine.cpu_ns(server.pid))
    except generator.Failed as error:
        ended = server.process.poll()
        table.fail(
            server.name, f"{error}{f' (it ended with {ended})' if ended is not None else ''}{server.last_words()}"
        )
        return None
    table.count_errors(server.name, said)
    if server.name in table.failed:
        return None
    if said.responses == 0:
        table.fail(server.name, "no answer at all")
        return None
    return said


# --- CPU time ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def pace(plan: Plan, table: Table) -> Iterator[Callable[[], None]]:
    """What returns measures how fast this machine is now: the yardstick's hello."""
    row = loads.hello()
    server = servers.start_reference("yardstick", row)

    def measure() -> None:
        said = ask(server, row, [*row.generator_options(min(plan.seconds, 0.5)), "--warm", "0.1"], table)
        if said:
            table.add("pace_us", "yardstick", said.spent / said.responses / 1e3)

    try:
        yield measure
    finally:
        server.stop()


def alone_us(row: Row) -> float:
    """CPU µs of the application for a request, called in a process without a server."""
    command = ["taskset", "-c", machine.server_cpus(1), sys.executable, "-m", "harness.alone", row.kind, row.app]
    environment = {"PYTHONPATH": f"{machine.BENCH}:{machine.BENCH / 'apps'}:{servers.SITE}", "PATH": "/usr/bin:/bin"}
    target = row.load.request.split()[1].decode()
    done = subprocess.run([*command, target, row.load.body.decode()], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{row.app} alone: {done.stderr}")
    return float(done.stdout)


def watch_generator(table: Table, server: Server, said: generator.Said) -> None:
    table.add("generator_share", server.name, said.share)
    if said.share > BUSY_GENERATOR:
        table.note(f"generator saturated ({said.share:.2f} of a CPU) beside {server.name}: rps is the generator's")


def cpu(row: Row, names: Sequence[str], plan: Plan) -> Table:
    """CPU µs of the process tree for a request, and memory before and after."""
    table = Table("cpu_us")
    with running(row, names, plan, table) as started, pace(plan, table) as measure_pace:
        note_memory(started, table, "idle")
        options = row.generator_options(plan.seconds * row.load.seconds)
        last = -1
        for number, server in interleaved(started, plan.rounds, table):
            plan.say(f"{row.name}: round {number + 1}/{plan.rounds}, {server.name}")
            if number != last:
                measure_pace()
                if row.kind in row.load.alone:
                    table.add("cpu_us", "alone", alone_us(row))
                last = number
            said = ask(server, row, [*options, "--warm", str(WARM_S if number == 0 else 0.05)], table)
            if said:
                table.add("cpu_us", server.name, said.spent / said.responses / 1e3)
                table.add("per_second", server.name, said.responses / said.counts["seconds"])
                table.add("p99_us", server.name, said.latency_us("p99"))
                watch_generator(table, server, said)
        note_memory([server for server in started if server.name not in table.failed], table, "after")
    return table


def note_memory(started: list[Server], table: Table, when: str) -> None:
    for server in started:
        for name, kib in machine.memory_kib(server.pid).items():
            table.add(f"{name}_{when}_mib", server.name, kib / 1024)


def streams(row: Row, names: Sequence[str], plan: Plan) -> Table:
    """CPU µs for an event of endless responses; too few events are an error."""
    table = Table("cpu_us")
    seconds = max(MIN_STREAM_S, round(plan.seconds * row.load.seconds))  # whole ones: events come once in each
    expected = row.load.connections * row.load.detail["events_per_second"] * seconds
    with running(row, names, plan, table) as started, pace(plan, table) as measure_pace:
        for number, server in interleaved(started, plan.rounds, table):
            plan.say(f"{row.name}: round {number + 1}/{plan.rounds}, {server.name}")
            if server is started[0 if number % 2 == 0 else -1]:
                measure_pace()
            said = ask(server, row, [*row.generator_options(seconds), "--timeout", "20"], table)
            if said and said.responses < TOO_FEW * expected:
                table.fail(server.name, f"{said.responses} events of {expected:.0f}")
            elif said:
                table.add("cpu_us", server.name, said.spent / said.responses / 1e3)
                table.add("per_second", server.name, said.responses / said.counts["seconds"])
                watch_generator(table, server, said)
    return table


# --- latency ----------------------------------------------------------------------------------------------------------


def latency(row: Row, names: Sequence[str], plan: Plan) -> Table:
    """Open loop, at parts of what the slowest server can do."""
    table = Table(f"p99_us@{row.load.detail['judged']}")
    with running(row, names, plan, table) as started:
        for _, server in interleaved(started, 2, table):
            plan.say(f"{row.name}: how much {server.name} can do")
            said = ask(server, row, [*row.generator_options(plan.seconds), "--warm", str(WARM_S)], table)
            if said:
                table.add("saturation", server.name, said.responses / said.counts["seconds"])
        rates = table.metrics.get("saturation", {})
        slowest = min((figures.median(rates[name]) for name in rates if name not in figures.References), default=0)
        for percent in row.load.detail["percent"]:
            rate = slowest * percent / 100
            for number, server in interleaved(started, plan.rounds, table) if rate else ():
                plan.say(f"{row.name}: {rate:.0f}/s, round {number + 1}/{plan.rounds}, {server.name}")
                options = [*row.generator_options(plan.seconds * row.load.seconds), "--rate", str(rate)]
                said = ask(server, row, [*options, "--warm", "0.05"], table)
                if said:
                    for name in ("p50", "p99", "p99.9"):
                        table.add(f"{name}_us@{percent}", server.name, said.latency_us(name))
                    table.add(f"lag_p99_us@{percent}", server.name, said.counts["lag_us"]["p99"])
                    watch_generator(table, server, said)
            note_lag(table, percent)
            table.add("rate", str(percent), rate)
    return table


def note_lag(table: Table, percent: int) -> None:
    """The generator itself was late: somebody else had its CPU, and perhaps the server's too."""
    lags = table.metrics.get(f"lag_p99_us@{percent}", {})
    worst = max((figures.median(samples) for samples in lags.values()), default=0)
    if worst > LATE_US:
        table.note(f"at {percent} % the generator was late by {worst:.0f} µs (p99): latencies tell of this machine")


# --- memory -----------------------------------------------------------------------------------------------------------


def one_by_one(
    row: Row, names: Sequence[str], plan: Plan, table: Table, rounds: int, options: tuple[str, ...] = ()
) -> Iterator[Server]:
    """Each alone on the machine, round by round; a server is stopped when the next one is asked for."""
    with needed(row) as environment:
        for number in range(rounds):
            for name in names if number % 2 == 0 else list(names)[::-1]:
                if name in table.failed:
                    continue
                plan.say(f"{row.name}: round {number + 1}/{rounds}, {name}")
                try:
                    server = start(name, row, plan, environment, options)
                except Unavailable as reason:
                    if str(reason) != "has no such row":
                        table.fail(name, str(reason))
                    continue
                try:
                    yield server
                finally:
                    server.stop()


def applications(names: Sequence[str]) -> list[str]:
    return [name for name in names if not servers.is_reference(servers.load_peer(name))]


def settle(server: Server) -> None:
    time.sleep(SETTLE_S)


def bare_mib(module: str) -> float:
    """PSS of an interpreter that has imported this and does nothing."""
    code = f"import {module}, sys; print(flush=True); sys.stdin.read()"
    path = {"PYTHONPATH": f"{machine.BENCH / 'apps'}:{servers.SITE}"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        process.stdout.readline()
        return machine.memory_kib(process.pid)["pss"] / 1024
    finally:
        process.kill()
        process.communicate()


def memory(row: Row, names: Sequence[str], plan: Plan) -> Table:
    """PSS of the process tree in MiB, idle and after requests."""
    table, rounds = Table("pss_after_mib"), min(plan.rounds, 3)
    for _ in range(rounds):
        table.add("pss_after_mib", "bare", bare_mib(row.app.split(":")[0]))
    for server in one_by_one(row, applications(names), plan, table, rounds):
        settle(server)
        note_memory([server], table, "idle")
        if ask(server, row, row.generator_options(plan.seconds), table):
            settle(server)
            note_memory([server], table, "after")
    return table


def kept(row: Row, names: Sequence[str], plan: Plan) -> Table:
    """KiB of private memory for an idle connection."""
    table = Table("kib_a_connection")
    for server in one_by_one(row, applications(names), plan, table, min(plan.rounds, 3)):
        warm = ["--connections", "64", "--seconds", str(WARM_S)]
        if not ask(server, row, warm, table):
            continue
        settle(server)
        before = machine.memory_kib(server.pid)["private"]
        found: list[int] = []

        def look(server: Server = server, found: list[int] = found) -> None:
            settle(server)
            found.append(machine.memory_kib(server.pid)["private"])

        try:
            generator.run(
                server.port, row.load.request, row.load.body, row.generator_options(0), lambda: 0, while_ready=look
            )
        except generator.Failed as error:
            table.fail(server.name, str(error))
            continue
        table.add("kib_a_connection", server.name, (found[0] - before) / row.load.connections)
    return table


def fetch(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Connection": "close"})
    body = connection.getresponse().read()
    connection.close()
    return body


def visit_all(server: Server, path: str, workers: int) -> None:
    """A request to each worker: new connections until all have answered."""
    seen: set[bytes] = set()
    for _ in range(5000):
        seen.add(fetch(server.port, path))
        if len(seen) >= workers:
            return
    raise Unavailable(f"{len(seen)} of {workers} workers answered")


def heap(row: Row, names: Sequence[str], plan: Plan) -> Table:
    """PSS of the process tree in MiB (what is shared counts once), after requests and a collection in each worker."""
    table, wanted = Table("pss_collected_mib"), row.load.detail["requests"]
    for server in one_by_one(row, applications(names), plan, table, 1, ("preload",)):
        try:
            visit_all(server, "/pid", row.workers)
            table.add("private_boot_mib", server.name, machine.memory_kib(server.pid)["private"] / 1024)
            while wanted > 0 and (said := ask(server, row, row.generator_options(1), table)):
                wanted -= said.responses
            wanted = row.load.detail["requests"]
            if server.name in table.failed:
                continue
            table.add("private_requests_mib", server.name, machine.memory_kib(server.pid)["private"] / 1024)
            visit_all(server, "/collect", row.workers)
            for name, kib in machine.memory_kib(server.pid).items():
                table.add(f"{name}_collected_mib", server.name, kib / 1024)
        except (Unavailable, OSError, http.client.HTTPException) as error:
            table.fail(server.name, str(error))
    return table


# --- doing nothing, and beginning -------------------------------------------------------------------------------------


def idle(row: Row, names: Sequence[str], plan: Plan) -> Table:
    """CPU ms and wake-ups a second of servers that nobody asks anything, all at once."""
    table, rounds = Table("cpu_ms_per_s"), min(plan.rounds, 3)
    with running(row, applications(names), plan, table) as started:
        for server in started:
            server.wake()
        time.sleep(3)
        for number in range(rounds):
            plan.say(f"{row.name}: round {number + 1}/{rounds}")
            before = {s.name: (machine.cpu_ns(s.pid), machine.wake_ups(s.pid), time.monotonic()) for s in started}
            time.sleep(plan.seconds * row.load.seconds)
            for server in started:
                cpu_ns, wakes, since = before[server.name]
                passed = time.monotonic() - since
                table.add("cpu_ms_per_s", server.name, (machine.cpu_ns(server.pid) - cpu_ns) / 1e6 / passed)
                table.add("wake_ups_per_s", server.name, (machine.wake_ups(server.pid) - wakes) / passed)
    return table


def bare_start_ms(module: str) -> float:
    path = {"PYTHONPATH": f"{machine.BENCH / 'apps'}:{servers.SITE}"}
    began = time.monotonic()
    command = ["taskset", "-c", machine.server_cpus(1), sys.executable, "-c", f"import {module}"]
    subprocess.run(command, env=path, check=True)
    return (time.monotonic() - began) * 1e3


def start_time(row: Row, names: Sequence[str], plan: Plan) -> Table:
    """ms from exec to the first answer; and CPU ms, which a busy machine does not lengthen."""
    table = Table("ms")
    module = row.app.split(":")[0]
    for _ in range(plan.rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        table.add("ms", "bare", bare_start_ms(module))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        table.add("cpu_ms", "bare", spent * 1e3)
    for server in one_by_one(row, applications(names), plan, table, plan.rounds):
        table.add("ms", server.name, server.ready_after * 1e3)
        table.add("cpu_ms", server.name, machine.cpu_ns(server.pid) / 1e6)
    return table


# --- others -----------------------------------------------------------------------------------------------------------


def websocket(row: Row, names: Sequence[str], plan: Plan) -> Table:
    """By ../ws/run.py, with its own peers and client."""
    ws = servers.load_module(machine.BENCH / "ws" / "run.py")
    table = Table("cpu_us")
    options = ["echo", "--rounds", str(plan.rounds), "--seconds", str(plan.seconds), "--licorne", plan.licorne]
    with pace(plan, table) as measure_pace:
        for _ in range(plan.rounds):
            measure_pace()
    for name, samples in ws.echo_samples(row.kind, options).items():
        for sample in samples:
            table.add("cpu_us", name, sample)
    return table


MEASURES: dict[str, Callable[[Row, Sequence[str], Plan], Table]] = {
    "cpu": cpu,
    "streams": streams,
    "latency": latency,
    "memory": memory,
    "heap": heap,
    "kept": kept,
    "idle": idle,
    "start": start_time,
    "websocket": websocket,
}


def measure(row: Row, names: Sequence[str], plan: Plan) -> dict[str, Any]:
    """A row of a result: what a report or a comparison must know, as JSON."""
    table = MEASURES[row.load.measure](row, names_of(row, names), plan)
    medians = {name: figures.median(samples) for name, samples in table.metrics.get(table.main, {}).items() if samples}
    paces = table.metrics.get("pace_us", {}).get("yardstick", [])
    speed = figures.median(paces) / figures.NORMAL_HELLO_US if paces else 1.0
    limit = row.goal.limit(medians, speed) if row.goal else None
    return {
        "name": row.name,
        "text": row.text,
        "measure": row.load.measure,
        "per": row.load.per,
        "main": table.main,
        "metrics": table.metrics,
        "failed": table.failed,
        "errors": table.errors,
        "notes": table.notes,
        "speed": round(speed, 4),
        "goal": {"text": row.goal.text, "limit": limit} if row.goal else None,
    }


def raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def dump(value: Any) -> str:
    return json.dumps(value, indent=1)
