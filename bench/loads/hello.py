"""The smallest request and answer: what a server adds to every request, whatever it is for."""

from harness.figures import over
from harness.loads import Load

LOAD = Load(
    apps={"asgi": "hello_asgi:app", "wsgi": "hello_wsgi:app"},
    workers=(1, 4),
    yardstick={"asgi": [], "wsgi": []},
    goals={"asgi": over("yardstick", 2.0), "wsgi": over("yardstick", 1.0)},
)
