"""An answer in 64 pieces of 1 KiB, none of which waits for anything. An ASGI server may join them up to where the
application suspends; a WSGI server must write each before it asks for the next: there the yardstick writes 64 times."""

from harness.figures import at_most, times
from harness.loads import Load

LOAD = Load(
    apps={"asgi": "raw_asgi:stream", "wsgi": "raw_wsgi:stream"},
    body=b"x" * (64 << 10),
    chunks=64,
    connections=16,
    yardstick={"asgi": [], "wsgi": ["pieces", "64"]},
    goals={"asgi": at_most(60), "wsgi": times("yardstick", 1.2)},
)
