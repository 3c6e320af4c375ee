"""A WSGI application whose paths each do one thing that a server must cope with. The part of the path after the name is
a token: what happens is reported with it in the error log."""

import gzip
import io
import json
import os
import sys
import tempfile
import threading
import time

TEXT = [("Content-Type", "text/plain")]


def report(environ, what):
    token = environ["PATH_INFO"].split("/")[2]
    environ["wsgi.errors"].write(f"probe {token} {what}\n")
    environ["wsgi.errors"].flush()


def query(environ, name, default=None):
    for pair in environ["QUERY_STRING"].split("&"):
        key, _, value = pair.partition("=")
        if key == name:
            return value
    return default


def wait_for_fifo(path):
    """Blocks until somebody has opened the FIFO for writing and closed it again."""
    with open(path, "rb") as fifo:
        fifo.read()


class Body:
    """An iterable that reports its close()."""

    def __init__(self, environ, items, failing_close=False):
        self.environ, self.items, self.failing_close = environ, iter(items), failing_close

    def __iter__(self):
        return self.items

    def close(self):
        report(self.environ, "closed")
        if self.failing_close:
            raise RuntimeError("close() fails")


# --- the environ


def environ(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    facts = {key: value for key, value in environ.items() if isinstance(value, (str, bool, tuple))}
    facts["type"] = type(environ) is dict
    facts["bad_strings"] = [
        key
        for key, value in environ.items()
        if type(key) is not str or (isinstance(value, str) and type(value) is not str)
    ]
    facts["errors"] = [hasattr(environ["wsgi.errors"], name) for name in ("write", "writelines", "flush")]
    facts["others"] = sorted(key for key in environ if key not in facts)
    return [json.dumps(facts).encode()]


# --- responses


def hello(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"Hello, world!\n"]


def items(environ, start_response):
    """A list (or tuple) of the parts of ?of=a,b,c"""
    start_response("200 OK", TEXT)
    parts = [part.encode() for part in query(environ, "of", "").split(",")]
    return tuple(parts) if query(environ, "as") == "tuple" else parts


def empty(environ, start_response):
    start_response("200 OK", TEXT)
    return []


def generator(environ, start_response):
    start_response("200 OK", TEXT)
    return Body(environ, (part.encode() for part in query(environ, "of", "").split(",")))


def stepwise(environ, start_response):
    """Each block only after somebody has touched the FIFO."""

    def blocks():
        for i in range(3):
            report(environ, f"yields {i}")
            yield b"block %d\n" % i
            wait_for_fifo(query(environ, "fifo"))

    start_response("200 OK", TEXT)
    return Body(environ, blocks())


def write(environ, start_response):
    put = start_response("200 OK", TEXT)
    put(b"one,")
    put(b"")
    put(b"two,")
    return [b"three"]


def write_stepwise(environ, start_response):
    put = start_response("200 OK", TEXT)
    put(b"first")
    wait_for_fifo(query(environ, "fifo"))
    put(b"second")
    return []


def late_start(environ, start_response):
    """start_response() at the first step of the iteration."""

    def blocks():
        start_response("201 Created", TEXT)
        yield b""
        yield b"late"

    return Body(environ, blocks())


def never_start(environ, start_response):
    return Body(environ, [])


def body_before_start(environ, start_response):
    return Body(environ, [b"too early"])


def status(environ, start_response):
    start_response(query(environ, "line").replace("+", " "), TEXT)
    return Body(environ, [b"body"])


def length(environ, start_response):
    """Content-Length ?says, and ?blocks of five bytes."""
    start_response("200 OK", [*TEXT, ("Content-Length", query(environ, "says"))])
    blocks = [b"12345"] * int(query(environ, "blocks", "1"))
    return blocks if query(environ, "as") == "list" else Body(environ, blocks)


def big(environ, start_response):
    """?blocks of ?size bytes."""
    start_response("200 OK", TEXT)
    block = b"x" * int(query(environ, "size"))
    if query(environ, "as") == "list":
        return [block] * int(query(environ, "blocks"))
    return Body(environ, (block for _ in range(int(query(environ, "blocks")))))


def endless(environ, start_response):
    def blocks():
        while True:
            yield b"x" * 10000

    start_response("200 OK", TEXT)
    return Body(environ, blocks())


def endless_write(environ, start_response):
    put = start_response("200 OK", TEXT)
    try:
        while True:
            put(b"x" * 10000)
    except OSError as error:
        report(environ, f"raised {type(error).__name__}")
        raise
    return []


# --- start_response misused; ?case


def misuse(environ, start_response):
    cases = {
        "status-type": lambda: start_response(b"200 OK", TEXT),
        "status-short": lambda: start_response("200", TEXT),
        "status-word": lambda: start_response("OK fine", TEXT),
        "status-range": lambda: start_response("099 Low", TEXT),
        "status-control": lambda: start_response("200 OK\r\nX-Injected: 1", TEXT),
        "status-unicode": lambda: start_response("200 \u20ac", TEXT),
        "headers-tuple": lambda: start_response("200 OK", tuple(TEXT)),
        "headers-dict": lambda: start_response("200 OK", dict(TEXT)),
        "header-list": lambda: start_response("200 OK", [["X", "y"]]),
        "header-triple": lambda: start_response("200 OK", [("X", "y", "z")]),
        "header-bytes": lambda: start_response("200 OK", [(b"X", b"y")]),
        "header-number": lambda: start_response("200 OK", [("X", 1)]),
        "header-name": lambda: start_response("200 OK", [("X Bad", "y")]),
        "header-newline": lambda: start_response("200 OK", [("X", "a\r\nX-Injected: 1")]),
        "header-nul": lambda: start_response("200 OK", [("X", "a\0b")]),
        "header-unicode": lambda: start_response("200 OK", [("X", "\u20ac")]),
        "length-word": lambda: start_response("200 OK", [("Content-Length", "many")]),
        "length-twice": lambda: start_response("200 OK", [("Content-Length", "4"), ("content-length", "4")]),
        "twice": lambda: (start_response("200 OK", TEXT), start_response("200 OK", TEXT)),
        "write-str": lambda: start_response("200 OK", TEXT)("text"),
        "write-before": lambda: start_response(b"data"),
        "arguments": lambda: start_response(),
        "keyword": lambda: start_response("200 OK", TEXT, wrong=1),
        "exc-info-type": lambda: start_response("200 OK", TEXT, 42),
    }
    try:
        cases[query(environ, "case")]()
    except Exception as error:
        report(environ, f"raised {type(error).__name__}: {error}")
        raise
    return [b"must not be sent"]


def hop_by_hop(environ, start_response):
    hops = [("Connection", "keep-alive"), ("Keep-Alive", "timeout=5"), ("Upgrade", "h2c"), ("TE", "trailers")]
    start_response("200 OK", [*hops, ("X-Mine", "1"), ("Transfer-Encoding", "chunked")])
    return [b"kept"]


def exc_info_replaces(environ, start_response):
    start_response("200 OK", [("X-Old", "1")])
    try:
        raise ValueError("changed my mind")
    except ValueError:
        start_response("503 Sorry", [("X-New", "1")], exc_info=sys.exc_info())
    return [b"sorry"]


def exc_info_reraises(environ, start_response):
    put = start_response("200 OK", TEXT)
    put(b"sent")
    try:
        raise ValueError("too late for another head")
    except ValueError:
        start_response("500 Oops", TEXT, sys.exc_info())
    return [b"must not be sent"]


def yields(environ, start_response):
    start_response("200 OK", TEXT)
    wrong = {"str": "text", "none": None, "bytearray": bytearray(b"x"), "int": 5}[query(environ, "what")]
    if query(environ, "as") == "list":
        return [b"fine", wrong]
    return Body(environ, [b"fine", wrong])


def returns(environ, start_response):
    start_response("200 OK", TEXT)
    return {"none": None, "int": 5, "str": "text", "bytes": b"ab"}[query(environ, "what")]


class Custom(BaseException):
    pass


ERRORS = {"ValueError": ValueError, "SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt, "Custom": Custom}


def fail_before(environ, start_response):
    raise ERRORS[query(environ, "error")]("before the head")


def fail_after_start(environ, start_response):
    start_response("200 OK", [("X-Never", "sent")])
    raise ValueError("after start_response()")


def fail_after_body(environ, start_response):
    def blocks():
        yield b"part"
        raise ERRORS[query(environ, "error")]("after a block")

    start_response("200 OK", TEXT)
    return Body(environ, blocks())


def fail_in_close(environ, start_response):
    start_response("200 OK", TEXT)
    return Body(environ, [b"all", b" of it"], failing_close=True)


# --- input


def echo(environ, start_response):
    start_response("200 OK", TEXT)
    return [environ["wsgi.input"].read()]


def read(environ, start_response):
    """Runs ?how over the input; the answer is the list of what was read."""
    stream, how = environ["wsgi.input"], query(environ, "how")
    buffer = bytearray(4)
    ways = {
        "read": lambda: [stream.read(), stream.read(), stream.read(5)],
        "read-none": lambda: [stream.read(None)],
        "read-minus": lambda: [stream.read(-1)],
        "read-4": lambda: [stream.read(4), stream.read(0), stream.read(4), stream.read(10**12)],
        "readline": lambda: [stream.readline(), stream.readline(), stream.readline()],
        "readline-4": lambda: [stream.readline(4), stream.readline(4), stream.readline(-1), stream.readline()],
        "readlines": lambda: stream.readlines(),
        "readlines-hint": lambda: [*stream.readlines(1), b"|", *stream.readlines(0)],
        "iter": lambda: list(stream),
        "readinto": lambda: [bytes(buffer[: stream.readinto(buffer)]), stream.read()],
        "buffered": lambda: list(io.BufferedReader(Raw(stream))),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([item.decode("latin-1") for item in ways[how]()]).encode()]


class Raw(io.RawIOBase):
    def __init__(self, stream):
        self.stream = stream

    def readable(self):
        return self.stream.readable()

    def readinto(self, buffer):
        return self.stream.readinto(buffer)


def count(environ, start_response):
    """Reads in blocks, keeps none."""
    total, block = 0, environ["wsgi.input"].read(65536)
    while block:
        total += len(block)
        block = environ["wsgi.input"].read(65536)
    start_response("200 OK", TEXT)
    return [b"%d" % total]


def lines_as_they_come(environ, start_response):
    """Answers each line of the body as soon as it is there."""
    start_response("200 OK", TEXT)
    return Body(environ, (b"got " + line for line in environ["wsgi.input"]))


def ignore(environ, start_response):
    """Answers without having read the body."""
    start_response("200 OK", TEXT)
    return [b"ignored"]


def cut_off(environ, start_response):
    report(environ, "reads")
    try:
        environ["wsgi.input"].read()
    except OSError as error:
        report(environ, f"raised {type(error).__name__}")
        raise
    start_response("200 OK", TEXT)
    return [b"whole"]


kept = []


def keep_input(environ, start_response):
    kept.append((environ["wsgi.input"], start_response))
    start_response("200 OK", TEXT)
    return [b"kept"]


def use_kept(environ, start_response):
    stream, start = kept.pop()
    found = []
    for attempt in (stream.read, lambda: start("200 OK", []), lambda: start(b"x")):
        try:
            attempt()
        except Exception as error:
            found.append(type(error).__name__)
    start_response("200 OK", TEXT)
    return [",".join(found).encode()]


# --- files


def file(environ, start_response):
    """?kind of file of ?size bytes, read up to ?skip; Content-Length ?says."""
    size = int(query(environ, "size", "1000"))
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    kind = query(environ, "kind", "open")
    descriptor, path = tempfile.mkstemp()
    with os.fdopen(descriptor, "wb") as f:
        f.write(gzip.compress(data) if kind == "gzip" else data)
    makers = {
        "open": lambda: open(path, "rb"),
        "raw": lambda: open(path, "rb", buffering=0),
        "random": lambda: open(path, "r+b"),
        "gzip": lambda: gzip.open(path),
        "bytesio": lambda: io.BytesIO(data),
        "minimal": lambda: Minimal(data),
        "pipe": lambda: piped(data),
    }
    opened = makers[kind]()
    os.unlink(path)
    opened.read(int(query(environ, "skip", "0")))
    if kind != "minimal" and kind != "raw":
        opened = Reporting(environ, opened) if query(environ, "as") == "object" else opened
    headers = [*TEXT]
    if query(environ, "says"):
        headers.append(("Content-Length", query(environ, "says")))
    start_response("200 OK", headers)
    wrapper = environ["wsgi.file_wrapper"](opened, 4096)
    if query(environ, "as") == "list":
        return [b"".join(wrapper)]
    if query(environ, "as") == "begun":
        next(wrapper)
    files[:] = [opened]
    return wrapper


files = []


def file_closed(environ, start_response):
    start_response("200 OK", TEXT)
    return [str(files[-1].closed).encode()]


class Reporting:
    def __init__(self, environ, file):
        self.environ, self.file = environ, file

    def read(self, size):
        return self.file.read(size)

    def close(self):
        self.file.close()
        report(self.environ, "closed")

    @property
    def closed(self):
        return self.file.closed


class Minimal:
    """read() and nothing else."""

    closed = "has no close()"

    def __init__(self, data):
        self.data = data

    def read(self, size):
        block, self.data = self.data[:size], self.data[size:]
        return block


def piped(data):
    receiving, sending = os.pipe()
    threading.Thread(target=feed, args=(sending, data)).start()
    return os.fdopen(receiving, "rb")


def feed(descriptor, data):
    with os.fdopen(descriptor, "wb") as f:
        f.write(data)


# --- threads

local = threading.local()
running = threading.Semaphore(0)
state = {"now": 0, "most": 0}
lock = threading.Lock()


def thread(environ, start_response):
    """Facts about the thread that runs this."""
    me = threading.current_thread()
    local.uses = getattr(local, "uses", 0) + 1
    start_response("200 OK", [("Content-Type", "application/json")])
    facts = {
        "name": me.name,
        "class": type(me).__name__,
        "known": me in threading.enumerate(),
        "ident": me.ident == threading.get_ident(),
        "uses": local.uses,
    }
    return [json.dumps(facts).encode()]


def blocked(environ, start_response):
    """Blocks until the file ?gate is there; the most that did so at once is kept."""
    with lock:
        state["now"] += 1
        state["most"] = max(state["most"], state["now"])
    report(environ, "blocks")
    while not os.path.exists(query(environ, "gate")):
        time.sleep(0.005)
    with lock:
        state["now"] -= 1
    start_response("200 OK", TEXT)
    return [b"went on"]


def most(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"%d" % state["most"]]


def short_sleep(environ, start_response):
    time.sleep(float(query(environ, "seconds", "0.002")))
    start_response("200 OK", TEXT)
    return [b"slept"]


def collect(environ, start_response):
    """References and memory, for the leak test."""
    import gc

    gc.collect()
    start_response("200 OK", [("Content-Type", "application/json")])
    rss = int(open("/proc/self/statm").read().split()[1]) * 4096
    facts = {
        "objects": len(gc.get_objects()),
        "rss": rss,
        "fds": len(os.listdir("/proc/self/fd")),
        "refs": sys.getrefcount(environ["wsgi.errors"]),
        "file_wrapper": sys.getrefcount(environ["wsgi.file_wrapper"]),
        "call": sys.getrefcount(type(start_response)),
        "script_name": sys.getrefcount(environ["SCRIPT_NAME"]),
        "blocks": sys.getallocatedblocks(),
    }
    return [json.dumps(facts).encode()]


def app(environ, start_response):
    name = environ["PATH_INFO"].split("/")[1]
    return globals()[name.replace("-", "_")](environ, start_response)
