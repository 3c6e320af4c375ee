"""A Starlette application: one route, one JSON answer."""

from harness.figures import share
from harness.loads import Load, get

LOAD = Load(
    apps={"asgi": "framework_starlette:app"},
    request=get("/json"),
    body=b'{"message":"Hello, World!"}',
    needs=["frameworks"],
    alone=["asgi"],
    yardstick={"asgi": []},
    goals={"asgi": share("granian", 0.45)},
)
