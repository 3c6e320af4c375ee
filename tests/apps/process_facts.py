"""What must stay flat in a process that serves requests."""

import gc
import os
import sys
import threading
from pathlib import Path


def facts() -> dict[str, int]:
    gc.collect()
    return {
        "pid": os.getpid(),
        "objects": len(gc.get_objects()),
        "blocks": sys.getallocatedblocks(),
        "garbage": len(gc.garbage),
        "fds": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "rss": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
    }
