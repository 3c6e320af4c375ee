"""The system calls of one process, all its threads."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from support.server import wait_until


class Strace:
    """From when it is made until stop()."""

    def __init__(self, pid: int, out: Path, calls: str) -> None:
        self.out = out
        self.process = subprocess.Popen(
            ["strace", "-f", "-qq", "-e", f"trace={calls}", "-o", str(out), "-p", str(pid)],
            stderr=subprocess.PIPE,
        )
        status = Path(f"/proc/{pid}/status")
        wait_until(lambda: not re.search(r"TracerPid:\s+0\n", status.read_text()), "strace to attach")

    def stop(self) -> list[str]:
        """A call a line."""
        self.process.terminate()
        self.process.wait(30)
        return [line.split(None, 1)[1] for line in self.out.read_text().splitlines() if "(" in line]
