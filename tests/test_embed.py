"""licorne.Config and licorne.Server in the test's own process: on three kinds of loop, in threads, one after the other.
What uvicorn does too runs on it as well: the oracle."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import http.client
import logging
import signal
import socket
import threading
import weakref

import pytest

from tests.support.embedded import App, descriptors, fetch, get, in_thread, library, loop_factory, port_of, run, until
from tests.support.server import wait_until

LOOPS = ["asyncio", "licorne", "uvloop"]
EACH = pytest.mark.parametrize(
    ("lib", "kind"), [*(("licorne", kind) for kind in LOOPS), ("uvicorn", "asyncio")], indirect=["lib"]
)


@pytest.fixture(params=["licorne", "uvicorn"])
def lib(request):
    return library(request.param)


@pytest.fixture
def licorne():
    return library("licorne")


@pytest.fixture(autouse=True)
def logs_as_they_were():
    """Config() configures uvicorn's loggers."""
    loggers = [logging.getLogger(name) for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")]
    before = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    yield
    for logger, level, handlers, propagate in before:
        logger.level, logger.handlers, logger.propagate = level, handlers, propagate
        logger.manager._clear_cache()


def quiet(lib, app, **parameters):
    return lib.Config(app, **{"port": 0, "log_config": None, **parameters})


@contextlib.asynccontextmanager
async def serving(server, **arguments):
    task = asyncio.ensure_future(server.serve(**arguments))
    try:
        await until(lambda: server.started or task.done())
        yield server
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 30)


# --- on the caller's loop ---------------------------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.sanitized
@EACH
def test_beside_others_on_the_same_loop(lib, kind):
    app = App()

    async def main():
        ticks = 0

        async def bot():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        other = asyncio.create_task(bot())
        async with serving(lib.Server(quiet(lib, app))) as server:
            port = port_of(server)
            assert await fetch(port, "/a%20b") == (200, b"/a b")
            assert await fetch(port, "/state") == (200, b"[('colour', 'white')]")
            assert await asyncio.gather(*(fetch(port, "/sleep") for _ in range(8))) == [(200, b"/sleep")] * 8
            assert (await fetch(port, "/error"))[0] == (await fetch(port, "/exit"))[0] == 500
            loop = type(asyncio.get_running_loop()).__module__
            assert await fetch(port, "/task") == (200, f"Task True {loop}".encode())
            assert await fetch(port, "/count", b"x" * 3_000_000) == (200, b"3000000")
            status, body = await fetch(port, "/many")
            assert (status, len(body)) == (200, 64 * 65536)
            assert server.server_state.total_requests >= 8
        assert app.notes == ["lifespan.startup", "lifespan.shutdown"]
        assert ticks > 3 and not other.done()
        other.cancel()

    run(kind, main())


@pytest.mark.sanitized
@pytest.mark.parametrize("kind", LOOPS)
def test_nothing_is_left(licorne, kind):
    """Servers come and go, also those that are cancelled in the middle; with their connections open."""

    async def once(end):
        app = App()
        server = licorne.Server(quiet(licorne, app))
        task = asyncio.ensure_future(server.serve())
        await until(lambda: server.started)
        port = port_of(server)
        idle = http.client.HTTPConnection("127.0.0.1", port)
        await asyncio.get_running_loop().run_in_executor(None, idle.connect)
        assert await fetch(port, "/sleep") == (200, b"/sleep")
        held = asyncio.ensure_future(fetch(port, "/held"))
        await until(lambda: "held" in app.notes)
        if end == "cancel":
            task.cancel()
            await asyncio.wait([task, held])
            assert isinstance(held.exception(), (http.client.HTTPException, OSError))
        else:
            server.should_exit = True
            app.release.set()
            await task
            assert await held == (200, b"/held")
        idle.close()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), 5).close()
        return weakref.ref(server), weakref.ref(app)

    async def main():
        await once("cancel")
        before, threads = descriptors(), threading.active_count()
        references = [await once(end) for end in ("exit", "cancel") * 3]
        await asyncio.sleep(0.05)  # tasks that were cancelled
        gc.collect()
        assert descriptors() == before
        assert threading.active_count() <= threads + 1  # the executor's
        assert [r() for pair in references for r in pair] == [None] * 12

    run(kind, main())


@EACH
def test_two_servers_on_one_loop(lib, kind):
    async def main():
        first, second = (lib.Server(quiet(lib, App())) for _ in range(2))
        async with serving(first), serving(second):
            assert port_of(first) != port_of(second)
            answers = await asyncio.gather(*(fetch(port_of(s), "/sleep") for s in (first, second, first, second)))
            assert answers == [(200, b"/sleep")] * 4

    run(kind, main())


@EACH
def test_websocket(lib, kind):
    connect = pytest.importorskip("websockets").connect

    async def main():
        app = App()
        async with serving(lib.Server(quiet(lib, app))) as server:
            uri = f"ws://127.0.0.1:{port_of(server)}/"
            async with connect(uri) as first, connect(uri) as second:
                for i in range(20):
                    await first.send(f"{i}")
                    await second.send("x" * 100_000)
                    assert await first.recv() == f"{i}"
                    assert len(await second.recv()) == 100_000
                await first.close(1000)
                server.should_exit = True
                await asyncio.wait_for(second.wait_closed(), 30)
                assert second.close_code == 1012
        assert "websocket 1000" in app.notes and "websocket 1012" in app.notes

    run(kind, main())


@pytest.mark.parametrize("kind", LOOPS)
def test_time_limits_of_connections(licorne, kind):
    """The timers of the core, on a loop that does nothing else."""

    async def main():
        async with serving(licorne.Server(quiet(licorne, App(), timeout_keep_alive=0.3, header_timeout=0.3))) as server:
            for sent in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTT"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
                writer.write(sent)
                received = await asyncio.wait_for(reader.read(), 30)
                assert received.startswith(b"HTTP/1.1 200" if sent.endswith(b"\n") else b"HTTP/1.1 408")
                writer.close()

    run(kind, main())


@pytest.mark.sanitized
@pytest.mark.parametrize("kind", LOOPS)
def test_clients_that_leave_and_requests_that_last(licorne, kind):
    notes = []

    async def app(scope, receive, send):
        if scope["path"] == "/watch":
            await receive()
            notes.append((await receive())["type"])
            return
        if scope["path"] == "/endless":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            with contextlib.suppress(licorne.ClientDisconnected):
                while True:
                    await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            notes.append("gone")
            return
        if scope["path"] == "/late":
            await asyncio.sleep(60)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def main():
        server = licorne.Server(quiet(licorne, app, lifespan="off", request_timeout=0.3))
        async with serving(server):
            address = ("127.0.0.1", port_of(server))
            for path, note in (("/watch", "http.disconnect"), ("/endless", "gone")):
                with socket.create_connection(address) as client:
                    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    await until(lambda: server.server_state.tasks)
                await until(lambda note=note: notes[-1:] == [note])
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20 + b"GET / HTTP/1.0\r\n\r\n")
            assert (await reader.read()).count(b"HTTP/1.1 200 OK") == 21
            writer.close()
            assert (await fetch(address[1], "/late"))[0] == 504

    run(kind, main())


def weak(thing, name):
    """Reads an attribute without keeping the thing alive."""
    reference = weakref.ref(thing)
    return lambda: getattr(reference(), name)


@pytest.mark.sanitized
@pytest.mark.parametrize("kind", LOOPS)
def test_the_loop_is_closed_under_a_server(licorne, kind):
    """What nobody should do must not crash."""
    loop = loop_factory(kind)()
    server = licorne.Server(quiet(licorne, App()))
    server.install_signal_handlers = lambda: None  # they would keep it alive
    task = loop.create_task(server.serve())
    loop.run_until_complete(until(weak(server, "started")))
    client = socket.create_connection(("127.0.0.1", port_of(server)))
    client.sendall(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
    loop.run_until_complete(until(weak(server.server_state, "tasks")))
    loop.close()
    client.settimeout(30)
    task._log_destroy_pending = False
    del task, server
    gc.collect()
    with contextlib.suppress(ConnectionError):
        assert client.recv(100) == b""
    client.close()


# --- in threads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["auto", "asyncio", "uvloop"])
def test_in_a_thread(lib, kind):
    """The fixture of a thousand answers."""

    class UvicornServer(lib.Server):
        def install_signal_handlers(self):
            pass

        @contextlib.contextmanager
        def run_in_thread(self):
            thread = threading.Thread(target=self.run)
            thread.start()
            try:
                wait_until(lambda: self.started, "the start")
                yield
            finally:
                self.should_exit = True
                thread.join()

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    app = App()
    server = UvicornServer(config=quiet(lib, app, loop=kind))
    with server.run_in_thread():
        assert get(port_of(server), "/x") == (200, b"/x")
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert app.notes == ["lifespan.startup", "lifespan.shutdown"]


@pytest.mark.sanitized
def test_two_threads(lib):
    first, second = (lib.Server(quiet(lib, App())) for _ in range(2))
    failures = []

    def load(server):
        for i in range(100):
            if get(port_of(server), f"/{i}") != (200, f"/{i}".encode()):
                failures.append(i)

    with in_thread(first), in_thread(second):
        threads = [threading.Thread(target=load, args=(s,)) for s in (first, second, first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_sockets_of_the_caller(lib):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        with in_thread(lib.Server(lib.Config(App(), log_config=None)), sockets=[sock]):
            assert get(port, "/x") == (200, b"/x")
        assert sock.fileno() == -1


def test_bind_socket(lib):
    config = quiet(lib, App())
    sock = config.bind_socket()
    with in_thread(lib.Server(config), sockets=[sock]):
        assert get(sock.getsockname()[1], "/x") == (200, b"/x")


def test_a_descriptor_and_a_unix_socket(lib, tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with in_thread(lib.Server(lib.Config(App(), fd=sock.fileno(), log_config=None))):
            assert get(sock.getsockname()[1], "/x") == (200, b"/x")
    for _ in range(2):  # what one leaves is no obstacle to the next
        server = lib.Server(lib.Config(App(), uds=path, log_config=None))
        with in_thread(server), socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")


def test_every_address_of_a_host(licorne):
    with in_thread(licorne.Server(quiet(licorne, App(), host="localhost"))) as server:
        for sock in server.servers[0].sockets:
            connection = http.client.HTTPConnection(*sock.getsockname()[:2], timeout=30)
            connection.request("GET", "/x")
            assert connection.getresponse().read() == b"/x"
            connection.close()


# --- the application --------------------------------------------------------------------------------------------------


def wsgi(environ, start_response):
    body = environ["wsgi.input"].read() + environ["PATH_INFO"].encode() + environ["QUERY_STRING"].encode()
    start_response("201 Created", [("Content-Type", "text/plain"), ("X-A", environ.get("HTTP_X_A", "-"))])
    yield body[:2]
    yield body[2:]


def asgi2(scope):
    return lambda receive, send: App()(scope, receive, send)


def make():
    return App()


@pytest.mark.parametrize(
    ("app", "parameters", "answer"),
    [
        ("tests.test_embed:make", {"factory": True}, (200, b"/x")),
        (make, {"factory": True}, (200, b"/x")),
        (make, {}, (200, b"/x")),
        (wsgi, {"interface": "wsgi"}, (201, b"/x")),
        (asgi2, {"interface": "asgi2"}, (200, b"/x")),
    ],
    ids=["named factory", "factory", "factory unsaid", "wsgi", "asgi2"],
)
def test_applications(lib, app, parameters, answer):
    config = quiet(lib, app, **parameters)
    assert not config.loaded
    config.load()
    assert config.loaded and config.interface in ("asgi3", "asgi2", "wsgi")
    with in_thread(lib.Server(config)) as server:
        assert get(port_of(server), "/x") == answer


def test_a2wsgi(lib):
    middleware = pytest.importorskip("a2wsgi").WSGIMiddleware(wsgi)
    with in_thread(lib.Server(quiet(lib, middleware, lifespan="off"))) as server:
        assert get(port_of(server), "/x", b"body") == (201, b"body/x")


def test_wsgi(licorne):
    """What the adapter has to do: bodies, errors, close(), write()."""
    closed = []

    class Body(list):
        def close(self):
            closed.append(True)

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/error":
            raise ValueError("no such luck")
        if environ["PATH_INFO"] == "/again":
            start_response("200 OK", [])
            try:
                raise KeyError("x")
            except KeyError as error:
                start_response("418 Teapot", [("X-Why", "x")], (type(error), error, error.__traceback__))
            return [b"no"]
        if environ["PATH_INFO"] == "/late":
            write = start_response("200 OK", [("Content-Length", "5")])
            write(b"ab")
            return Body([b"cde"])
        start_response("200 OK", [])
        return Body([str(len(environ["wsgi.input"].read())).encode()])

    config = quiet(licorne, app)
    with in_thread(licorne.Server(config)) as server:
        assert config.interface == "wsgi"
        assert get(port_of(server), "/", b"x" * 3_000_000) == (200, b"3000000")
        assert get(port_of(server), "/error")[0] == 500
        assert get(port_of(server), "/again") == (418, b"no")
        assert get(port_of(server), "/late") == (200, b"abcde")
        wait_until(lambda: closed == [True, True], "close()")
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("licorne-wsgi")], "its threads")


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


@EACH
@pytest.mark.parametrize("fresh", [False, True])
def test_context_variables(lib, kind, fresh):
    async def app(scope, receive, send):
        body = VARIABLE.get().encode()
        VARIABLE.set("by a request")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async def main():
        VARIABLE.set("by the caller")
        server = lib.Server(quiet(lib, app, lifespan="off", reset_contextvars=fresh))
        async with serving(server):
            for _ in range(2):
                answer = await fetch(port_of(server))
                assert answer == (200, b"unset" if fresh else b"by the caller")

    run(kind, main())


# --- the end, limits --------------------------------------------------------------------------------------------------


def test_requests_in_flight_are_answered(lib):
    app = App()
    server = lib.Server(quiet(lib, app))
    answers = []
    with in_thread(server):
        thread = threading.Thread(target=lambda: answers.append(get(port, "/held")))
        port = port_of(server)
        thread.start()
        wait_until(lambda: "held" in app.notes, "the request")
        server.should_exit = True
        wait_until(lambda: not accepts(port), "the end of accepting")
        app.release.set()
        thread.join()
    assert answers == [(200, b"/held")]
    assert app.notes == ["lifespan.startup", "held", "lifespan.shutdown"]


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


@EACH
def test_what_takes_too_long_is_cancelled(lib, kind):
    app = App()

    async def main():
        server = lib.Server(quiet(lib, app, timeout_graceful_shutdown=0.2))
        async with serving(server):
            held = asyncio.ensure_future(fetch(port_of(server), "/held"))
            await until(lambda: "held" in app.notes)
        status = (await asyncio.gather(held, return_exceptions=True))[0]
        assert isinstance(status, Exception) or status[0] == 500

    run(kind, main())
    assert sorted(app.notes) == ["cancelled", "held", "lifespan.shutdown", "lifespan.startup"]


def test_force_exit(lib):
    app = App()
    server = lib.Server(quiet(lib, app))
    with in_thread(server):
        client = socket.create_connection(("127.0.0.1", port_of(server)))
        client.sendall(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: "held" in app.notes, "the request")
        server.should_exit = True
        server.force_exit = True
    client.close()
    app.release.set()
    assert "lifespan.shutdown" not in app.notes


def test_limit_max_requests(lib):
    server = lib.Server(quiet(lib, App(), limit_max_requests=3))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, "the start")
    port = port_of(server)
    assert [get(port, "/x") for _ in range(3)] == [(200, b"/x")] * 3
    thread.join(30)
    assert not thread.is_alive() and not accepts(port)


def test_limit_concurrency(lib):
    app = App()
    with in_thread(lib.Server(quiet(lib, app, limit_concurrency=2))) as server, socket.socket() as client:
        client.connect(("127.0.0.1", port_of(server)))
        client.sendall(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: "held" in app.notes, "the request")
        with socket.create_connection(("127.0.0.1", port_of(server))):
            wait_until(lambda: get(port_of(server), "/x")[0] == 503, "the limit")
        app.release.set()


def test_settings_of_licorne(licorne):
    with in_thread(licorne.Server(quiet(licorne, App(), limit_request_body=10, headers=[("X-A", "b")]))) as server:
        assert get(port_of(server), "/count", b"x" * 10) == (200, b"10")
        assert get(port_of(server), "/count", b"x" * 11)[0] == 413


@pytest.mark.parametrize(
    ("parameters", "kind", "text"),
    [
        ({"prot": 1}, TypeError, "unexpected keyword argument 'prot'"),
        ({"pidfile": "x"}, TypeError, "pidfile: in the caller's process this has no meaning"),
        ({"ws_max_queue": 0, "backlog": "many"}, ValueError, "(?s)ws_max_queue = '0'.*backlog = 'many'"),
        ({"interface": "asgi4"}, ValueError, "must be one of auto, asgi3"),
        ({"ssl_certfile": "x"}, ValueError, "TLS is not supported yet"),
    ],
)
def test_mistakes(licorne, parameters, kind, text):
    with pytest.raises(kind, match=text):
        quiet(licorne, App(), **parameters)


# --- start and restart ------------------------------------------------------------------------------------------------


async def unwilling(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


@pytest.mark.parametrize("what", ["startup", "port", "import"])
def test_what_cannot_start(lib, what, caplog):
    caplog.set_level(logging.INFO)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        app = {"startup": unwilling, "port": App(), "import": "tests.no_such_module:app"}[what]
        server = lib.Server(quiet(lib, app, port=taken.getsockname()[1]))
        codes = []

        def target():
            try:
                server.run()
            except SystemExit as error:
                codes.append(error.code)

        thread = threading.Thread(target=target)
        thread.start()
        thread.join(30)
    assert (codes, server.started) == ([3], False)
    said = {"startup": "no database", "port": "address already in use", "import": "no_such_module"}[what]
    assert said in caplog.text
    if what == "port":
        assert app.notes == ["lifespan.startup", "lifespan.shutdown"]


def test_lifespan_by_exception(lib):
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await App()(scope, receive, send)

    with in_thread(lib.Server(quiet(lib, app))) as server:
        assert get(port_of(server), "/x") == (200, b"/x")
    server = lib.Server(quiet(lib, app, lifespan="on"))
    with pytest.raises(SystemExit):
        run("asyncio", server.serve())
    assert not server.started


@EACH
def test_restarting(lib, kind):
    """The server of httpx's own tests."""

    class TestServer(lib.Server):
        def install_signal_handlers(self):
            pass

        async def serve(self, sockets=None):
            self.restart_requested = asyncio.Event()
            loop = asyncio.get_running_loop()
            tasks = {loop.create_task(super().serve(sockets=sockets)), loop.create_task(self.watch_restarts())}
            await asyncio.wait(tasks)

        async def restart(self):
            self.started = False
            self.restart_requested.set()
            await until(lambda: self.started)

        async def watch_restarts(self):
            while not self.should_exit:
                try:
                    await asyncio.wait_for(self.restart_requested.wait(), timeout=0.05)
                except asyncio.TimeoutError:
                    continue
                self.restart_requested.clear()
                await self.shutdown()
                await self.startup()

    async def main():
        async with serving(TestServer(quiet(lib, App(), lifespan="off"))) as server:
            for _ in range(3):
                assert await fetch(port_of(server), "/x") == (200, b"/x")
                await server.restart()
            assert await fetch(port_of(server), "/x") == (200, b"/x")

    run(kind, main())


def test_the_parts_one_by_one(lib):
    """startup(), main_loop() and shutdown() as some fixtures call them."""

    async def main():
        app = App()
        config = quiet(lib, app)
        config.load()
        server = lib.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        assert server.started
        assert await fetch(port_of(server), "/x") == (200, b"/x")
        loop = asyncio.ensure_future(server.main_loop())
        server.should_exit = True
        await asyncio.wait_for(loop, 30)
        await server.shutdown()
        assert app.notes == ["lifespan.startup", "lifespan.shutdown"]
        return len(server.servers[0].sockets)

    before = descriptors()
    run("asyncio", main())
    assert descriptors() <= before


def test_on_tick_and_callback_notify(lib):
    notified = []

    async def notify():
        notified.append(True)

    class Server(lib.Server):
        ticks = 0

        async def on_tick(self, counter):
            self.ticks += 1
            return await super().on_tick(counter)

    with in_thread(Server(quiet(lib, App(), callback_notify=notify, timeout_notify=0))) as server:
        wait_until(lambda: server.ticks > 2 and notified, "the ticks")


# --- logs -------------------------------------------------------------------------------------------------------------


def test_logs(lib, caplog):
    caplog.set_level(logging.INFO)
    with in_thread(lib.Server(quiet(lib, App()))) as server:
        get(port_of(server), "/x?y=z")
        get(port_of(server), "/error")
    accesses = [record for record in caplog.records if record.name == "uvicorn.access"]
    assert [record.args[1:] for record in accesses] == [("GET", "/x?y=z", "1.1", 200), ("GET", "/error", "1.1", 500)]
    (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert error.name == "uvicorn.error" and "ASGI application" in error.message
    assert error.exc_info is not None and isinstance(error.exc_info[1], ValueError)
    info = [r.message for r in caplog.records if r.name == "uvicorn.error" and r.levelname == "INFO"]
    assert "Application startup complete." in info and "Shutting down" in info


@pytest.mark.parametrize("parameters", [{"access_log": False}, {"log_level": "warning"}, {"log_level": 30}])
def test_no_access_log(lib, caplog, parameters):
    caplog.set_level(logging.INFO)
    with in_thread(lib.Server(quiet(lib, App(), **parameters))) as server:
        get(port_of(server), "/x")
    assert [record for record in caplog.records if record.name == "uvicorn.access"] == []
