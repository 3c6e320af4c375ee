"""The UTF-8 validator of WebSocket texts and CPython's decoder agree on every text, and on whether it could go on."""

from __future__ import annotations

import codecs
import itertools
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EDGES = bytes.fromhex("00 41 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 e1 ec ed ee ef f0 f1 f3 f4 f5 ff")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = os.environ.get("CC", "cc").split()
    if shutil.which(compiler[0]) is None:
        pytest.skip("no C compiler")
    program = str(tmp_path_factory.mktemp("utf8") / "judge")
    sources = ["tests/fuzz/utf8_judge.c", "server/http/ws_frame.c"]
    subprocess.run([*compiler, "-O2", "-I", str(ROOT), "-o", program, *sources], cwd=ROOT, check=True)
    return program


def texts() -> Iterator[bytes]:
    yield b""
    for first in range(256):
        yield bytes([first])
        for second in range(256):
            yield bytes([first, second])
    yield from map(bytes, itertools.product(EDGES[4:], repeat=3))
    yield from map(bytes, itertools.product(EDGES[-7:], EDGES[2:11], EDGES[2:11], EDGES[2:11]))
    source = random.Random(1)
    for _ in range(20_000):  # characters of every length, some bytes of them changed
        points = [source.choice((0x41, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF)) for _ in range(12)]
        text = bytearray("".join(map(chr, points)).encode())
        for _ in range(source.randrange(3)):
            text[source.randrange(len(text))] = source.choice(EDGES)
        yield bytes(text[: source.randrange(len(text) + 1)])


def expected(text: bytes) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(text)
    except UnicodeDecodeError:
        return "0"
    pending = decoder.getstate()[0]
    if (
        pending[:1] == b"\xed" and pending[1:2] >= b"\xa0"
    ):  # half a surrogate: CPython waits for the rest before it refuses
        return "0"
    return "+" if pending else "1"


def test_agrees_with_cpython(judge: str) -> None:
    rows = list(texts())
    given = b"".join(bytes([len(text)]) + text for text in rows)
    verdicts = subprocess.run([judge], input=given, capture_output=True, check=True).stdout.decode()
    assert len(verdicts) == len(rows) > 90_000
    wrong = [(text, found) for text, found in zip(rows, verdicts, strict=True) if found != expected(text)]
    assert wrong == []
