"""A server that nobody asks anything: CPU time, and how often it wakes up."""

from harness.figures import exactly
from harness.loads import Load

LOAD = Load(
    apps={"asgi": "hello_asgi:app", "wsgi": "hello_wsgi:app"},
    measure="idle",
    seconds=5,
    workers=(1, 4),
    goals=dict.fromkeys(["asgi", "wsgi"], exactly(0.05)),
    per="ms/s",
)
