"""What a request costs in instructions: counted by callgrind, compared with tests/instructions.json, so that a hot path
cannot become slower unnoticed. A change that is meant: bench/instructions.py --update.

The figures hold for one build of the interpreter and one compiler. Where there are none for those in use, they are only
shown: `pytest -rs`."""

from __future__ import annotations

import os
import warnings

import pytest

from support import instructions
from support.instructions import ROWS, Callgrind

TOLERANCE = 0.02

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(instructions.missing() is not None, reason=str(instructions.missing())),
    pytest.mark.skipif("LICORNE_BIN" in os.environ, reason="not the build that the figures are of"),
]


@pytest.mark.parametrize("app", dict.fromkeys(row.app for row in ROWS.values()))
def test_a_request_takes_no_more_instructions_than_before(app):
    names = [name for name, row in ROWS.items() if row.app == app]
    with Callgrind(app) as callgrind:
        counted = {name: callgrind.count(ROWS[name].exchange) for name in names}
    known = instructions.known()
    if not known:
        pytest.skip(f"no figures for {instructions.environment()}: {counted}")
    for name, count in counted.items():
        assert count <= known[name] * (1 + TOLERANCE), (
            f"{name}: {count} instructions instead of {known[name]}. "
            f"Where they go: bench/instructions.py {name} --profile. If it is meant: bench/instructions.py --update"
        )
        if count < known[name] * (1 - TOLERANCE):
            warnings.warn(
                f"{name}: {count} instead of {known[name]}: bench/instructions.py --update keeps it", stacklevel=1
            )
