"""Drives ../generator/generator.c: what it prints is explained there."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import machine

SOURCES = [machine.BENCH / "generator" / name for name in ("generator.c", "response.c")]


class Failed(Exception):
    """The generator could not do its work: the server is gone, or never answered."""


@dataclass
class Said:
    """What the generator counted, and what the server spent meanwhile."""

    counts: dict[str, Any]
    spent: Any

    @property
    def responses(self) -> int:
        return self.counts["responses"]

    @property
    def errors(self) -> int:
        return sum(self.counts["errors"].values())

    @property
    def share(self) -> float:
        """Of a CPU that the generator used: near 1, it was the slower of the two."""
        return self.counts["cpu_seconds"] / max(self.counts["seconds"], 1e-9)

    def latency_us(self, name: str) -> float:
        return self.counts["latency_us"][name]


@contextmanager
def written(*contents: bytes) -> Iterator[list[str]]:
    """Files with these contents, for as long as the generator takes to read them."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        paths = []
        for number, content in enumerate(contents):
            paths.append(os.path.join(folder, str(number)))
            Path(paths[-1]).write_bytes(content)
        yield paths


def run(
    port: int,
    request: bytes,
    body: bytes,
    options: list[str],
    read: Callable[[], Any],
    while_ready: Callable[[], Any] = lambda: None,
) -> Said:
    """`read` is called when all is ready, and after the last answer; what it returned last, less what it returned
    first, is what was spent. `while_ready` is called before the run."""
    program = machine.binary("generator", SOURCES, "-lm")
    with written(request, body) as (request_file, body_file):
        command = ["taskset", "-c", machine.load_cpu(), str(program), "--port", str(port), "--request", request_file]
        process = subprocess.Popen(
            [*command, "--expect", body_file, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            if process.stdout.readline() != "ready\n":
                raise Failed(process.stderr.read().strip() or "the generator ended")
            while_ready()
            before = read()
            process.stdin.write("\n")
            process.stdin.flush()
            text = process.stdout.readline()
            spent = read() - before
            if not text:
                raise Failed(process.stderr.read().strip() or "the generator ended")
        finally:
            process.kill()
            process.communicate()
    return Said(json.loads(text), spent)
