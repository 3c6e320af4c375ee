"""Hello over WSGI, for counting instructions: see counted_asgi.py."""

import os

HEADERS = [("content-type", "text/plain"), ("content-length", "13")]


def app(environ, start_response):
    if environ["PATH_INFO"] == "/mark":
        os.getpgid(0)
    start_response("200 OK", HEADERS)
    return [b"Hello, World!"]
