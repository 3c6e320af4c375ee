"""A Flask application: one route, one JSON answer."""

from harness.figures import ahead_of
from harness.loads import Load, get

LOAD = Load(
    apps={"wsgi": "framework_flask:app"},
    request=get("/json"),
    body=b'{"message":"Hello, World!"}\n',
    needs=["frameworks"],
    alone=["wsgi"],
    yardstick={"wsgi": []},
    goals={"wsgi": ahead_of("fastpysgi")},
)
