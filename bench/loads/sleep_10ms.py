"""An application that waits for 10 ms, asked over 256 connections: timers, and tasks that really suspend."""

from harness.figures import at_most
from harness.loads import Load

LOAD = Load(apps={"asgi": "raw_asgi:sleep_10ms"}, connections=256, goals={"asgi": at_most(15)})
