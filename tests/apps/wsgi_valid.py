"""Applications behind wsgiref's validator, which checks both sides of PEP 3333."""

import io
import os
import tempfile
from wsgiref.validate import validator


def plain(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"plain"]


def streaming(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (b"%d\n" % i for i in range(10))


def writing(environ, start_response):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"written")
    return []


def reading(environ, start_response):
    stream = environ["wsgi.input"]
    parts = [stream.readline(), stream.read(3), *stream.readlines(1), *stream]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"".join(parts)]


def failing(environ, start_response):
    raise ValueError("fails")


def a_file(environ, start_response):
    with tempfile.NamedTemporaryFile(delete=False) as f:
        f.write(b"file" * 1000)
    opened = open(f.name, "rb")
    os.unlink(f.name)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](opened)


def bytesio(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](io.BytesIO(b"file" * 1000), 100)


NAMES = {f"/{f.__name__}": f for f in (plain, streaming, writing, reading, failing, a_file, bytesio)}


def route(environ, start_response):
    return NAMES[environ["PATH_INFO"]](environ, start_response)


app = validator(route)
