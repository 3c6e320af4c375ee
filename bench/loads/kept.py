"""Connections that are kept and idle, after one request on each: private memory of the server for each of them."""

from harness.figures import ahead_of_all, all_of, exactly
from harness.loads import Load

LOAD = Load(
    apps={"asgi": "hello_asgi:app", "wsgi": "hello_wsgi:app"},
    measure="kept",
    connections=2000,
    goals=dict.fromkeys(["asgi", "wsgi"], all_of(exactly(1), ahead_of_all())),
    per="KiB a connection",
    peers={
        "asgi": ["licorne", "uvicorn", "granian", "gunicorn_asgi", "fastpysgi", "hypercorn"],
        "wsgi": ["licorne", "granian", "gunicorn_gthread", "fastpysgi", "bjoern"],
    },
)
