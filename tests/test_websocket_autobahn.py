"""Autobahn's cases. scripts/autobahn installs the suite where there is a Python 2.7; $WSTEST names another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.server import Server

APPS = Path(__file__).parent / "apps"
BASE = Path(__file__).parents[1] / "build" / "autobahn"  # scripts/autobahn makes it
INSTALLED = BASE / "bin" / "wstest"
WSTEST = os.environ.get("WSTEST") or shutil.which("wstest") or (str(INSTALLED) if INSTALLED.exists() else None)
PROTOCOL = [f"{section}.*" for section in (1, 2, 3, 4, 5, 6, 7, 10)]

pytestmark = pytest.mark.skipif(WSTEST is None, reason="no Autobahn: it needs Python 2.7 (scripts/autobahn)")


def run(server: Server, folder: Path, cases: list[str], timeout: float) -> dict[str, dict[str, str]]:
    specification = {
        "outdir": str(folder / "reports"),
        "servers": [{"agent": "licorne", "url": f"ws://127.0.0.1:{server.port}/"}],
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    (folder / "spec.json").write_text(json.dumps(specification))
    assert WSTEST is not None
    command = [WSTEST, "-m", "fuzzingclient", "-s", str(folder / "spec.json")]
    env = {**os.environ, "PYTHONUSERBASE": str(BASE)}
    subprocess.run(command, cwd=folder, env=env, check=True, timeout=timeout, capture_output=True)
    return json.loads((folder / "reports" / "index.json").read_text())["licorne"]


def assert_all_strict(results: dict[str, dict[str, str]]) -> None:
    bad = {
        case: (result["behavior"], result["behaviorClose"])
        for case, result in results.items()
        if result["behavior"] not in ("OK", "INFORMATIONAL") or result["behaviorClose"] not in ("OK", "INFORMATIONAL")
    }
    assert bad == {}


def test_protocol(tmp_path: Path) -> None:
    with Server("websocket_cases:app", "--chdir", str(APPS)) as server:
        results = run(server, tmp_path, PROTOCOL, 110)
    assert len(results) == 247
    assert_all_strict(results)


@pytest.mark.soak
def test_limits_and_compression(tmp_path: Path) -> None:
    with Server("websocket_cases:app", "--chdir", str(APPS)) as server:
        results = run(server, tmp_path, ["9.*", "12.*", "13.*"], 3500)
    assert len(results) == 270
    assert_all_strict(results)


@pytest.mark.soak
@pytest.mark.parametrize("bits", [9, 15])
def test_compression_with_context_takeover(tmp_path: Path, bits: int) -> None:
    takeover = ["--ws-deflate-takeover", "--ws-deflate-window-bits", str(bits)]
    with Server("websocket_cases:app", "--chdir", str(APPS), *takeover) as server:
        results = run(server, tmp_path, ["12.1.*", "12.2.*", "13.*"], 3500)
    assert len(results) == 162
    assert_all_strict(results)
