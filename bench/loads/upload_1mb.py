"""An upload of 1 MiB, whose bytes the application counts."""

from harness.figures import times
from harness.loads import Load, post

SIZE = 1 << 20

LOAD = Load(
    apps={"asgi": "raw_asgi:count", "wsgi": "raw_wsgi:count"},
    request=post("/upload", SIZE),
    body=str(SIZE).encode(),
    body_bytes=SIZE,
    connections=8,
    yardstick={"asgi": [], "wsgi": []},
    goals={"asgi": times("fastpysgi", 0.85), "wsgi": times("fastpysgi", 0.85)},
)
