"""`licorne.Server`: a server in the caller's process, on the caller's event loop, used as `uvicorn.Server` is.

    await licorne.Server(licorne.Config(app, port=0)).serve()          # beside whatever else runs on this loop
    threading.Thread(target=licorne.Server(config).run).start()        # a loop of its own, in a thread of its own

HTTP is the C core's (pyglue/embed.h). What is here happens once a server: the lifespan, the sockets, the signals, the
end.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import FrameType
from typing import Any

from licorne import _core
from licorne.config import STARTUP_FAILURE, Config, tcp_socket, unix_socket, url_host

HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM)
TICK_SECONDS = 0.1
CANCELLED_SECONDS = 2.0  # what tasks that were cancelled may take to end

logger = logging.getLogger("uvicorn.error")


class Listening:
    """One of `Server.servers`: what asyncio.Server is for others. `sockets` is empty once it is closed."""

    def __init__(self, sockets: Sequence[socket.socket], path: str | None = None) -> None:
        self.sockets = tuple(sockets)
        self._path = path
        self._inode = os.stat(path).st_ino if path is not None else 0
        self._core: _core.HttpServer | None = None

    def start(self, core: _core.HttpServer, backlog: int) -> None:
        """Accepts from now on."""
        self._core = core
        for sock in self.sockets:
            sock.setblocking(False)
            sock.listen(backlog)
            core.listen(sock.fileno())

    def is_serving(self) -> bool:
        return bool(self.sockets) and self._core is not None

    def close(self) -> None:
        sockets, self.sockets = self.sockets, ()
        for sock in sockets:
            if self._core is not None and sock.fileno() >= 0:
                self._core.unlisten(sock.fileno())
            sock.close()
        self._core = None
        if sockets and self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._path).st_ino == self._inode:
                    os.remove(self._path)

    async def wait_closed(self) -> None:
        pass


class ServerState:
    """What a server has done and is doing, as far as it can be told by numbers."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._served = 0  # by cores that are gone

    @property
    def total_requests(self) -> int:
        core = self._server._core
        return self._served + (core.requests if core is not None else 0)

    @property
    def connections(self) -> range:
        """As many items as there are connections."""
        core = self._server._core
        return range(core.connections if core is not None else 0)

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """Of the requests and WebSockets that are not over."""
        core = self._server._core
        return set(core.tasks()) if core is not None else set()


class Server:
    """Serves what `config` says. The names are those of `uvicorn.Server`.

    `started` is true once connections are accepted. Setting `should_exit`, from any thread, ends it in good order: what
    is being answered is answered, the lifespan gets its shutdown; `force_exit` as well: at once. In the main thread INT
    and TERM do the same while it serves, and are raised again afterwards for whoever handled them before; a subclass
    or an instance whose `install_signal_handlers` is its own gets no handlers."""

    servers: list[Listening]
    lifespan: Any

    def __init__(self, config: Config) -> None:
        self.config = config
        self.server_state = ServerState(self)
        self.servers = []
        self.started = False
        self.last_notified = 0.0
        self._should_exit = False
        self._force_exit = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Event | None = None  # something has changed that main_loop() or shutdown() look at
        self._core: _core.HttpServer | None = None
        self._worn = False  # limit_max_requests is reached
        self._captured_signals: list[int] = []

    # --- ending

    @property
    def should_exit(self) -> bool:
        return self._should_exit

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._should_exit = value
        self._wake()

    @property
    def force_exit(self) -> bool:
        return self._force_exit

    @force_exit.setter
    def force_exit(self, value: bool) -> None:
        self._force_exit = value
        self._wake()

    def _wake(self) -> None:
        loop, news = self._loop, self._news
        if loop is not None and news is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(news.set)

    def _notified(self, event: str) -> None:
        """By the core, on the loop's thread."""
        self._worn |= event == "max_requests"
        if self._news is not None:
            self._news.set()

    # --- signals

    def install_signal_handlers(self) -> None:
        """Overridden by those who handle signals themselves: then none are handled here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """INT and TERM come here meanwhile; what came is raised again at the end. Only in the main thread."""
        own = getattr(self.install_signal_handlers, "__func__", None) is not Server.install_signal_handlers
        if own or threading.current_thread() is not threading.main_thread():
            self.install_signal_handlers()
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            with _waking_signals(asyncio.get_running_loop()):
                yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        for number in reversed(self._captured_signals):
            signal.raise_signal(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The handler of INT and TERM."""
        self._captured_signals.append(sig)
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        else:
            self.should_exit = True

    # --- serving

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves on a loop of its own, the one that `config.loop` names, until the end."""
        return _run(self.serve(sockets=sockets), self.config.get_loop_factory())

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves on the running loop until the end. SystemExit(3) when it cannot start. `sockets`: bound ones, which it
        closes; else it makes what `config` says."""
        with self.capture_signals():
            await self._serve(sockets)

    async def _serve(self, sockets: list[socket.socket] | None = None) -> None:
        if not self.config.loaded:
            self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        logger.info("Started server process [%d]", os.getpid())
        try:
            await self.startup(sockets=sockets)
            if not self.should_exit:
                await self.main_loop()
            if self.started:
                await self.shutdown(sockets=sockets)
                logger.info("Finished server process [%d]", os.getpid())
        except BaseException:
            self._give_up()
            raise
        finally:
            self._close(sockets)
            self._loop = self._news = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """The lifespan's startup, then the sockets. SystemExit(3) when one of them fails."""
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        try:
            self.servers = await self._bind(sockets)
        except OSError as error:
            logger.error(error)
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        self._open()
        if sockets is None:
            self._log_started_message()
        self.started = True

    def _open(self) -> None:
        config = self.config
        context = contextvars.Context() if config.reset_contextvars else contextvars.copy_context()
        access = logging.getLogger("uvicorn.access")
        _core.log_embed()
        try:
            self._core = _core.HttpServer(
                loop=asyncio.get_running_loop(),
                application=config.loaded_app,
                version=2 if config.interface == "asgi2" else 3,
                state=None if config.lifespan == "off" else self.lifespan.state,
                context=context,
                settings=[*config.core_settings(), ("max_requests", str(self._limit_max_requests()))],
                access=bool(config.access_log) and access.isEnabledFor(logging.INFO) and access.hasHandlers(),
                notify=self._notified,
            )
        except BaseException:
            _core.log_leave()
            raise
        for server in self.servers:
            server.start(self._core, config.backlog)

    def _limit_max_requests(self) -> int:
        limit = self.limit_max_requests
        return 0 if limit is None else max(limit, 1)

    @property
    def limit_max_requests(self) -> int | None:
        """After how many requests it ends; with the jitter of `config`, drawn once."""
        limit = self.config.limit_max_requests
        if limit is None:
            return None
        drawn = self.__dict__.setdefault("_jitter", random.randint(0, self.config.limit_max_requests_jitter))
        return limit + drawn

    async def _bind(self, sockets: list[socket.socket] | None) -> list[Listening]:
        config = self.config
        if sockets is not None:
            return [Listening([sock]) for sock in sockets]
        if config.fd is not None:
            return [Listening([socket.socket(fileno=os.dup(config.fd))])]
        if config.uds is not None:
            return [Listening([unix_socket(config.uds)], config.uds)]
        return [Listening(await _tcp_sockets(config.host or None, config.port))]

    def _log_started_message(self) -> None:
        config, first = self.config, self.servers[0].sockets[0]
        if config.fd is not None:
            where = f"socket {first.getsockname()}"
        elif config.uds is not None:
            where = f"unix socket {config.uds}"
        else:
            where = f"http://{url_host(config.host or '')}:{config.port or first.getsockname()[1]}"
        logger.info("licorne running on %s (Press CTRL+C to quit)", where)

    async def main_loop(self) -> None:
        """Waits until it is to end."""
        ticks = self.config.callback_notify is not None or type(self).on_tick is not Server.on_tick
        counter = 0
        while True:
            assert self._news is not None
            self._news.clear()
            if await self.on_tick(counter):
                return
            counter = (counter + 1) % 864000
            await self._wait_for_news(TICK_SECONDS if ticks else None)

    async def on_tick(self, counter: int) -> bool:
        """Looks whether it is to end. Called when that may be so; where it is overridden, and with `callback_notify`,
        ten times a second."""
        notify, now = self.config.callback_notify, time.time()
        if notify is not None and now - self.last_notified > self.config.timeout_notify:
            self.last_notified = now
            await notify()
        if self._worn and not self.should_exit:
            logger.info("Maximum request limit of %s exceeded. Terminating process.", self.limit_max_requests)
        return self.should_exit or self._worn

    async def _wait_for_news(self, timeout: float | None = None) -> None:
        assert self._news is not None
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._news.wait(), timeout)

    # --- the end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts no more, waits for what is being answered, at most `config.timeout_graceful_shutdown`; then the
        lifespan's shutdown."""
        logger.info("Shutting down")
        for server in self.servers:
            server.close()
        if self._core is not None:
            self._core.drain()
            try:
                await asyncio.wait_for(self._wait_until_done(), self.config.timeout_graceful_shutdown)
            except asyncio.TimeoutError:
                await self._cancel_tasks()
        self._close(sockets)
        if not self.force_exit:
            await self.lifespan.shutdown()

    async def _wait_until_done(self) -> None:
        state = self.server_state
        if state.connections and not self.force_exit:
            logger.info("Waiting for connections to close. (CTRL+C to force quit)")
        while state.connections and not self.force_exit:
            await self._wait_for_tasks(set())
        if state.tasks and not self.force_exit:
            logger.info("Waiting for background tasks to complete. (CTRL+C to force quit)")
        while state.tasks and not self.force_exit:
            await self._wait_for_tasks(state.tasks)

    async def _wait_for_tasks(self, tasks: set[asyncio.Task[None]]) -> None:
        """Until one of them is done, or there are news."""
        assert self._news is not None
        self._news.clear()
        if self.force_exit or (not tasks and not self.server_state.connections):
            return
        news = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait({news, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()

    async def _cancel_tasks(self) -> None:
        tasks = self.server_state.tasks
        logger.error("Cancel %s running task(s), timeout graceful shutdown exceeded", len(tasks))
        for task in tasks:
            task.cancel(msg="Task cancelled, timeout graceful shutdown exceeded")
        if tasks:
            await asyncio.wait(tasks, timeout=CANCELLED_SECONDS)

    def _give_up(self) -> None:
        """serve() itself is cancelled, or has failed: nobody waits for anything any more."""
        if self._loop is None or self._loop.is_closed():
            return
        for task in self.server_state.tasks:
            task.cancel()
        self.lifespan.cancel()

    def _close(self, sockets: list[socket.socket] | None) -> None:
        """Whatever is still open. Idempotent."""
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        core, self._core = self._core, None
        if core is None:
            return
        self.server_state._served += core.requests
        core.close()
        _core.log_leave()
        if self.config.interface == "wsgi":
            self.config.loaded_app.close()


# --- helpers


@contextlib.contextmanager
def _waking_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """A signal that comes just before the loop waits wakes it, so that its handler runs. Whoever sees to that already,
    goes on: loops with add_signal_handler() in use, uvloop."""
    receiver, sender = socket.socketpair()
    with receiver, sender:
        receiver.setblocking(False)
        sender.setblocking(False)
        before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
            yield
            return

        def drain() -> None:
            with contextlib.suppress(BlockingIOError):
                receiver.recv(4096)

        loop.add_reader(receiver, drain)
        try:
            yield
        finally:
            loop.remove_reader(receiver)
            now = signal.set_wakeup_fd(-1)
            if now != sender.fileno():
                signal.set_wakeup_fd(now)


async def _tcp_sockets(host: str | None, port: int) -> list[socket.socket]:
    """One for each address that the host has; all bound, not yet listening."""
    try:  # what is an address already needs no thread, which there may be none of: the main one may have ended
        numeric = socket.AI_PASSIVE | socket.AI_NUMERICHOST
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=numeric)
    except socket.gaierror:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, _, proto, _, address in dict.fromkeys(found):
            sockets.append(tcp_socket(family, address, proto))
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _run(main: Coroutine[Any, Any, None], factory: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
    """asyncio.run(main, loop_factory=factory), which older Pythons do not have."""
    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main)
    if asyncio._get_running_loop() is not None:
        main.close()
        raise RuntimeError("run() cannot be called from a running event loop: await serve()")
    loop = factory() if factory is not None else asyncio.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main)
    finally:
        _end_loop(loop)


def _end_loop(loop: asyncio.AbstractEventLoop) -> None:
    try:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
