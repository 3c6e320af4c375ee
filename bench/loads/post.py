"""POST of 1 KiB, which the application sends back."""

from harness.figures import at_most
from harness.loads import Load, post

BODY = b"name=licorne&text=" + b"x" * 1006

LOAD = Load(
    apps={"asgi": "raw_asgi:echo", "wsgi": "raw_wsgi:echo"},
    request=post("/echo", len(BODY), BODY, "Content-Type: application/x-www-form-urlencoded"),
    body=BODY,
    yardstick={"asgi": [], "wsgi": []},
    goals={"asgi": at_most(11), "wsgi": at_most(11)},
)
