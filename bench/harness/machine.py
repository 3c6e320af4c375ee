"""What the kernel says of processes: CPU time, memory, wake-ups; and which CPUs are for whom."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
ROOT = BENCH.parent
BUILD = ROOT / "build" / "bench"
CLOCK_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def binary(name: str, sources: list[Path], *options: str) -> Path:
    """A C program of the bench, compiled when its sources have changed."""
    made = BUILD / name
    headers = [header for source in sources for header in source.parent.glob("*.h")]
    if not made.exists() or made.stat().st_mtime < max(path.stat().st_mtime for path in [*sources, *headers]):
        BUILD.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-O2", "-D_GNU_SOURCE", "-o", str(made), *map(str, sources), *options], check=True)
    return made


# --- CPUs -------------------------------------------------------------------------------------------------------------


def server_cpus(workers: int) -> str:
    """As many as there are workers, never the last, which is the generator's; all where that is not enough."""
    cpus = sorted(os.sched_getaffinity(0))
    return ",".join(map(str, cpus[:workers] if len(cpus) > workers else cpus))


def load_cpu() -> str:
    return str(max(os.sched_getaffinity(0)))


# --- process trees ----------------------------------------------------------------------------------------------------


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat from the third field (state) on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def process_tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                children.setdefault(int(stat_fields(int(entry))[1]), []).append(int(entry))
            except OSError:
                continue
    tree, todo = [], [root]
    while todo:
        pid = todo.pop()
        tree.append(pid)
        todo += children.get(pid, [])
    return tree


def process_cpu_ns(pid: int) -> int:
    """Of all its threads, those included that have ended: the scheduler's own clock, exact where /proc counts ticks."""
    return time.clock_gettime_ns((~pid << 3) | 2)  # the kernel's name for another process' CPU clock


def cpu_ns(root: int) -> int:
    """CPU time of the process tree, in ns: of each process, and of its children that ended (in ticks)."""
    total = 0
    for pid in process_tree(root):
        try:
            ended = stat_fields(pid)[13:15]
            total += process_cpu_ns(pid) + sum(map(int, ended)) * CLOCK_TICK_NS
        except OSError:
            continue
    return total


def memory_kib(root: int) -> dict[str, int]:
    """PSS and private memory of the process tree, in KiB."""
    sums = {"Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    for pid in process_tree(root):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M):
            if name in sums:
                sums[name] += int(value)
    return {"pss": sums["Pss"], "private": sums["Private_Clean"] + sums["Private_Dirty"]}


def wake_ups(root: int) -> int:
    """How often the threads of the tree have gone to sleep of their own will."""
    total = 0
    for pid in process_tree(root):
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                text = Path(f"/proc/{pid}/task/{task}/status").read_text()
                total += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.M)[1])
        except OSError:
            continue
    return total


def about() -> dict[str, object]:
    """What a reader of the figures must know of this machine; no names or paths."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }
