"""WebSocket echo of 64 bytes over 64 connections, with 1 and with 16 messages under way on each (by ws/run.py)."""

from harness.figures import at_most
from harness.loads import Load

LOAD = Load(
    apps={"64x64x1": "ws_asgi:app", "64x64x16": "ws_asgi:app"},
    measure="websocket",
    goals={"64x64x1": at_most(8.5), "64x64x16": at_most(3)},
    per="message",
)
