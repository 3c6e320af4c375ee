"""Figures: medians and their spread, goals, and whether two runs differ by more than noise.

What is measured is a list of samples, one a round; the rounds of all servers of a row belong together. A host drifts by
a third within an hour, so costs are compared as ratios within a round, never across.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

NORMAL_HELLO_US = 5.5  # of the yardstick, where absolute goals hold
SAMPLES_TO_JUDGE = 3


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def quartiles(samples: Sequence[float]) -> tuple[float, float]:
    """Where the middle half lies. Of one sample, or two: all of them."""
    if len(samples) < 3:
        return min(samples), max(samples)
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, high


def spread(samples: Sequence[float]) -> float:
    low, high = quartiles(samples)
    return high - low


def ratios(samples: Sequence[float], others: Sequence[float]) -> list[float]:
    """Round by round. A round that one of them lacks (nan) is left out."""
    return [a / b for a, b in zip(samples, others, strict=False) if b > 0 and math.isfinite(a) and math.isfinite(b)]


def present(samples: Sequence[float]) -> list[float]:
    return [sample for sample in samples if math.isfinite(sample)]


# --- goals ------------------------------------------------------------------------------------------------------------

References = ("yardstick", "nginx", "alone", "bare")  # what is no server for applications


@dataclass(frozen=True)
class Goal:
    """An upper limit for licorne, from the medians of the row and the speed of this machine (1: the normal one).
    None: what it refers to was not measured."""

    text: str
    limit: Callable[[dict[str, float], float], float | None]


def at_most(us: float) -> Goal:
    return Goal(f"<= {us:g}, scaled", lambda medians, speed: us * speed)


def exactly(value: float) -> Goal:
    """A limit that does not depend on how fast the machine is."""
    return Goal(f"<= {value:g}", lambda medians, speed: value)


def over(name: str, us: float) -> Goal:
    return Goal(f"<= {name} + {us:g}", lambda medians, speed: medians[name] + us * speed if name in medians else None)


def times(name: str, factor: float, plus: float = 0) -> Goal:
    text = f"<= {factor:g} x {name}" + (f" + {plus:g}" if plus else "")
    return Goal(text, lambda medians, speed: medians[name] * factor + plus if name in medians else None)


def ahead_of(*names: str) -> Goal:
    def limit(medians: dict[str, float], speed: float) -> float | None:
        return min((medians[name] for name in names if name in medians), default=None)

    return Goal(f"< {' and '.join(names)}", limit)


def ahead_of_all() -> Goal:
    def limit(medians: dict[str, float], speed: float) -> float | None:
        peers = [value for name, value in medians.items() if is_peer(name)]
        return min(peers, default=None)

    return Goal("< every peer", limit)


def all_of(*goals: Goal) -> Goal:
    def limit(medians: dict[str, float], speed: float) -> float | None:
        return min((x for goal in goals if (x := goal.limit(medians, speed)) is not None), default=None)

    return Goal(", ".join(goal.text for goal in goals), limit)


def share(name: str, factor: float) -> Goal:
    """The server's share, what it adds to the application alone, against that of another."""

    def limit(medians: dict[str, float], speed: float) -> float | None:
        if name not in medians or "alone" not in medians:
            return None
        return medians["alone"] + factor * (medians[name] - medians["alone"])

    return Goal(f"<= alone + {factor:g} x ({name} - alone)", limit)


def is_peer(name: str) -> bool:
    return not name.startswith("licorne") and name not in References


# --- two runs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    before: float
    after: float
    factor: float
    beyond_noise: bool


def change(before: Sequence[float], after: Sequence[float], least: float = 0.02) -> Change:
    """Beyond noise: the middle halves do not touch, and the medians are more than `least` apart. With fewer than three
    samples, nobody knows what noise is."""
    (low_a, high_a), (low_b, high_b) = quartiles(before), quartiles(after)
    a, b = median(before), median(after)
    factor = b / a if a else (1.0 if b == a else math.inf)
    apart = low_b > high_a or low_a > high_b
    known = min(len(before), len(after)) >= SAMPLES_TO_JUDGE
    return Change(a, b, factor, known and apart and abs(factor - 1) > least)
