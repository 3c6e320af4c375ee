"""Loads: what is asked, what must be answered, by how many connections. Each is a file under ../loads that sets LOAD;
its docstring is what the report says of it. A load for an application of a kind and a number of workers is a *row*."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from . import servers
from .figures import Goal

LOADS = servers.BENCH / "loads"


def get(path: str, *headers: str, close: bool = False) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: bench", *headers, *(["Connection: close"] if close else [])]
    return "\r\n".join([*lines, "", ""]).encode()


def post(path: str, length: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: bench", *headers, f"Content-Length: {length}", "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass(frozen=True)
class Load:
    apps: dict[str, str]  # kind of application -> MODULE:ATTRIBUTE under ../apps
    measure: str = "cpu"  # a function of measures.py
    request: bytes = get("/")
    body: bytes = b"Hello, World!"  # that every answer must have
    body_bytes: int = 0  # of the request, generated
    chunks: int = 0  # the answer comes in so many pieces of equal size
    connections: int = 64
    options: Sequence[str] = ()  # of the generator
    workers: Sequence[int] = (1,)
    seconds: float = 1.0  # how much longer than others a sample takes
    peers: dict[str, Sequence[str]] = field(default_factory=dict)  # kind -> those that make sense; none: all
    goals: dict[str, Goal] = field(default_factory=dict)
    yardstick: dict[str, Sequence[str]] | None = None  # kind -> its words; None: it cannot do this
    alone: Sequence[str] = ()  # kinds of which the application is measured in a process without a server, too
    needs: Sequence[str] = ()  # functions of needs.py
    per: str = "request"  # what a cost is for
    detail: dict[str, object] = field(default_factory=dict)  # for the measure


@dataclass(frozen=True)
class Row:
    load_name: str
    text: str
    load: Load
    kind: str
    workers: int

    @property
    def name(self) -> str:
        return f"{self.load_name}/{self.kind}" + (f"/{self.workers}" if self.workers > 1 else "")

    @property
    def app(self) -> str:
        return self.load.apps[self.kind]

    @property
    def goal(self) -> Goal | None:
        return self.load.goals.get(self.kind)

    @property
    def request_bytes(self) -> int:
        return len(self.load.request) + self.load.body_bytes

    def response(self) -> bytes:
        """What a server answers in full: for references, which have no application."""
        length, body = f"content-length: {len(self.load.body)}", self.load.body
        if self.load.chunks:
            size = len(body) // self.load.chunks
            pieces = [body[at : at + size] for at in range(0, len(body), size)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
            length = "transfer-encoding: chunked"
        lines = ["HTTP/1.1 200 OK", "content-type: text/plain", length, "date: Sat, 21 Nov 2026 15:41:00 GMT"]
        if b"Connection: close" in self.load.request:
            lines.append("connection: close")
        return "\r\n".join([*lines, "server: licorne", "", ""]).encode() + body

    def generator_options(self, seconds: float) -> list[str]:
        load = self.load
        options = ["--connections", str(load.connections), "--seconds", str(seconds), *load.options]
        return [*options, "--body-bytes", str(load.body_bytes)] if load.body_bytes else options


def load_names() -> list[str]:
    return sorted(path.stem for path in LOADS.glob("*.py") if "LOAD = " in path.read_text())


def read_load(name: str) -> tuple[str, Load]:
    path = LOADS / f"{name}.py"
    if not path.exists():
        raise SystemExit(f"no such load: {name}; there are: {', '.join(load_names())}")
    module = servers.load_module(path)
    return " ".join((module.__doc__ or "").split()), module.LOAD


def find_rows(wanted: Sequence[str], workers: Sequence[int] = ()) -> list[Row]:
    """LOAD, LOAD/KIND or LOAD/KIND/WORKERS; nothing: all."""
    rows = []
    for name in wanted or load_names():
        load_name, _, rest = name.partition("/")
        kind, _, number = rest.partition("/")
        text, load = read_load(load_name)
        if kind and kind not in load.apps:
            raise SystemExit(f"{load_name} has no {kind}; it has: {', '.join(load.apps)}")
        counts = [int(number)] if number else workers or load.workers
        kinds = [kind] if kind else load.apps
        rows += [Row(load_name, text, load, each, count) for each in kinds for count in counts]
    return rows


def hello() -> Row:
    """The row whose yardstick says how fast this machine is now."""
    text, load = read_load("hello")
    return Row("hello", text, replace(load, workers=(1,)), "asgi", 1)
