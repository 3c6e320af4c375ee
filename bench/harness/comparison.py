"""Two results of ours: what has changed beyond noise.

Costs are compared as multiples of what the yardstick's hello cost in the same round, and starts by their CPU time as
multiples of a bare interpreter's: the machine itself may be a third faster or slower an hour later. Memory and
latencies are compared as they are. A change counts when the middle halves of the samples do not touch and the medians
are apart by more than the tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import figures

Row = dict[str, Any]
COMPARED = ["cpu_us", "private_after_mib"]  # and the main figure of each row
FLOOR = {"cpu_ms_per_s": 0.1, "kib_a_connection": 0.1, "pss_after_mib": 0.5, "private_after_mib": 0.5}  # below: nothing


@dataclass(frozen=True)
class Line:
    row: str
    metric: str
    change: figures.Change
    scaled: bool

    @property
    def regression(self) -> bool:
        grown = self.change.after - self.change.before
        return self.change.beyond_noise and grown > (0 if self.scaled else FLOOR.get(self.metric, 0))

    @property
    def improvement(self) -> bool:
        return self.change.beyond_noise and self.change.factor < 1

    @property
    def verdict(self) -> str:
        return "REGRESSION" if self.regression else "better" if self.improvement else "same"


def compared(row: Row) -> list[str]:
    main = "cpu_ms" if row["main"] == "ms" else row["main"]
    return [*COMPARED, main] if main not in COMPARED else COMPARED


def samples_of(row: Row, metric: str, server: str) -> tuple[list[float], bool]:
    """And whether they are multiples of what says how fast the machine was."""
    metrics = row["metrics"]
    samples = metrics.get(metric, {}).get(server, [])
    paces = {"cpu_us": metrics.get("pace_us", {}).get("yardstick"), "cpu_ms": metrics.get("cpu_ms", {}).get("bare")}
    if paces.get(metric):
        return figures.ratios(samples, paces[metric]), True
    return figures.present(samples), False


def lines(before: dict[str, Any], after: dict[str, Any], server: str, tolerance: float) -> Iterator[Line]:
    old = {row["name"]: row for row in before["rows"]}
    for row in after["rows"]:
        if row["name"] not in old:
            continue
        for metric in compared(row):
            a, scaled = samples_of(old[row["name"]], metric, server)
            b, also_scaled = samples_of(row, metric, server)
            if a and b and scaled == also_scaled:
                yield Line(row["name"], metric, figures.change(a, b, tolerance), scaled)


def lost(before: dict[str, Any], after: dict[str, Any], server: str) -> list[str]:
    """Rows that had figures of the server, and have failed since."""
    failed = {row["name"]: row["failed"][server] for row in after["rows"] if server in row["failed"]}
    had = {row["name"] for row in before["rows"] if row["metrics"].get(row["main"], {}).get(server)}
    return [f"{name}: {reason}" for name, reason in failed.items() if name in had]
