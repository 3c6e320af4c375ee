"""An upload of 100 MiB, whose bytes the application counts. The memory after it says who gathers bodies."""

from harness.figures import ahead_of_all
from harness.loads import Load, post

SIZE = 100 << 20

LOAD = Load(
    apps={"asgi": "raw_asgi:count", "wsgi": "raw_wsgi:count"},
    request=post("/upload", SIZE),
    body=str(SIZE).encode(),
    body_bytes=SIZE,
    connections=2,
    options=["--timeout", "30"],
    yardstick={"asgi": [], "wsgi": []},
    goals={"asgi": ahead_of_all(), "wsgi": ahead_of_all()},
)
