"""One worker with the hello application: PSS of all its processes, when idle and after requests."""

from harness.figures import times
from harness.loads import Load

LOAD = Load(
    apps={"asgi": "hello_asgi:app", "wsgi": "hello_wsgi:app"},
    measure="memory",
    goals=dict.fromkeys(["asgi", "wsgi"], times("bare", 1, plus=2)),
    per="MiB",
)
