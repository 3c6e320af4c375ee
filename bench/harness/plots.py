"""Plots of a row as SVG that is coloured by report.css: bars for all rows, and curves of p99 by load."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from . import figures

Row = dict[str, Any]
WIDTH, NAME_WIDTH, VALUE_WIDTH, LINE = 760, 130, 130, 24
CURVE_LEFT, CURVE_RIGHT, CURVE_TOP, CURVE_BOTTOM = 60, WIDTH - 175, 12, 250
CLIPPED = 6.0  # times licorne's figure: much longer bars are cut off, and say so
DASHES = ["none", "6 3", "2 3", "8 3 2 3", "1 2", "12 4"]


def style_of(name: str) -> str:
    if name in figures.References:
        return "reference"
    return "threads" if name == "licorne_threads" else "ours" if name.startswith("licorne") else "peer"


def number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.3g}" if value else "0"


def duration(us: float) -> str:
    if us >= 1e6:
        return f"{us / 1e6:.3g} s"
    return f"{us / 1000:.3g} ms" if us >= 1000 else f"{us:.3g} µs"


class Svg:
    def __init__(self, height: float, title: str) -> None:
        self.parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">']

    def text(self, x: float, y: float, text: str, style: str = "", anchor: str = "start") -> None:
        self.parts.append(f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>')

    def path(self, style: str, path: str, dashes: str = "") -> None:
        dash = f' style="stroke-dasharray: {dashes}"' if dashes else ""
        self.parts.append(f'<path class="{style}" d="{path}"{dash}/>')

    def bar(self, style: str, y: float, width: float) -> None:
        self.parts.append(
            f'<rect class="bar {style}" x="{NAME_WIDTH}" y="{y:.1f}" width="{width:.1f}" height="16" rx="2"/>'
        )

    def __str__(self) -> str:
        return "".join([*self.parts, "</svg>"])


def beside(row: Row, name: str) -> str:
    """The ratio to the yardstick of the same rounds."""
    samples = row["metrics"][row["main"]]
    if "yardstick" not in samples or name == "yardstick":
        return ""
    found = figures.ratios(samples[name], samples["yardstick"])
    return f'<tspan class="soft"> \u00d7{figures.median(found):.2f}</tspan>' if found else ""


def bars(row: Row) -> str:
    """One bar a server, the shortest first: median, a whisker over the middle half, the goal as a line."""
    samples = row["metrics"].get(row["main"], {})
    medians = {name: figures.median(values) for name, values in samples.items()}
    if not medians:
        return ""
    order = sorted(medians, key=medians.__getitem__)
    limit, longest = (row["goal"] or {}).get("limit") or 0, max(medians.values())
    usual = figures.median(list(medians.values()))
    shown = max(CLIPPED * medians.get("licorne", longest), limit * 1.2, usual * 1.5)
    top = max(min(longest, shown), limit * 1.1) or 1

    def x(value: float) -> float:
        return NAME_WIDTH + (WIDTH - NAME_WIDTH - VALUE_WIDTH) * min(value / top, 1.0)

    bottom = LINE * len(order)
    svg = Svg(bottom + (20 if limit else 4), row["name"])
    if limit:
        anchor = "end" if x(limit) > WIDTH / 2 else "start"
        svg.path("goal", f"M{x(limit):.1f} 0V{bottom + 4}")
        svg.text(x(limit), bottom + 16, f"goal {number(limit)}: {escape(row['goal']['text'])}", "goal-text", anchor)
    for index, name in enumerate(order):
        y, value, (low, high) = index * LINE + 2, medians[name], figures.quartiles(samples[name])
        svg.text(NAME_WIDTH - 8, y + 14, escape(name), anchor="end")
        svg.bar(style_of(name), y + 2, max(x(value) - NAME_WIDTH, 1))
        whole = value <= top
        if whole and high > low:
            ends = f"M{x(low):.1f} {y + 6}v8M{x(high):.1f} {y + 6}v8"
            svg.path("spread", f"M{x(low):.1f} {y + 10}H{x(high):.1f}{ends}")
        svg.text(x(max(value, high)) + 6, y + 14, number(value) + ("" if whole else " \u00bb") + beside(row, name))
    return str(svg)


def curves_of(row: Row) -> dict[str, list[tuple[float, float]]]:
    """Server -> (percent of the load, p99)."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for metric, by_server in row["metrics"].items():
        name, _, percent = metric.partition("@")
        if name == "p99_us":
            for server, samples in by_server.items():
                curves.setdefault(server, []).append((float(percent), figures.median(samples)))
    return {server: sorted(points) for server, points in curves.items()}


def latency(row: Row) -> str:
    """p99 by load, one curve a server; upwards logarithmic."""
    curves = curves_of(row)
    values = [value for points in curves.values() for _, value in points if value > 0]
    if not values:
        return ""
    low, high = math.floor(math.log10(min(values)) * 2) / 2, math.ceil(math.log10(max(values)) * 2) / 2
    percents = sorted({percent for points in curves.values() for percent, _ in points})
    span = max(percents[-1] - percents[0], 1)

    def x(percent: float) -> float:
        return CURVE_LEFT + (percent - percents[0]) / span * (CURVE_RIGHT - CURVE_LEFT)

    def y(value: float) -> float:
        return CURVE_BOTTOM - (math.log10(value) - low) / max(high - low, 0.1) * (CURVE_BOTTOM - CURVE_TOP)

    svg = Svg(CURVE_BOTTOM + 36, "p99 by load")
    for value in (step * 10.0**exponent for exponent in range(math.floor(low), 8) for step in (1, 2, 5)):
        if low <= math.log10(value) <= high:
            svg.path("axis", f"M{CURVE_LEFT} {y(value):.1f}H{CURVE_RIGHT}")
            svg.text(CURVE_LEFT - 6, y(value) + 4, duration(value), "soft", "end")
    for percent in percents:
        anchor = "end" if percent == percents[-1] else "middle"
        svg.text(x(percent), CURVE_BOTTOM + 16, f"{percent:.0f} %", "soft", anchor)
    svg.text((CURVE_LEFT + CURVE_RIGHT) / 2, CURVE_BOTTOM + 32, "of what the slowest can do", "soft", "middle")
    label = -math.inf
    for index, (name, points) in enumerate(sorted(curves.items(), key=lambda curve: -curve[1][-1][1])):
        dashes = DASHES[index % len(DASHES)] if style_of(name) == "peer" else ""
        svg.path(f"curve {style_of(name)}", "M" + "L".join(f"{x(p):.1f} {y(v):.1f}" for p, v in points), dashes)
        label = max(y(points[-1][1]) + 4, label + 14)
        svg.text(CURVE_RIGHT + 8, label, f"{escape(name)} {duration(points[-1][1])}")
    return str(svg)
