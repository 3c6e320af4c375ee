"""WSGI applications without a framework, each of which does one thing."""

import os

from contents import JSON_1MB, PIECE, PIECES

PLAIN = ("Content-Type", "text/plain")
BLOCK = 65536


def answer(start_response, body, content_type="text/plain"):
    start_response("200 OK", [("Content-Type", content_type), ("Content-Length", str(len(body)))])
    return [body]


def echo(environ, start_response):
    return answer(start_response, environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))


def count(environ, start_response):
    left = int(environ.get("CONTENT_LENGTH") or 0)
    total = 0
    while left > 0 and (block := environ["wsgi.input"].read(min(left, BLOCK))):
        total += len(block)
        left -= len(block)
    return answer(start_response, b"%d" % total)


def large(environ, start_response):
    return answer(start_response, JSON_1MB, "application/json")


def stream(environ, start_response):
    start_response("200 OK", [PLAIN])
    for _ in range(PIECES):
        yield PIECE


def file(environ, start_response):
    """What frameworks do: the server's wrapper if it has one, else blocks."""
    size = environ["PATH_INFO"].rpartition("/")[2]
    if not size.isdigit():
        return answer(start_response, b"no such file")
    opened = open(os.path.join(os.environ["BENCH_FILES"], size), "rb")
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", size)])
    if "wsgi.file_wrapper" in environ:
        return environ["wsgi.file_wrapper"](opened, BLOCK)
    return iter(lambda: opened.read(BLOCK), b"")
