"""Libraries that stand on asyncio, on our loop alone, against real servers: drivers, clients, servers, structured
concurrency. Whatever reaches the loop's exception handler fails the test: a callback that failed is a fault too."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiofiles
import aiofiles.os
import aiohttp
import aiohttp.web
import aiosqlite
import anyio
import anyio.to_thread
import asyncpg
import grpc
import grpc.aio
import httpx
import psycopg
import pytest
import sqlalchemy
import trustme
import websockets.asyncio.client
import websockets.asyncio.server
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import create_async_engine

import licorne
from support.databases import Postgres

BLOB = bytes(range(256)) * 4096  # 1 MiB: more than any buffer on the way
OWN_TEXT = Path(__file__).read_bytes()


@pytest.fixture
def run() -> Iterator[Callable[[Callable[..., Awaitable[Any]]], Any]]:
    """Runs a coroutine function on a new loop, and closes that as asyncio.run() does."""
    failures: list[dict[str, Any]] = []
    loop = licorne.new_event_loop()
    loop.set_exception_handler(lambda _, context: failures.append(context))

    def run(main: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return loop.run_until_complete(asyncio.wait_for(main(*args), 60))

    yield run
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert failures == []


class Certificates:
    def __init__(self) -> None:
        authority = trustme.CA()
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(self.server)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)


@pytest.fixture(scope="module")
def tls() -> Certificates:
    return Certificates()


# --- databases ---


def test_asyncpg(run: Callable, postgres: Postgres) -> None:
    async def main() -> None:
        async with asyncpg.create_pool(
            host=str(postgres.folder), user="tests", database="postgres", min_size=1, max_size=4
        ) as pool:
            rows = await asyncio.gather(*(pool.fetchval("SELECT $1::int * 2", i) for i in range(50)))
            assert rows == [2 * i for i in range(50)]
            assert await pool.fetchval("SELECT $1::bytea", BLOB) == BLOB
            async with pool.acquire() as connection:
                with pytest.raises(asyncio.TimeoutError):
                    await connection.fetch("SELECT pg_sleep(30)", timeout=0.02)
                async with connection.transaction():
                    steps = [row["i"] async for row in connection.cursor("SELECT generate_series(1, 500) AS i")]
                assert steps == list(range(1, 501))
                heard: asyncio.Queue[str] = asyncio.Queue()
                await connection.add_listener("news", lambda *event: heard.put_nowait(event[-1]))
                await pool.execute("NOTIFY news, 'hello'")
                assert await heard.get() == "hello"
                await connection.reset()
            with pytest.raises(asyncpg.UndefinedTableError):
                await pool.fetch("SELECT * FROM nowhere")

    run(main)


def test_psycopg(run: Callable, postgres: Postgres) -> None:
    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(postgres.conninfo, autocommit=True) as connection:
            cursor = await connection.execute("SELECT generate_series(1, 100)")
            assert [row[0] async for row in cursor] == list(range(1, 101))
            cursor = await connection.execute("SELECT %b::bytea", [BLOB])
            assert await cursor.fetchone() == (BLOB,)
            async with connection.pipeline():
                cursors = [await connection.execute("SELECT %s", [i]) for i in range(20)]
            assert [(await cursor.fetchone())[0] for cursor in cursors] == list(range(20))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(connection.execute("SELECT pg_sleep(30)"), 0.05)
            async with connection.cursor() as cursor, cursor.copy("COPY (SELECT 1, 'x') TO STDOUT") as copy:
                assert b"".join([bytes(part) async for part in copy]) == b"1\tx\n"

    run(main)


def test_sqlalchemy(run: Callable, postgres: Postgres) -> None:
    async def main() -> None:
        engine = create_async_engine(postgres.sqlalchemy_url)
        query = sqlalchemy.text("SELECT CAST(:i AS int) + 1")

        async def one(i: int) -> int:
            async with engine.connect() as connection:
                return await connection.scalar(query, {"i": i})

        assert await asyncio.gather(*map(one, range(30))) == list(range(1, 31))
        async with engine.connect() as connection:
            stream = await connection.stream(sqlalchemy.text("SELECT generate_series(1, 300)"))
            assert [row[0] async for row in stream] == list(range(1, 301))
        await engine.dispose()

    run(main)


def test_redis(run: Callable, redis: str) -> None:
    async def main() -> None:
        async with Redis(unix_socket_path=redis) as client:
            await client.set("blob", BLOB)
            assert await client.get("blob") == BLOB
            assert await asyncio.gather(*(client.incr("n") for _ in range(50)))
            assert await client.get("n") == b"50"
            async with client.pipeline(transaction=True) as pipe:
                assert await pipe.set("a", 1).incr("a").get("a").execute() == [True, 2, b"2"]
            async with client.pubsub() as channel:
                await channel.subscribe("news")
                await client.publish("news", "hello")
                async for message in channel.listen():
                    if message["type"] == "message":
                        assert message["data"] == b"hello"
                        break
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.blpop("nothing"), 0.05)

    run(main)


def test_aiosqlite(run: Callable, tmp_path: Path) -> None:
    async def main() -> None:
        async with aiosqlite.connect(tmp_path / "database") as database:
            await database.execute("CREATE TABLE t (i INTEGER)")
            await database.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(100)])
            await database.commit()
            async with database.execute("SELECT i FROM t ORDER BY i") as cursor:
                assert [row[0] async for row in cursor] == list(range(100))

    run(main)


# --- HTTP and WebSocket: clients and servers, with and without TLS ---


@contextlib.asynccontextmanager
async def aiohttp_server(context: ssl.SSLContext | None):
    async def echo(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        if "slow" in request.query:
            await asyncio.sleep(30)
        response = aiohttp.web.StreamResponse()
        await response.prepare(request)
        async for chunk in request.content.iter_chunked(65536):
            await response.write(chunk)
        await response.write_eof()
        return response

    async def websocket(request: aiohttp.web.Request) -> aiohttp.web.WebSocketResponse:
        socket = aiohttp.web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    async def file(request: aiohttp.web.Request) -> aiohttp.web.FileResponse:
        return aiohttp.web.FileResponse(__file__)  # by loop.sendfile() where there is no TLS

    app = aiohttp.web.Application(client_max_size=0)
    app.router.add_post("/echo", echo)
    app.router.add_get("/websocket", websocket)
    app.router.add_get("/file", file)
    runner = aiohttp.web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield f"{'https' if context else 'http'}://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


with_and_without_tls = pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])


@with_and_without_tls
def test_aiohttp_client_and_server(run: Callable, tls: Certificates, secure: bool) -> None:
    async def main() -> None:
        connector = aiohttp.TCPConnector(ssl=tls.client if secure else False)
        async with aiohttp_server(tls.server if secure else None) as url:
            async with aiohttp.ClientSession(connector=connector) as session:

                async def post(i: int) -> None:
                    body = b"%d" % i if i else BLOB
                    async with session.post(f"{url}/echo", data=body) as response:
                        assert await response.read() == body

                await asyncio.gather(*map(post, range(20)))
                async with session.ws_connect(f"{url}/websocket") as socket:
                    for text in "hello", "x" * 100_000:
                        await socket.send_str(text)
                        assert (await socket.receive()).data == text
                async with session.get(f"{url}/file") as response:
                    assert await response.read() == OWN_TEXT
                with pytest.raises(asyncio.TimeoutError):
                    await session.post(f"{url}/echo?slow", timeout=aiohttp.ClientTimeout(total=0.1))
            await asyncio.sleep(0)

    run(main)


@with_and_without_tls
def test_httpx(run: Callable, tls: Certificates, secure: bool) -> None:
    async def main() -> None:
        async with aiohttp_server(tls.server if secure else None) as url:
            async with httpx.AsyncClient(base_url=url, verify=tls.client, trust_env=False) as client:
                answers = await asyncio.gather(*(client.post("/echo", content=b"%d" % i) for i in range(20)))
                assert [answer.content for answer in answers] == [b"%d" % i for i in range(20)]
                async with client.stream("POST", "/echo", content=BLOB) as response:
                    assert b"".join([part async for part in response.aiter_bytes()]) == BLOB
                with pytest.raises(httpx.ReadTimeout):
                    await client.post("/echo?slow", timeout=0.1)
            if secure:
                async with httpx.AsyncClient(trust_env=False) as client:
                    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                        await client.get(url)

    run(main)


@with_and_without_tls
def test_websockets(run: Callable, tls: Certificates, secure: bool) -> None:
    async def echo(connection: websockets.asyncio.server.ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def main() -> None:
        context = tls.server if secure else None
        async with websockets.asyncio.server.serve(echo, "127.0.0.1", 0, ssl=context, max_size=None) as server:
            port = server.sockets[0].getsockname()[1]
            url = f"{'wss' if secure else 'ws'}://localhost:{port}"
            connect = functools.partial(websockets.asyncio.client.connect, max_size=None, proxy=None)
            async with connect(url, ssl=tls.client if secure else None) as client:
                for message in "hello", BLOB, "":
                    await client.send(message)
                    assert await client.recv() == message
                await (await client.ping())
            assert client.close_code == 1000

    run(main)


def test_grpc(run: Callable) -> None:
    """Its own threads do the polling, and wake the loop by a descriptor."""

    class Echo(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            async def stream(requests: Any, context: Any):
                async for request in requests:
                    yield request

            async def unary(request: bytes, context: Any) -> bytes:
                return request

            if details.method.endswith("Stream"):
                return grpc.stream_stream_rpc_method_handler(stream)
            return grpc.unary_unary_rpc_method_handler(unary)

    async def main() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Echo(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/Echo/Unary")
            assert await asyncio.gather(*(call(b"%d" % i) for i in range(20))) == [b"%d" % i for i in range(20)]
            stream = channel.stream_stream("/Echo/Stream")(iter([b"a", b"b", BLOB]))
            assert [message async for message in stream] == [b"a", b"b", BLOB]
        await server.stop(None)

    run(main)


# --- files, threads, subprocesses ---


def test_aiofiles(run: Callable, tmp_path: Path) -> None:
    async def main() -> None:
        async with aiofiles.open(tmp_path / "file", "wb") as file:
            await file.write(BLOB)
        async with aiofiles.open(tmp_path / "file", "rb") as file:
            assert await file.read() == BLOB
        await asyncio.gather(*(aiofiles.os.stat(tmp_path / "file") for _ in range(10)))

    run(main)


def test_to_thread(run: Callable) -> None:
    def work(i: int) -> tuple[int, bool]:
        time.sleep(0.001)
        return i, threading.current_thread() is threading.main_thread()

    async def main() -> None:
        assert await asyncio.gather(*(asyncio.to_thread(work, i) for i in range(40))) == [(i, False) for i in range(40)]
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)

    run(main)


def test_subprocess(run: Callable) -> None:
    async def cat(data: bytes) -> tuple[bytes, bytes, int | None]:
        pipe = asyncio.subprocess.PIPE
        command = ["sh", "-c", "cat; echo done >&2; exit 3"]
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
        return *await process.communicate(data), process.returncode

    async def main() -> None:
        assert await asyncio.gather(*(cat(BLOB) for _ in range(4))) == [(BLOB, b"done\n", 3)] * 4
        process = await asyncio.create_subprocess_exec("sleep", "100")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), 0.02)
        process.terminate()
        assert await process.wait() == -15
        shell = await asyncio.create_subprocess_shell("echo $((6 * 7))", stdout=asyncio.subprocess.PIPE)
        assert await shell.communicate() == (b"42\n", None)

    run(main)


# --- anyio, by its own front door: asyncio's backend with our loop factory ---


def run_anyio(main: Callable[[], Awaitable[Any]]) -> Any:
    async def on_our_loop() -> Any:
        assert isinstance(asyncio.get_running_loop(), licorne.Loop)
        with anyio.fail_after(60):
            return await main()

    return anyio.run(on_our_loop, backend="asyncio", backend_options={"loop_factory": licorne.new_event_loop})


def test_anyio_cancellation() -> None:
    async def main() -> None:
        with anyio.move_on_after(0.02) as scope:
            await anyio.sleep(30)
        assert scope.cancelled_caught
        ended = []

        async def worker(i: int) -> None:
            try:
                await anyio.sleep(30)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.001)
                ended.append(i)

        with pytest.raises(BaseException) as caught:  # an ExceptionGroup, where Python has none of its own
            async with anyio.create_task_group() as group:
                for i in range(10):
                    group.start_soon(worker, i)
                await anyio.sleep(0.001)
                raise ValueError("boom")
        assert [str(error) for error in caught.value.exceptions] == ["boom"]
        assert sorted(ended) == list(range(10))

    run_anyio(main)


@with_and_without_tls
def test_anyio_sockets(tls: Certificates, secure: bool) -> None:
    async def serve(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            with contextlib.suppress(anyio.EndOfStream):
                while True:
                    await stream.send(await stream.receive())

    async def main() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        server = anyio.streams.tls.TLSListener(listener, tls.server, standard_compatible=False) if secure else listener
        options = {
            "tls": True,
            "ssl_context": tls.client,
            "tls_hostname": "localhost",
            "tls_standard_compatible": False,
        }
        async with server, anyio.create_task_group() as group:
            group.start_soon(server.serve, serve)
            async with await anyio.connect_tcp("127.0.0.1", port, **(options if secure else {})) as client:
                async with anyio.create_task_group() as sending:
                    sending.start_soon(client.send, BLOB)
                    received = b""
                    while len(received) < len(BLOB):
                        received += await client.receive()
                assert received == BLOB
            group.cancel_scope.cancel()

    run_anyio(main)


def test_anyio_unix_sockets_and_udp(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "socket"
        async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as group:

            async def serve(stream: anyio.abc.SocketStream) -> None:
                async with stream:
                    await stream.send((await stream.receive())[::-1])

            group.start_soon(listener.serve, serve)
            async with await anyio.connect_unix(path) as client:
                await client.send(b"hello")
                assert await client.receive() == b"olleh"
            group.cancel_scope.cancel()
        async with await anyio.create_udp_socket(local_host="127.0.0.1") as one:
            port = one.extra(anyio.abc.SocketAttribute.local_port)
            async with await anyio.create_connected_udp_socket("127.0.0.1", port) as other:
                await other.send(b"ping")
                data, address = await one.receive()
                await one.sendto(data[::-1], *address)
                assert await other.receive() == b"gnip"

    run_anyio(main)


def test_anyio_threads_and_subprocesses() -> None:
    async def main() -> None:
        async def from_thread() -> str:
            return "from the loop"

        assert await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(from_thread)) == "from the loop"
        results = []
        async with anyio.create_task_group() as group:
            for i in range(20):
                group.start_soon(lambda i=i: collect(results, i))
        assert sorted(results) == list(range(20))
        done = await anyio.run_process(["tr", "a-z", "A-Z"], input=b"hello")
        assert done.stdout == b"HELLO"
        async with await anyio.open_process(["cat"]) as process:
            await process.stdin.send(b"x")
            assert await process.stdout.receive() == b"x"
            await process.stdin.aclose()
            assert await process.wait() == 0

    async def collect(results: list[int], i: int) -> None:
        results.append(await anyio.to_thread.run_sync(lambda: i))

    run_anyio(main)
