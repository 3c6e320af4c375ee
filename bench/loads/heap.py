"""Four workers with an application of about 100 MB, made of many small objects: PSS of all processes (what they share
counts once) after requests and a full collection in every worker. Preloaded where a server can."""

from harness.figures import exactly
from harness.loads import Load

LOAD = Load(
    apps={"asgi": "heap:asgi", "wsgi": "heap:wsgi"},
    measure="heap",
    workers=(4,),
    goals=dict.fromkeys(["asgi", "wsgi"], exactly(150)),
    per="MiB",
    detail={"requests": 20_000},
)
