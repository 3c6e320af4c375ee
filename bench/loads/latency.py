"""Latency when requests come at their own pace (a Poisson process), at 30, 50, 70 and 90 % of what the slowest of the
servers can do. Counted from when a request was due: a server that pauses pays for all that came meanwhile. Judged:
p99 at 70 %."""

from harness.figures import ahead_of_all, all_of, times
from harness.loads import Load

LOAD = Load(
    apps={"asgi": "hello_asgi:app", "wsgi": "hello_wsgi:app"},
    measure="latency",
    yardstick={"asgi": [], "wsgi": []},
    peers={
        "asgi": ["licorne", "granian", "uvicorn", "gunicorn_asgi", "fastpysgi"],
        "wsgi": ["licorne", "licorne_threads", "granian", "bjoern", "fastpysgi"],
    },
    seconds=2,
    goals=dict.fromkeys(["asgi", "wsgi"], all_of(ahead_of_all(), times("yardstick", 2))),
    detail={"percent": (30, 50, 70, 90), "judged": 70},
)
