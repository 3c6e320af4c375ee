"""A FastAPI application: a path parameter, a query parameter, a response model."""

from harness.figures import share
from harness.loads import Load, get

LOAD = Load(
    apps={"asgi": "framework_fastapi:app"},
    request=get("/items/7?q=licorne"),
    body=b'{"id":7,"name":"licorne"}',
    needs=["frameworks"],
    alone=["asgi"],
    yardstick={"asgi": []},
    goals={"asgi": share("granian", 0.45)},
)
