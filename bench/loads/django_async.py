"""The same Django application as ASGI with an asynchronous view; what it does not help: middleware runs in threads."""

from harness.figures import ahead_of_all
from harness.loads import Load, get

LOAD = Load(
    apps={"asgi": "framework_django:asgi"},
    request=get("/async"),
    body=b'{"message": "Hello, World!"}',
    needs=["frameworks"],
    yardstick={"asgi": []},
    goals={"asgi": ahead_of_all()},
)
