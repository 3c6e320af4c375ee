"""Sixteen requests in one write; the cost is for each of them."""

from harness.figures import at_most
from harness.loads import Load

LOAD = Load(
    apps={"asgi": "hello_asgi:app", "wsgi": "hello_wsgi:app"},
    connections=16,
    options=["--pipeline", "16"],
    yardstick={"asgi": [], "wsgi": []},
    goals={"asgi": at_most(3), "wsgi": at_most(3)},
)
