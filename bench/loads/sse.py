"""Server-sent events: 1 000 connections, each with one event a second. The cost is for an event."""

from harness.figures import ahead_of_all
from harness.loads import Load, get

LOAD = Load(
    apps={"asgi": "raw_asgi:events"},
    measure="streams",
    request=get("/events", "Accept: text/event-stream"),
    body=b"data: the time is now\n\n",
    connections=1000,
    options=["--endless"],
    seconds=4,
    per="event",
    goals={"asgi": ahead_of_all()},
    detail={"events_per_second": 1.0},
)
