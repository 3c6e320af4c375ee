"""A new connection for each request, 16 at a time."""

from harness.figures import ahead_of_all
from harness.loads import Load, get

LOAD = Load(
    apps={"asgi": "hello_asgi:app", "wsgi": "hello_wsgi:app"},
    request=get("/", close=True),
    connections=16,
    options=["--fresh"],
    workers=(1, 4),
    yardstick={"asgi": ["close"], "wsgi": ["close"]},
    goals={"asgi": ahead_of_all(), "wsgi": ahead_of_all()},
)
