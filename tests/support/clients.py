"""Five HTTP clients behind one face, so that one list of requests can be sent by each of them.

    replies = drive("httpx", server, [Request("GET", "/"), ...], keep=True)

All requests of a list go out one after the other, over one connection when `keep`, else each over a connection of its
own. Cookies are kept in the client's own jar. `Feed` reads lines of a response while it is being produced.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import requests
import requests.adapters
import urllib3
import urllib3.connection
import urllib3.connectionpool

from .server import DEADLINE, Server


@dataclass
class Request:
    method: str
    path: str  # as it stands in the request line: encoded
    json: Any = None
    form: dict[str, str] | None = None  # urlencoded, or fields of the multipart body when there is a file
    file: tuple[str, bytes] | None = None  # name and content of the field "file"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]  # lower-case names
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


def lowered(pairs: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in pairs}


def socket_path(server: Server) -> str | None:
    return server.address if isinstance(server.address, str) else None


# --- httpx


def httpx_client(server: Server, keep: bool = True) -> httpx.Client:
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1 if keep else 0)
    transport = httpx.HTTPTransport(uds=socket_path(server), limits=limits)
    return httpx.Client(base_url=server.url, transport=transport, timeout=DEADLINE, trust_env=False)


def drive_httpx(server: Server, wanted: list[Request], keep: bool) -> list[Reply]:
    replies = []
    with httpx_client(server, keep) as client:
        for one in wanted:
            files = {"file": one.file} if one.file else None
            got = client.request(
                one.method, one.path, json=one.json, data=one.form, files=files, headers=one.headers or None
            )
            replies.append(Reply(got.status_code, lowered(got.headers.items()), got.content))
    return replies


# --- urllib3, and requests over it


class UnixConnection(urllib3.connection.HTTPConnection):
    """urllib3 knows no unix sockets; the path arrives as the only keyword of its own."""

    def __init__(self, *args: Any, unix_path: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self.unix_path = unix_path

    def _new_conn(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(DEADLINE)
        client.connect(self.unix_path)
        return client


class UnixPool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = UnixConnection


def urllib3_pool(server: Server) -> urllib3.connectionpool.HTTPConnectionPool:
    path = socket_path(server)
    if path:
        return UnixPool("localhost", maxsize=1, timeout=DEADLINE, unix_path=path)
    host, port = server.address
    return urllib3.connectionpool.HTTPConnectionPool(str(host), int(port), maxsize=1, timeout=DEADLINE)


def drive_urllib3(server: Server, wanted: list[Request], keep: bool) -> list[Reply]:
    jar: dict[str, str] = {}
    replies = []
    with urllib3_pool(server) as pool:
        for one in wanted:
            headers = dict(one.headers)
            if jar:
                headers["cookie"] = "; ".join(f"{name}={value}" for name, value in jar.items())
            if not keep:
                headers["connection"] = "close"
            options: dict[str, Any] = {"headers": headers}
            if one.json is not None:
                options["json"] = one.json
            elif one.form or one.file:
                fields: dict[str, Any] = dict(one.form or {})
                if one.file:
                    fields["file"] = one.file
                options |= {"fields": fields, "encode_multipart": bool(one.file)}
            got = pool.request(one.method, one.path, redirect=False, retries=False, **options)
            for line in got.headers.getlist("set-cookie"):
                name, _, value = line.partition(";")[0].partition("=")
                jar[name] = value
            replies.append(Reply(got.status, lowered(got.headers.items()), got.data))
    return replies


class UnixAdapter(requests.adapters.HTTPAdapter):
    def __init__(self, server: Server) -> None:
        self.pool = urllib3_pool(server)
        super().__init__()

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> urllib3.connectionpool.HTTPConnectionPool:
        return self.pool

    def close(self) -> None:
        self.pool.close()
        super().close()


def requests_session(server: Server) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    if socket_path(server):
        session.mount("http://", UnixAdapter(server))
    return session


def drive_requests(server: Server, wanted: list[Request], keep: bool) -> list[Reply]:
    replies = []
    with requests_session(server) as session:
        for one in wanted:
            got = session.request(
                one.method,
                server.url + one.path,
                json=one.json,
                data=one.form,
                files={"file": one.file} if one.file else None,
                headers={**one.headers, **({} if keep else {"connection": "close"})},
                timeout=DEADLINE,
                allow_redirects=False,
            )
            replies.append(Reply(got.status_code, lowered(got.headers.items()), got.content))
    return replies


# --- aiohttp


def aiohttp_session(server: Server, keep: bool = True) -> aiohttp.ClientSession:
    path = socket_path(server)
    connector: aiohttp.BaseConnector
    if path:
        connector = aiohttp.UnixConnector(path=path, limit=1, force_close=not keep)
    else:
        connector = aiohttp.TCPConnector(limit=1, force_close=not keep)
    return aiohttp.ClientSession(
        server.url,
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=DEADLINE),
        cookie_jar=aiohttp.CookieJar(unsafe=True),  # unsafe: also for hosts that are addresses
    )


def drive_aiohttp(server: Server, wanted: list[Request], keep: bool) -> list[Reply]:
    async def all_of_them() -> list[Reply]:
        replies = []
        async with aiohttp_session(server, keep) as session:
            for one in wanted:
                data: Any = one.form
                if one.file:
                    data = aiohttp.FormData(one.form or {})
                    data.add_field("file", one.file[1], filename=one.file[0])
                async with session.request(
                    one.method, one.path, json=one.json, data=data, headers=one.headers, allow_redirects=False
                ) as got:
                    replies.append(Reply(got.status, lowered(got.headers.items()), await got.read()))
        return replies

    return asyncio.run(all_of_them())


# --- curl


def curl_address(server: Server) -> list[str]:
    path = socket_path(server)
    return ["--unix-socket", path] if path else []


def curl_arguments(server: Server, one: Request, folder: Path, number: int) -> list[str]:
    arguments = [
        *curl_address(server),
        *["--silent", "--show-error", "--noproxy", "*", "--max-time", str(int(DEADLINE))],
        *["--cookie", str(folder / "jar"), "--cookie-jar", str(folder / "jar")],
        # The answer to HEAD goes nowhere, as curl would write the head once more.
        *["--output", "/dev/null" if one.method == "HEAD" else str(folder / f"{number}.body")],
        *["--dump-header", str(folder / f"{number}.head")],
    ]
    headers = dict(one.headers)
    if one.json is not None:
        (folder / f"{number}.json").write_text(json.dumps(one.json))
        headers["content-type"] = "application/json"
        arguments += ["--data-binary", f"@{folder / f'{number}.json'}"]
    for name, value in (one.form or {}).items():
        arguments += ["--form-string" if one.file else "--data-urlencode", f"{name}={value}"]
    if one.file:
        (folder / f"{number}.file").write_bytes(one.file[1])
        arguments += ["--form", f'file=@{folder / f"{number}.file"};filename="{one.file[0]}"']
    for name, value in headers.items():
        arguments += ["--header", f"{name}: {value}"]
    arguments += ["--head"] if one.method == "HEAD" else ["--request", one.method]
    return [*arguments, server.url + one.path]


def curl_reply(folder: Path, number: int) -> Reply:
    blocks = (folder / f"{number}.head").read_bytes().decode("latin-1").strip().split("\r\n\r\n")
    status, *lines = blocks[-1].split("\r\n")  # those before it: 100 Continue
    headers = lowered(line.split(": ", 1) for line in lines)
    body = folder / f"{number}.body"
    return Reply(int(status.split()[1]), headers, body.read_bytes() if body.exists() else b"")


def drive_curl(server: Server, wanted: list[Request], keep: bool) -> list[Reply]:
    with tempfile.TemporaryDirectory(prefix="licorne-curl-") as name:
        folder = Path(name)
        each = [curl_arguments(server, one, folder, number) for number, one in enumerate(wanted)]
        if keep:  # one process, one connection: --next separates the requests
            runs = [[word for number, words in enumerate(each) for word in (["--next"] if number else []) + words]]
        else:
            runs = each
        for words in runs:
            done = subprocess.run(["curl", *words], capture_output=True, text=True)
            assert done.returncode == 0, f"curl: {done.returncode}: {done.stderr}"
        return [curl_reply(folder, number) for number in range(len(wanted))]


# --- all of them

DRIVERS: dict[str, Callable[[Server, list[Request], bool], list[Reply]]] = {
    "httpx": drive_httpx,
    "requests": drive_requests,
    "aiohttp": drive_aiohttp,
    "urllib3": drive_urllib3,
    "curl": drive_curl,
}


def drive(client: str, server: Server, wanted: list[Request], keep: bool = True) -> list[Reply]:
    return DRIVERS[client](server, wanted, keep)


# --- reading while it is produced


def feed_httpx(server: Server, path: str) -> Iterator[str]:
    with httpx_client(server) as client, client.stream("GET", path) as got:
        yield from got.iter_lines()


def feed_requests(server: Server, path: str) -> Iterator[str]:
    with requests_session(server) as session, session.get(server.url + path, stream=True, timeout=DEADLINE) as got:
        for line in got.iter_lines(chunk_size=None):
            yield line.decode()


def feed_urllib3(server: Server, path: str) -> Iterator[str]:
    with urllib3_pool(server) as pool:
        got = pool.request("GET", path, preload_content=False, retries=False)
        try:
            rest = b""
            for chunk in got.read_chunked():
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode() for line in lines)
        finally:
            got.close()


def feed_aiohttp(server: Server, path: str) -> Iterator[str]:
    loop = asyncio.new_event_loop()
    session = loop.run_until_complete(make(aiohttp_session, server))
    try:
        got = loop.run_until_complete(session.get(path))
        while line := loop.run_until_complete(got.content.readline()):
            yield line.decode().rstrip("\n")
        got.close()
    finally:
        loop.run_until_complete(session.close())
        loop.close()


async def make(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def feed_curl(server: Server, path: str) -> Iterator[str]:
    command = ["curl", *curl_address(server), "--silent", "--no-buffer", "--noproxy", "*", server.url + path]
    curl = subprocess.Popen([*command, "--max-time", str(int(DEADLINE))], stdout=subprocess.PIPE, text=True)
    assert curl.stdout is not None
    try:
        for line in curl.stdout:
            yield line.rstrip("\n")
    finally:
        curl.stdout.close()
        curl.kill()
        curl.wait()


FEEDS: dict[str, Callable[[Server, str], Iterator[str]]] = {
    "httpx": feed_httpx,
    "requests": feed_requests,
    "aiohttp": feed_aiohttp,
    "urllib3": feed_urllib3,
    "curl": feed_curl,
}


@contextlib.contextmanager
def feed(client: str, server: Server, path: str) -> Iterator[Iterator[str]]:
    """The lines of a response as they come. Leaving the block hangs up, in the middle of the response."""
    lines = FEEDS[client](server, path)
    with contextlib.closing(lines):  # type: ignore[type-var]
        yield lines


def pattern(mib: int) -> bytes:
    """What the examples' /download/<mib> sends."""
    return bytes(range(256)) * 4096 * mib


def random_bytes(size: int) -> bytes:
    return os.urandom(size)
