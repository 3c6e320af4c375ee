"""Autobahn's cases. The suite (PyPI: autobahntestsuite) needs Python 2.7; without it these are skipped:

python3 -m pip install 'virtualenv<20.22' && python3 -m virtualenv -p python2.7 wst
wst/bin/pip install autobahntestsuite==25.10.1 && export WSTEST=$PWD/wst/bin/wstest
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.server import Server

APPS = Path(__file__).parent / "apps"
WSTEST = os.environ.get("WSTEST") or shutil.which("wstest")
PROTOCOL = [f"{section}.*" for section in (1, 2, 3, 4, 5, 6, 7, 10)]

pytestmark = pytest.mark.skipif(WSTEST is None, reason="$WSTEST does not name Autobahn's wstest")


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
    subprocess.run(command, cwd=folder, check=True, timeout=timeout, capture_output=True)
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
