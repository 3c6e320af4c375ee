"""From exec to the first answer, beside a bare interpreter that imports the same application and ends."""

from harness.figures import times
from harness.loads import Load

LOAD = Load(
    apps={"asgi": "hello_asgi:app", "wsgi": "hello_wsgi:app"},
    measure="start",
    goals=dict.fromkeys(["asgi", "wsgi"], times("bare", 1.2)),
    per="ms",
)
