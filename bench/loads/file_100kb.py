"""A file of 100 KB, from Starlette's FileResponse or wsgi.file_wrapper."""

from apps.contents import text_of

from harness.figures import ahead_of_all
from harness.loads import Load, get

SIZE = 102400

LOAD = Load(
    apps={"asgi": "framework_starlette:app", "wsgi": "raw_wsgi:file"},
    request=get(f"/file/{SIZE}"),
    body=text_of(SIZE),
    connections=64,
    yardstick={"asgi": ["sendfile"], "wsgi": ["sendfile"]},
    goals={"asgi": ahead_of_all(), "wsgi": ahead_of_all()},
    needs=["files", "frameworks"],
)
