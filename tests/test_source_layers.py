"""Who may include whom: the layers that docs/architecture.md describes, as a test over the #include lines."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = sorted(p.relative_to(ROOT) for top in ("server", "config", "pyglue") for p in ROOT.glob(f"{top}/**/*.[ch]"))

# The first row whose prefix fits a file says what it may include of ours. A trailing "/" means the directory's files.
SEAM = ["server/app.h", "server/http/request.h", "server/http/websocket.h", "server/net/loop.h"]
BELOW = ["config/", "server/base/"]
LAYERS = {
    "config/": BELOW,
    "server/base/": ["server/base/"],
    "server/net/": ["server/net/", *BELOW],
    "server/http/": ["server/http/", "server/net/", "server/app.h", *BELOW],
    "server/process/": ["server/process/", "server/net/", "server/app.h", *BELOW],
    "server/app.h": ["server/http/request.h", *BELOW],
    "server/main.c": ["server/", "config/"],
    "pyglue/aioloop": ["pyglue/", "server/net/", *SEAM, *BELOW],
    "pyglue/mold": ["pyglue/", "server/process/", *SEAM, *BELOW],
    "pyglue/serve": ["pyglue/", "server/process/", "server/http/http_server.h", *SEAM, *BELOW],
    "pyglue/embed": ["pyglue/", "server/net/listener.h", "server/http/http_server.h", *SEAM, *BELOW],
    "pyglue/": ["pyglue/", *SEAM, *BELOW],
}

# Others' headers that belong to one place: header -> prefixes of the files that may include it.
CONFINED = {
    "Python.h": ["pyglue/"],
    "structmember.h": ["pyglue/"],
    "ev.h": ["server/net/", "pyglue/aioloop"],
    "ev.c": ["server/net/loop.c"],
    "llhttp.h": ["server/http/http1.c"],
}

# Protocol files get bytes from io and write into it; they never ask the kernel themselves.
SYSTEM_CALL = re.compile(
    r"(?<![\w.>])(read|readv|write|writev|recv\w*|send|sendto|sendmsg|sendfile|open|openat|close|shutdown|socket\w*|bind"
    r"|listen|accept4?|connect|[gs]etsockopt|get(sock|peer)name|fcntl|ioctl|poll|select|epoll_\w+|eventfd|pipe2?|fork"
    r"|kill|signal|sigaction|wait(pid|id|[34])?|nanosleep|usleep|sleep|mmap|munmap|gettimeofday|clock_gettime)\s*\("
)


def includes(path: pathlib.Path) -> list[tuple[int, str]]:
    lines = (ROOT / path).read_text().splitlines()
    found = ((number, re.match(r'\s*#\s*include\s*[<"]([^>"]+)[>"]', line)) for number, line in enumerate(lines, 1))
    return [(number, match[1]) for number, match in found if match]


def is_ours(header: str) -> bool:
    return header.startswith(("server/", "config/", "pyglue/"))


def allowed_for(path: pathlib.Path) -> list[str]:
    return next(allowed for prefix, allowed in LAYERS.items() if str(path).startswith(prefix))


def may_include(path: pathlib.Path, header: str) -> bool:
    if is_ours(header):
        return any(header == row or (row.endswith("/") and header.startswith(row)) for row in allowed_for(path))
    if header in CONFINED:
        return str(path).startswith(tuple(CONFINED[header]))
    return True


# The access log is a file that this process writes, not a message to a peer.
PROTOCOL_FILES = [p for p in SOURCES if str(p).startswith("server/http/") and p.stem != "access_log"]


def system_calls(text: str) -> list[str]:
    code = re.sub(r'/\*.*?\*/|//[^\n]*|"(\\.|[^"\\\n])*"', "", text, flags=re.DOTALL)
    return [match[1] for match in SYSTEM_CALL.finditer(code)]


def test_there_are_sources():
    assert len(SOURCES) > 10


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_includes_stay_within_layers(path):
    broken = [f"{path}:{line}: {header}" for line, header in includes(path) if not may_include(path, header)]
    assert not broken


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_our_headers_are_named_from_the_root(path):
    quoted = re.findall(r'#\s*include\s*"([^"]+)"', (ROOT / path).read_text())
    assert [header for header in quoted if not is_ours(header) and header not in CONFINED] == []


@pytest.mark.parametrize("path", PROTOCOL_FILES, ids=str)
def test_protocol_files_make_no_system_calls(path):
    assert system_calls((ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "header", "allowed"),
    [
        ("server/http/conn.c", "server/net/io.h", True),
        ("server/process/master.c", "server/http/request.h", False),
        ("server/net/io.c", "Python.h", False),
        ("pyglue/scope.c", "server/http/conn.h", False),
        ("server/base/buf.c", "server/net/io.h", False),
        ("server/http/conn.c", "llhttp.h", False),
    ],
)
def test_the_rules_themselves(path, header, allowed):
    assert may_include(pathlib.Path(path), header) == allowed


def test_what_counts_as_a_system_call():
    text = 'io_write(io); /* write(fd) */ conn->close(c); send(fd, "read(", 1, 0); // poll()\n close (fd);'
    assert system_calls(text) == ["send", "close"]
