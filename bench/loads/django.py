"""A Django application: one route, the usual middleware, one JSON answer."""

from harness.figures import ahead_of, ahead_of_all
from harness.loads import Load, get

LOAD = Load(
    apps={"wsgi": "framework_django:app", "asgi": "framework_django:asgi"},
    request=get("/json"),
    body=b'{"message": "Hello, World!"}',
    needs=["frameworks"],
    alone=["wsgi"],
    yardstick={"wsgi": [], "asgi": []},
    goals={"wsgi": ahead_of("fastpysgi"), "asgi": ahead_of_all()},
)
