"""Clients that keep asking and look at every answer: a process of its own, driven from a test or a benchmark.

    with Loader(server.address, kept=8, fresh=2, streams=1, rate=300) as loader:
        loader.wait_good(100)
        server.send_signal(signal.SIGHUP)
        loader.wait_version("2")
        report = loader.stop()
    assert report.failures == []

`kept` clients use a connection for many requests, `fresh` ones a new one for each, `streams` read answers that take
`stream_seconds`. What they ask is served by tests/apps/tokens.py: an answer is good when its status is 200, its framing
and length are right, and its body is, byte for byte, the one that this request's token makes. All else is a failure of
exactly one kind:

    refused     connect() was refused
    unconnected connect() took longer than `limit`
    reset_new   the connection ended before the first byte of the first answer on it
    reset_kept  the same on a connection that had served before
    truncated   it ended in the middle of an answer
    wrong       the answer is not the one to this request, or bytes came that nobody asked for
    refusal     503 with Retry-After and nothing else: the master's answer while no worker is ready
    status      another status
    late        the answer took longer than `limit`

A kept connection that the server closes between two answers is no failure; they are counted in `closed_idle`.

One epoll loop: some 10 000 requests a second and process are possible, so `rate` (requests a second, all clients but
the streams together; 0: no pause) is what bounds it.
"""

from __future__ import annotations

import collections
import errno
import hashlib
import json
import os
import random
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

SUPPORT = Path(__file__).resolve().parent
KEPT_REQUESTS = 200  # a kept connection is used about as often
MOST_FAILURES = 1000  # so many of a kind are reported one by one; all are counted
SLICE = 0.05  # seconds: good answers are counted by slices of time


# --- what the other side sees -----------------------------------------------------------------------------------------


@dataclass
class Phase:
    """What happened between two calls of Loader.phase()."""

    good: int = 0
    failures: dict[str, int] = field(default_factory=dict)  # kind -> how many
    closed_idle: int = 0
    longest_gap: float = 0.0  # seconds without a good answer
    seconds: float = 0.0


@dataclass
class Failure:
    kind: str
    phase: str
    detail: str
    token: str
    began: float  # time.monotonic(), as all times: the same clock for all processes
    ended: float
    pid: int  # the worker that gave the last answer on this connection; 0: none
    number: int  # requests on this connection before this one

    def __str__(self) -> str:
        took = self.ended - self.began
        return f"{self.kind} [{self.phase}] {self.token} #{self.number} after {took:.3f} s: {self.detail}"


@dataclass
class Report:
    phases: dict[str, Phase]
    failures: list[Failure]
    versions: dict[str, int]  # version -> good answers
    streak: tuple[str, int]  # the version of the last answers, and how many of them in a row have it
    pids: dict[int, float]  # worker -> when its first answer came
    in_flight: int
    connections: int
    slices: list[int]  # good answers in each SLICE since `began`
    began: float
    took: list[float] = field(default_factory=list)  # seconds, of the last good answers that are no streams

    @property
    def good(self) -> int:
        return sum(phase.good for phase in self.phases.values())

    @property
    def failed(self) -> int:
        return sum(sum(phase.failures.values()) for phase in self.phases.values())

    @property
    def closed_idle(self) -> int:
        return sum(phase.closed_idle for phase in self.phases.values())

    def count(self, *kinds: str) -> int:
        return sum(phase.failures.get(kind, 0) for phase in self.phases.values() for kind in kinds)


def report_from(data: dict[str, Any]) -> Report:
    data["phases"] = {name: Phase(**phase) for name, phase in data["phases"].items()}
    data["pids"] = {int(pid): at for pid, at in data["pids"].items()}
    data["failures"] = [Failure(**failure) for failure in data["failures"]]
    return Report(**data)


class Loader:
    def __init__(self, address: tuple[str, int] | str, **options: Any) -> None:
        """Options: those of Clients."""
        self._arguments = json.dumps({"address": address, **options})
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Loader:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loader", self._arguments],
            cwd=SUPPORT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def _ask(self, *words: str) -> Report:
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, "the loader has died"
        return report_from(json.loads(line))

    def report(self) -> Report:
        return self._ask("report")

    def phase(self, name: str) -> Report:
        """What happens from now on is counted under this name; a name may come again."""
        return self._ask("phase", name)

    def last_call(self) -> Report:
        """The server is going to end: a client that is refused gives up, and so does one whose kept connection is
        closed; both are counted."""
        return self._ask("last_call")

    def stop(self) -> Report:
        """Nothing new is asked, who is idle leaves; returns when all that was asked is answered."""
        return self._ask("stop")

    def wait(self, condition: Any, what: str, timeout: float = 60.0) -> Report:
        due = time.monotonic() + timeout
        while True:
            report = self.report()
            if condition(report):
                return report
            assert time.monotonic() < due, f"waited {timeout} s in vain for {what}: {report}"
            time.sleep(0.02)

    def wait_good(self, count: int, timeout: float = 60.0) -> Report:
        """So many more good answers."""
        before = self.report().good
        return self.wait(lambda report: report.good >= before + count, f"{count} good answers", timeout)

    def wait_version(self, version: str, timeout: float = 60.0) -> Report:
        """Until the last 30 answers have come from this version of the code."""
        return self.wait(lambda report: report.streak[0] == version and report.streak[1] >= 30, version, timeout)


def merged(reports: list[Report]) -> Report:
    """What several loaders saw. Of the gaps the shortest: longer was none for all of them together."""
    phases: dict[str, Phase] = {}
    for name in {name: None for report in reports for name in report.phases}:
        parts = [report.phases[name] for report in reports if name in report.phases]
        failures: collections.Counter[str] = collections.Counter()
        for part in parts:
            failures.update(part.failures)
        phases[name] = Phase(
            sum(part.good for part in parts),
            dict(failures),
            sum(part.closed_idle for part in parts),
            min(part.longest_gap for part in parts),
            max(part.seconds for part in parts),
        )
    versions: collections.Counter[str] = collections.Counter()
    for report in reports:
        versions.update(report.versions)
    same = len({report.streak[0] for report in reports}) == 1
    return Report(
        phases=phases,
        failures=[failure for report in reports for failure in report.failures],
        versions=dict(versions),
        streak=(reports[0].streak[0], min(report.streak[1] for report in reports)) if same else ("", 0),
        pids={pid: at for report in reports for pid, at in report.pids.items()},
        in_flight=sum(report.in_flight for report in reports),
        connections=sum(report.connections for report in reports),
        slices=[],
        began=min(report.began for report in reports),
    )


class Loaders(Loader):
    """Several processes as one."""

    def __init__(self, address: tuple[str, int] | str, count: int, **options: Any) -> None:
        self._loaders = [Loader(address, **{**options, "seed": seed + 1}) for seed in range(count)]

    def __enter__(self) -> Loaders:
        for loader in self._loaders:
            loader.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for loader in self._loaders:
            loader.__exit__(*error)

    def _ask(self, *words: str) -> Report:
        return merged([loader._ask(*words) for loader in self._loaders])


# --- the process: requests --------------------------------------------------------------------------------------------


def head(method: str, path: str, *fields: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: loader", *fields, "", ""]).encode()


class Request:
    """One request and the answer it must have: `tail` is what follows the first line of the body."""

    __slots__ = ("began", "bytes", "closes", "stream", "tail", "token")

    def __init__(self, token: str, data: bytes, tail: bytes, closes: bool, stream: bool = False) -> None:
        self.token, self.bytes, self.tail, self.closes, self.stream = token, data, tail, closes, stream
        self.began = 0.0


def payload(token: str, size: int) -> bytes:
    return (token.encode() * (size // len(token) + 1))[:size]


def make_post(token: str, size: int, closing: list[str], chance: random.Random) -> Request:
    body = payload(token, size)
    if chance.random() < 0.5:
        data = head("POST", f"/post/{token}", f"Content-Length: {size}", *closing) + body
    else:
        cut = chance.randrange(size)
        framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:cut], body[cut:]) if piece)
        data = head("POST", f"/post/{token}", "Transfer-Encoding: chunked", *closing) + framed + b"0\r\n\r\n"
    return Request(token, data, hashlib.sha1(body).hexdigest().encode(), bool(closing))


def make_request(token: str, closes: bool, chance: random.Random) -> Request:
    """Mostly small answers; some large ones, some bodies, some that take a moment."""
    closing = ["Connection: close"] if closes else []
    dice = chance.random()
    if dice < 0.03:
        return make_post(token, chance.randrange(1, 20_000), closing, chance)
    if dice < 0.05:
        return Request(token, head("GET", f"/sleep/{token}/0.02", *closing), b"", closes)
    size = chance.randrange(100_000) if dice < 0.07 else chance.randrange(200)
    return Request(token, head("GET", f"/echo/{token}/{size}", *closing), payload(token, size), closes)


def make_stream(token: str, seconds: float) -> Request:
    count = 20
    tail = b"".join(f"{token} part {number}\n".encode() for number in range(count))
    return Request(token, head("GET", f"/stream/{token}/{count}/{seconds / count:.3f}"), tail, False, stream=True)


# --- the process: answers ---------------------------------------------------------------------------------------------


class WrongAnswer(Exception):
    def __init__(self, kind: str, detail: str) -> None:
        self.kind, self.detail = kind, detail


@dataclass
class Answer:
    version: str
    pid: int
    closes: bool


def unchunked(data: bytes) -> bytes | None:
    """The body; None: not all of it is there."""
    body, at = [], 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(data[at:end], 16)
        if len(data) < end + 2 + size + 2:
            return None
        if data[end + 2 + size : end + 4 + size] != b"\r\n":
            raise WrongAnswer("wrong", "a chunk does not end where it says")
        at = end + 4 + size
        if size == 0:
            if len(data) > at:
                raise WrongAnswer("wrong", f"bytes behind the answer: {data[at : at + 100]!r}")
            return b"".join(body)
        body.append(data[end + 2 : end + 2 + size])


def check_status(lines: list[str], fields: dict[str, str]) -> None:
    if lines[0].startswith("HTTP/1.1 503 ") and "retry-after" in fields:
        raise WrongAnswer("refusal", lines[0])
    if not lines[0].startswith("HTTP/1.1 200 "):
        raise WrongAnswer("status", lines[0])


def body_of(fields: dict[str, str], data: bytes) -> bytes | None:
    """The body; None: not all of it is there."""
    if fields.get("transfer-encoding") == "chunked":
        return unchunked(data) if data.endswith(b"0\r\n\r\n") else None
    length = int(fields["content-length"])
    if len(data) > length:
        raise WrongAnswer("wrong", f"{len(data) - length} bytes too many: {data[length : length + 100]!r}")
    return data if len(data) == length else None


def parse(request: Request, data: bytes) -> Answer | None:
    """Looks at all that has come. None: more must come."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    lines = data[:end].decode("latin-1").split("\r\n")
    fields = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip()
    check_status(lines, fields)
    body = body_of(fields, data[end + 4 :])
    if body is None:
        return None
    first, _, tail = body.partition(b"\n")
    token, version, pid = first.decode().split(" ")
    if token != request.token or tail != request.tail:
        raise WrongAnswer("wrong", f"the answer to {token}, {len(tail)} bytes where {len(request.tail)} are right")
    if not request.stream and fields["x-digest"] != hashlib.sha1(body).hexdigest():
        raise WrongAnswer("wrong", "the digest is that of another answer")
    return Answer(version, int(pid), fields.get("connection") == "close")


# --- the process: clients ---------------------------------------------------------------------------------------------

UNCONNECTED, CONNECTING, IDLE, ASKING = range(4)


class Client:
    """Has one connection at a time, or none."""

    __slots__ = ("fd", "left", "number", "pid", "received", "request", "role", "sent", "sock", "state")

    def __init__(self, role: str) -> None:
        self.role = role
        self.state = UNCONNECTED
        self.sock: socket.socket | None = None
        self.fd = -1
        self.request: Request | None = None
        self.received = b""
        self.sent = 0
        self.number = 0  # answers on this connection
        self.left = 0  # how many more this connection will be used for
        self.pid = 0


class Clients:
    def __init__(
        self,
        address: Any,
        kept: int = 8,
        fresh: int = 2,
        streams: int = 0,
        rate: float = 300,
        stream_seconds: float = 2.0,
        limit: float = 30.0,
        kept_requests: int = KEPT_REQUESTS,
        only_small: bool = False,
        seed: int = 1,
    ) -> None:
        self.address = address if isinstance(address, str) else tuple(address)
        self.rate, self.limit, self.stream_seconds, self.only_small = rate, limit, stream_seconds, only_small
        self.kept_requests = kept_requests
        self.random = random.Random(seed)
        self.seed = seed
        self.poll = select.epoll()
        self.by_fd: dict[int, Client] = {}
        roles = {"kept": kept, "fresh": fresh, "stream": streams}
        self.all = [Client(role) for role, count in roles.items() for _ in range(count)]
        self.waiting = collections.deque(client for client in self.all if client.role != "stream")
        self.waiting_streams = collections.deque(client for client in self.all if client.role == "stream")
        self.busy: dict[Client, None] = {}  # in the order in which they began
        self.began = self.last_good = self.phase_began = self.noted = time.monotonic()
        self.asked = self.tokens = 0
        self.stopping = self.last_call = False
        self.phases: dict[str, Phase] = {}
        self.phase = self.enter_phase("start")
        self.failures: list[Failure] = []
        self.kinds: collections.Counter[str] = collections.Counter()
        self.versions: collections.Counter[str] = collections.Counter()
        self.pids: dict[int, float] = {}
        self.streak: tuple[str, int] = ("", 0)
        self.slices: list[int] = []
        self.took: collections.deque[float] = collections.deque(maxlen=20_000)

    # --- telling

    def enter_phase(self, name: str) -> Phase:
        self.note_time()
        self.phase_began = time.monotonic()
        self.phase_name = name
        self.phase = self.phases.setdefault(name, Phase())
        return self.phase

    def note_time(self) -> None:
        now = time.monotonic()
        if self.phases:
            self.phase.seconds += now - self.noted
        self.noted = now

    def tell(self) -> str:
        self.note_time()
        return json.dumps(
            {
                "phases": {name: vars(phase) for name, phase in self.phases.items()},
                "failures": [vars(failure) for failure in self.failures],
                "versions": self.versions,
                "streak": self.streak,
                "pids": self.pids,
                "in_flight": len(self.busy),
                "connections": len(self.by_fd),
                "slices": self.slices,
                "began": self.began,
                "took": list(self.took) if self.stopping else [],
            }
        )

    def note_gap(self, now: float) -> None:
        if self.stopping or self.last_call:
            return
        self.phase.longest_gap = max(self.phase.longest_gap, now - max(self.last_good, self.phase_began))

    def good(self, client: Client, answer: Answer) -> None:
        now = time.monotonic()
        assert client.request is not None
        self.note_gap(now)
        self.last_good = now
        self.phase.good += 1
        self.versions[answer.version] += 1
        self.pids.setdefault(answer.pid, now)
        self.streak = (answer.version, self.streak[1] + 1 if self.streak[0] == answer.version else 1)
        at = int((now - self.began) / SLICE)
        self.slices.extend([0] * (at + 1 - len(self.slices)))
        self.slices[at] += 1
        if not client.request.stream:
            self.took.append(now - client.request.began)

    def failed(self, client: Client, kind: str, detail: str) -> None:
        request = client.request
        self.phase.failures[kind] = self.phase.failures.get(kind, 0) + 1
        now = time.monotonic()
        self.kinds[kind] += 1
        if self.kinds[kind] <= MOST_FAILURES:
            token, began = (request.token, request.began) if request else ("-", now)
            failure = Failure(kind, self.phase_name, detail, token, began, now, client.pid, client.number)
            self.failures.append(failure)
        idle = client.state == IDLE  # it is waiting already
        self.disconnect(client)
        if not idle:
            self.finish(client)
        if self.last_call and kind in ("refused", "reset_kept"):
            self.retire(client)

    # --- a request's way

    def ask(self, client: Client) -> None:
        self.tokens += 1
        token = f"t{self.seed}-{self.tokens}"
        if client.role == "stream":
            client.request = make_stream(token, self.stream_seconds)
        else:
            closes = client.role == "fresh" and self.random.random() < 0.5  # else it is the client who closes
            size = self.random.randrange(200)
            client.request = (
                Request(token, head("GET", f"/echo/{token}/{size}"), payload(token, size), False)
                if self.only_small
                else make_request(token, closes, self.random)
            )
        client.request.began = time.monotonic()
        client.sent, client.received = 0, b""
        self.busy[client] = None
        if client.state == UNCONNECTED:
            self.connect(client)
        else:
            client.state = ASKING
            self.send(client)

    def connect(self, client: Client) -> None:
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        client.sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        client.fd = client.sock.fileno()
        client.number, client.pid = 0, 0
        client.left = max(1, round(self.random.expovariate(1 / self.kept_requests))) if client.role == "kept" else 1
        client.state = CONNECTING
        self.by_fd[client.fd] = client
        error = client.sock.connect_ex(self.address)
        if error in (0, errno.EINPROGRESS):
            self.poll.register(client.fd, select.EPOLLIN | select.EPOLLOUT)
        else:
            self.failed(client, "refused", os.strerror(error))

    def connected(self, client: Client) -> None:
        assert client.sock is not None
        error = client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error == errno.ECONNREFUSED:
            self.failed(client, "refused", os.strerror(error))
        elif error:
            self.failed(client, "reset_new", f"connect: {os.strerror(error)}")
        else:
            client.state = ASKING
            self.send(client)

    def send(self, client: Client) -> None:
        assert client.sock is not None and client.request is not None
        data = client.request.bytes
        try:
            client.sent += client.sock.send(data[client.sent :])
        except BlockingIOError:
            pass
        except OSError as error:  # what the server said before it closed may still be there
            self.receive(client, error)
            return
        rest = select.EPOLLOUT if client.sent < len(data) else 0
        self.poll.modify(client.fd, select.EPOLLIN | rest)

    def receive(self, client: Client, broken: OSError | None = None) -> None:
        assert client.sock is not None
        try:
            data = client.sock.recv(1 << 18)
        except BlockingIOError:
            if broken:
                self.ended(client, str(broken))
            return
        except OSError as error:
            self.ended(client, str(error))
            return
        if not data:
            self.ended(client, "the connection was closed")
        elif client.state == IDLE:
            self.failed(client, "wrong", f"nobody asked for {data[:100]!r}")
        else:
            client.received += data
            self.judge(client)

    def ended(self, client: Client, how: str) -> None:
        if client.state == IDLE:
            self.phase.closed_idle += 1
            self.disconnect(client)
            if self.last_call:
                self.retire(client)
        elif client.received:
            self.failed(client, "truncated", f"{how} after {len(client.received)} bytes")
        else:
            self.failed(client, "reset_kept" if client.number else "reset_new", how)

    def judge(self, client: Client) -> None:
        request = client.request
        assert request is not None
        try:
            answer = parse(request, client.received)
        except WrongAnswer as wrong:
            self.failed(client, wrong.kind, wrong.detail)
            return
        except (ValueError, KeyError, IndexError) as error:
            self.failed(client, "wrong", f"{error!r}: {client.received[:200]!r}")
            return
        if answer is None:
            return
        self.good(client, answer)
        client.number += 1
        client.left -= 1
        client.pid = answer.pid
        client.received = b""
        client.request = None
        if answer.closes or client.left <= 0 or self.stopping:
            self.disconnect(client)
        else:
            client.state = IDLE
        self.finish(client)

    def disconnect(self, client: Client) -> None:
        client.state = UNCONNECTED
        if client.sock is not None:
            del self.by_fd[client.fd]
            client.sock.close()
            client.sock = None

    def finish(self, client: Client) -> None:
        """It may ask again. A failure waits for its turn like all others: no spin against a dead server."""
        client.request = None
        self.busy.pop(client, None)
        (self.waiting_streams if client.role == "stream" else self.waiting).append(client)

    def retire(self, client: Client) -> None:
        """After the last call."""
        for queue in (self.waiting, self.waiting_streams):
            if client in queue:
                queue.remove(client)

    # --- the loop

    def ask_what_is_due(self, now: float) -> float:
        """Returns how long nothing is due."""
        if self.stopping:
            return 0.05
        for _ in range(len(self.waiting_streams)):
            self.ask(self.waiting_streams.popleft())
        due = int((now - self.began) * self.rate) - self.asked if self.rate else len(self.waiting)
        if due > 2 * len(self.all):  # it could not keep up: what was missed is not made good in a burst
            self.asked += due - 2 * len(self.all)
        for _ in range(min(due, len(self.waiting))):
            self.asked += 1
            self.ask(self.waiting.popleft())
        return min(0.05, 1 / self.rate) if self.rate else 0.05 if not self.waiting else 0.0

    def drop_what_is_late(self, now: float) -> None:
        """Those who wait the longest come first."""
        late = []
        for client in self.busy:
            request = client.request
            assert request is not None
            if now - request.began <= self.limit:
                break
            if not request.stream or now - request.began > self.limit + self.stream_seconds:
                late.append(client)
        for client in late:
            if client.state == CONNECTING:
                self.failed(client, "unconnected", "no answer to connect()")
            else:
                self.failed(client, "late", f"{len(client.received)} bytes have come")

    def turn(self) -> None:
        pause = self.ask_what_is_due(time.monotonic())
        for fd, events in self.poll.poll(pause):
            if fd == sys.stdin.fileno():
                self.command()
                continue
            client = self.by_fd.get(fd)
            if client is None:
                continue
            if client.state == CONNECTING:
                self.connected(client)
            elif events & ~select.EPOLLOUT:
                self.receive(client)
            else:
                self.send(client)
        self.drop_what_is_late(time.monotonic())

    def command(self) -> None:
        line = os.read(sys.stdin.fileno(), 4096).decode()
        if not line:
            sys.exit()
        word, *more = line.split()
        self.note_gap(time.monotonic())
        if word == "phase":
            self.enter_phase(more[0])
        elif word == "last_call":
            self.last_call = True
        elif word == "stop":
            self.stopping = True
            for client in self.waiting:
                self.disconnect(client)
            return  # answered when all is
        print(self.tell(), flush=True)

    def run(self) -> None:
        self.poll.register(sys.stdin.fileno(), select.EPOLLIN)
        while True:
            self.turn()
            if self.stopping and not self.busy:
                print(self.tell(), flush=True)
                sys.stdin.read()
                return


if __name__ == "__main__":
    Clients(**json.loads(sys.argv[1])).run()
