"""Results for the terminal: a table for a row, and one line a row at the end."""

from __future__ import annotations

from typing import Any

from . import figures

Row = dict[str, Any]
MORE = [  # metric, heading, digits: what stands beside the main figure
    ("per_second", "per second", 0),
    ("p99_us", "p99 µs", 0),
    ("generator_share", "gen.", 2),
    ("pss_idle_mib", "PSS idle", 1),
    ("pss_after_mib", "PSS after", 1),
    ("private_after_mib", "private", 1),
    ("private_collected_mib", "private", 1),
    ("private_boot_mib", "boot", 1),
    ("private_requests_mib", "requests", 1),
    ("wake_ups_per_s", "wake-ups/s", 1),
    ("cpu_ms", "CPU ms", 1),
]


def medians(row: Row, metric: str) -> dict[str, float]:
    samples = row["metrics"].get(metric, {})
    return {name: figures.median(values) for name, values in samples.items() if values}


def unit(row: Row) -> str:
    per = row["per"]
    if row["main"] == "cpu_us":
        return f"CPU µs/{per}"
    return f"{row['main'].split('@')[0].replace('_us', ' µs')}" if row["measure"] == "latency" else per


def verdict(row: Row) -> str:
    """Of licorne and the goal: "7.40, goal 7.52 (<= yardstick + 2): met"; nothing without one."""
    goal, found = row["goal"], medians(row, row["main"]).get("licorne")
    if not goal or found is None:
        return ""
    if goal["limit"] is None:
        return f"{found:.4g}; goal {goal['text']}: not comparable"
    far = f" by {100 * (found / goal['limit'] - 1):.0f} %" if goal["limit"] else ""
    word = "met" if found <= goal["limit"] else f"MISSED{far}"
    return f"{found:.4g}; goal {goal['limit']:.4g} ({goal['text']}): {word}"


def columns(row: Row) -> list[tuple[str, dict[str, str]]]:
    """Heading -> server -> cell."""
    main = row["metrics"].get(row["main"], {})
    result = [(unit(row), {name: f"{figures.median(v):.2f}" for name, v in main.items()})]
    result.append(("IQR", {name: f"{figures.spread(v):.2f}" for name, v in main.items()}))
    for base in (name for name in ("yardstick", "bare", "licorne") if name in main):
        cells = {name: figures.ratios(v, main[base]) for name, v in main.items()}
        result.append((f"x {base}", {name: f"{figures.median(v):.2f}" for name, v in cells.items() if v}))
    for metric, heading, digits in MORE:
        if metric in row["metrics"] and metric != row["main"]:
            result.append((heading, {name: f"{value:.{digits}f}" for name, value in medians(row, metric).items()}))
    if row["measure"] == "latency":
        result += latency_columns(row)
    if row["errors"]:
        counts = {name: sum(n for kind, n in e.items() if kind != "first") for name, e in row["errors"].items()}
        result.append(("errors", {name: str(count) for name, count in counts.items()}))
    return result


def by_figure(row: Row) -> list[str]:
    found = medians(row, row["main"])
    return sorted(found, key=found.__getitem__)


def latency_columns(row: Row) -> list[tuple[str, dict[str, str]]]:
    result = []
    for metric in row["metrics"]:
        name, _, percent = metric.partition("@")
        if percent and name != "lag_p99_us":
            cells = {server: f"{value:.0f}" for server, value in medians(row, metric).items()}
            result.append((f"{name.removesuffix('_us')}@{percent}%", cells))
    return result


def text(row: Row) -> str:
    shown = columns(row)
    names = by_figure(row)
    lines = [f"\n{row['name']}: {row['text']}"]
    widths = [max(6, len(heading), *(len(column.get(name, "")) for name in names)) for heading, column in shown]
    headings = (heading.rjust(width) for (heading, _), width in zip(shown, widths, strict=True))
    lines.append(" " * 20 + "  ".join(headings))
    for name in names:
        cells = (cells.get(name, "-").rjust(w) for (_, cells), w in zip(shown, widths, strict=True))
        lines.append("  " + name.ljust(18) + "  ".join(cells))
    lines += [f"  {name}: {reason}" for name, reason in row["failed"].items()]
    lines += [f"  note: {note}" for note in row["notes"]]
    if verdict(row):
        lines.append(f"  licorne: {verdict(row)}")
    return "\n".join(lines)


def best_peer(row: Row) -> tuple[str, float] | None:
    peers = {name: value for name, value in medians(row, row["main"]).items() if figures.is_peer(name)}
    return min(peers.items(), key=lambda item: item[1]) if peers else None


def summary(result: dict[str, Any]) -> str:
    lines = ["\nIn short (licorne; its goal; the best of the others)"]
    for row in result["rows"]:
        best = best_peer(row)
        other = f"{best[0]} {best[1]:.4g}" if best else "-"
        lines.append(f"  {row['name']:18} {unit(row):16} {verdict(row) or '-':64} {other}")
    return "\n".join(lines)
