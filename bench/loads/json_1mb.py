"""An answer of 1 MB in one piece: JSON that is made already."""

from apps.contents import JSON_1MB

from harness.figures import times
from harness.loads import Load

LOAD = Load(
    apps={"asgi": "raw_asgi:large", "wsgi": "raw_wsgi:large"},
    body=JSON_1MB,
    connections=16,
    yardstick={"asgi": [], "wsgi": []},
    goals={"asgi": times("yardstick", 1.15), "wsgi": times("yardstick", 1.15)},
)
