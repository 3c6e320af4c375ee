"""A result as one page of HTML that needs nothing else: tables, plots.py, report.css."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from . import plots, table

Row = dict[str, Any]
STYLE = Path(__file__).with_suffix(".css").read_text()
HEADS = ["row", "", "licorne", "best other", "", "ratio", "goal", ""]
ABOUT = """Servers are run in turn, round by round, on the same CPU. Shorter is better everywhere. CPU time is that of
the whole process tree; the yardstick is a bare epoll loop that answers the same bytes: what the kernel alone costs. A
server whose answers are wrong has no bar."""


def cells(values: list[str], tag: str = "td") -> str:
    return "".join(f"<{tag}>{value}</{tag}>" for value in values)


def details(row: Row) -> str:
    shown = table.columns(row)
    lines = [f"<tr>{cells(['', *(escape(heading) for heading, _ in shown)], 'th')}</tr>"]
    for name in table.by_figure(row):
        values = [escape(name), *(escape(column.get(name, "")) for _, column in shown)]
        lines.append(f'<tr class="{plots.style_of(name)}">{cells(values)}</tr>')
    return (
        f'<details><summary>all figures</summary><div class="wide"><table>{"".join(lines)}</table></div></details>'
        if len(lines) > 1
        else ""
    )


def remarks(row: Row) -> str:
    found = [f"{escape(name)}: {escape(reason)}" for name, reason in row["failed"].items()]
    found += [escape(note) for note in row["notes"]]
    if not found:
        return ""
    items = "".join(f"<li>{line}</li>" for line in found)
    title = f"not measured, or noticed ({len(found)})"
    return f'<details><summary>{title}</summary><ul class="soft">{items}</ul></details>'


def figure(plot: str, caption: str) -> str:
    return f"<figure>{plot}<figcaption>{escape(caption)}</figcaption></figure>" if plot else ""


def section(row: Row) -> str:
    name = escape(row["name"])
    curves = figure(plots.latency(row), "p99 by load") if row["measure"] == "latency" else ""
    caption = f"{table.unit(row)}: medians, the middle half as a whisker"
    return (
        f'<h2 id="{name}">{name}</h2><p>{escape(row["text"])}</p>{curves}{figure(plots.bars(row), caption)}'
        f"{remarks(row)}{details(row)}"
    )


def against_goal(row: Row, found: float | None) -> list[str]:
    goal = row["goal"]
    if not goal:
        return ["-", ""]
    if found is None or goal["limit"] is None:
        return [escape(goal["text"]), ""]
    if found <= goal["limit"]:
        return [plots.number(goal["limit"]), '<span class="met">met</span>']
    far = f"+{100 * (found / goal['limit'] - 1):.0f} %" if goal["limit"] else "missed"
    return [plots.number(goal["limit"]), f'<span class="missed">{far}</span>']


def standing(row: Row) -> str:
    """The row's line in the summary."""
    found, best = table.medians(row, row["main"]).get("licorne"), table.best_peer(row)
    values = [f'<a href="#{escape(row["name"])}">{escape(row["name"])}</a>', escape(table.unit(row))]
    values.append(plots.number(found) if found is not None else "-")
    values += [plots.number(best[1]), f'<span class="soft">{escape(best[0])}</span>'] if best else ["-", ""]
    values.append(f"{found / best[1]:.2f}" if best and found is not None and best[1] else "-")
    return f"<tr>{cells(values + against_goal(row, found))}</tr>"


def html(result: dict[str, Any]) -> str:
    about = result["about"]
    facts = [about["date"], about["cpu"], f"{about['cpus']} CPUs", f"Linux {about['kernel']}"]
    facts += [f"Python {about['python']}", f"commit {about['commit']}"]
    facts.append(f"{about['rounds']} rounds of {about['seconds']:g} s")
    versions = ", ".join(sorted({escape(version) for version in result["versions"].values()}))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>licorne bench</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f'<h1>licorne, side by side</h1><p class="soft">{escape(", ".join(facts))}</p><p>{escape(ABOUT)}</p>'
        f'<div class="wide"><table><tr>{cells(HEADS, "th")}</tr>{"".join(map(standing, result["rows"]))}</table></div>'
        f'{"".join(map(section, result["rows"]))}<p class="soft">{versions}</p></html>\n'
    )
