"""The asyncio event loop of licorne, over libev: usable alone.

    asyncio.run(main(), loop_factory=licorne.new_event_loop)      # Python 3.12 and later: asyncio.Runner from 3.11
    licorne.install()                                             # or: for every loop that asyncio makes

The C type LoopBase is the hot half: ready queue, timers, readers and writers, the turn. What remains is the standard
library's selector loop, over those readers and writers.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import selectors
import signal
import socket
import ssl
import sys
import threading
import weakref
from asyncio import base_events, events, format_helpers, selector_events, unix_events
from asyncio.log import logger
from collections.abc import Callable
from typing import Any

from licorne import _core
from licorne._tls import TlsProtocol
from licorne._transports import DatagramTransport, ReadPipeTransport, SocketTransport, WritePipeTransport

__all__ = ("EventLoopPolicy", "Loop", "install", "new_event_loop")

_FORMAT_OPTIONS = {"debug": True} if sys.version_info >= (3, 13) else {}

_loops: weakref.WeakSet[Loop] = weakref.WeakSet()


def _in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


class _Selector:
    """What the standard library asks of its selector outside the turn: whether a descriptor is watched."""

    def __init__(self, loop: Loop) -> None:
        self._loop = weakref.ref(loop)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        loop = self._loop()
        mask = 0 if loop is None or loop.is_closed() else loop._watched(fileobj)
        if not mask:
            raise KeyError(f"{fileobj!r} is not registered")
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        return selectors.SelectorKey(fileobj, fd, mask, None)

    def get_map(self) -> dict[int, selectors.SelectorKey]:
        return {}

    def close(self) -> None:
        pass


_family, _type, _proto = (getattr(socket.socket.__base__, name).__get__ for name in ("family", "type", "proto"))


def _is_number(host: Any) -> bool:
    """Whether it is an address; one with a scope may name an interface, and that is looked up."""
    for family in (socket.AF_INET, socket.AF_INET6) if isinstance(host, str) else ():
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, host)
            return True
    return False


# What create_connection() has unless it is told otherwise: then it is plain.
_PLAIN = {
    "ssl": None,
    "family": 0,
    "proto": 0,
    "flags": 0,
    "sock": None,
    "local_addr": None,
    "server_hostname": None,
    "ssl_handshake_timeout": None,
    "happy_eyeballs_delay": None,
    "interleave": None,
}
if sys.version_info >= (3, 11):
    _PLAIN["ssl_shutdown_timeout"] = None
if sys.version_info >= (3, 12):
    _PLAIN["all_errors"] = False


def _exit_code(pid: int) -> int:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        logger.warning("child process pid %d exit status already read: will report returncode 255", pid)
        return 255


class Loop(_core.LoopBase, unix_events._UnixSelectorEventLoop):
    """An asyncio event loop whose poller is libev."""

    def __init__(self) -> None:
        super().__init__(_Selector(self))
        self._chained_wakeup_fd = -1
        _loops.add(self)

    # --- running ---

    def run_forever(self) -> None:
        """Run until stop() is called."""
        self._check_closed()
        self._check_running()
        self._set_coroutine_origin_tracking(self._debug)
        hooks = sys.get_asyncgen_hooks()
        wakeup = self._wakeup_begin()
        try:
            self._thread_id = threading.get_ident()
            sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook)
            events._set_running_loop(self)
            self._run()
        finally:
            self._stopping = False
            self._thread_id = None
            events._set_running_loop(None)
            self._set_coroutine_origin_tracking(False)
            sys.set_asyncgen_hooks(*hooks)
            if wakeup:
                self._wakeup_end()

    def close(self) -> None:
        """Close the loop; it must not be running."""
        super().close()
        self._poller_close()

    # --- transports ---

    def _accept_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        *timeouts: float | None,
    ) -> None:
        """A connection needs no Task here, each its own context though."""
        if sslcontext is None and not self._debug and type(sock) is socket.socket:
            with contextlib.suppress(OSError):  # the standard library meets it too, and knows when to try again
                self._accept(SocketTransport, protocol_factory, sock, server, backlog)
                return
        super()._accept_connection(protocol_factory, sock, sslcontext, server, backlog, *timeouts)

    async def create_connection(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: Any = None, port: Any = None, **options: Any
    ) -> Any:
        """As the standard library's; to a number, and without options, in a few steps."""
        plain = not self._debug and (not options or options.items() <= _PLAIN.items())
        connecting = self._connect(host, port) if plain else None
        if connecting is None:
            return await super().create_connection(protocol_factory, host, port, **options)
        fd, future, address = connecting
        try:
            error = await future if future is not None else 0
            if error:
                raise OSError(error, f"Connect call failed {address}")
            protocol, waiter = protocol_factory(), self.create_future()
            transport = self._connected(SocketTransport, fd, protocol, waiter)
        except BaseException:
            self._remove_writer(fd)
            os.close(fd)
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[tuple]:
        """As the standard library's; for numbers without a thread."""
        if self._debug or not _is_number(host) or not (port is None or isinstance(port, int)):
            return await super().getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)
        return socket.getaddrinfo(host, port, family, type, proto, flags | socket.AI_NUMERICHOST)

    async def _sendfile_native(self, transport: Any, file: Any, offset: int, count: int | None) -> int:
        if not isinstance(transport, SocketTransport):
            return await super()._sendfile_native(transport, file, offset, count)
        was_reading = transport.is_reading()
        transport.pause_reading()
        await transport._make_empty_waiter()
        try:
            return await self.sock_sendfile(transport._sock, file, offset, count, fallback=False)
        finally:
            transport._reset_empty_waiter()
            if was_reading:
                transport.resume_reading()

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future | None = None,
        *,
        extra: dict | None = None,
        server: Any = None,
    ) -> asyncio.Transport:
        # In debug mode the standard library's: it logs more, and its callbacks are timed as any other's.
        native = type(sock) is socket.socket and not self._debug
        make = SocketTransport if native else selector_events._SelectorSocketTransport
        self._ensure_fd_no_transport(sock)
        self._has_standard_transports |= not native
        return make(self, sock, protocol, waiter, extra, server)

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future | None = None,
        extra: dict | None = None,
    ) -> asyncio.DatagramTransport:
        known = sock.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
        native = type(sock) is socket.socket and known and not self._debug
        make = DatagramTransport if native else selector_events._SelectorDatagramTransport
        self._ensure_fd_no_transport(sock)
        self._has_standard_transports = True
        return make(self, sock, protocol, address, waiter, extra)

    def _make_read_pipe_transport(
        self, pipe: Any, protocol: asyncio.BaseProtocol, waiter: asyncio.Future | None = None, extra: dict | None = None
    ) -> asyncio.ReadTransport:
        make = unix_events._UnixReadPipeTransport if self._debug else ReadPipeTransport
        return make(self, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(
        self, pipe: Any, protocol: asyncio.BaseProtocol, waiter: asyncio.Future | None = None, extra: dict | None = None
    ) -> asyncio.WriteTransport:
        make = unix_events._UnixWritePipeTransport if self._debug else WritePipeTransport
        return make(self, pipe, protocol, waiter, extra)

    async def _make_subprocess_transport(self, *args: Any, extra: dict | None = None, **kwargs: Any) -> Any:
        if getattr(events.get_event_loop_policy(), "_watcher", None) is not None:
            return await super()._make_subprocess_transport(*args, extra=extra, **kwargs)  # the application's choice
        waiter = self.create_future()
        transport = unix_events._UnixSubprocessTransport(self, *args, waiter=waiter, extra=extra, **kwargs)
        self._watch_child(transport)
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: Any,
        waiter: asyncio.Future | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict | None = None,
        server: Any = None,
        **timeouts: float | None,
    ) -> asyncio.Transport:
        ssl_protocol = TlsProtocol(self, protocol, sslcontext, waiter, server_side, server_hostname, **timeouts)
        self._make_socket_transport(rawsock, ssl_protocol, extra=extra, server=server)
        return ssl_protocol._app_transport

    if sys.version_info >= (3, 11):

        async def start_tls(
            self,
            transport: Any,
            protocol: asyncio.BaseProtocol,
            sslcontext: Any,
            *,
            server_side: bool = False,
            server_hostname: str | None = None,
            **timeouts: float | None,
        ) -> Any:
            """As the standard library's, with our protocol."""
            if not isinstance(sslcontext, ssl.SSLContext):
                raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}")
            if not getattr(transport, "_start_tls_compatible", False):
                raise TypeError(f"transport {transport!r} is not supported by start_tls()")
            waiter = self.create_future()
            tls = TlsProtocol(
                self,
                protocol,
                sslcontext,
                waiter,
                server_side,
                server_hostname,
                call_connection_made=False,
                **timeouts,
            )
            transport.pause_reading()  # so that nothing comes before connection_made()
            transport.set_protocol(tls)
            steps = [self.call_soon(tls.connection_made, transport), self.call_soon(transport.resume_reading)]
            try:
                await waiter
            except BaseException:
                transport.close()
                for step in steps:
                    step.cancel()
                raise
            return tls._app_transport

    # --- operations of plain sockets ---

    def _is_plain(self, sock: Any) -> bool:
        return type(sock) is socket.socket and not self._debug

    async def _wait(self, sock: socket.socket, future: asyncio.Future) -> Any:
        fd = sock.fileno()
        try:
            return await future
        except BaseException:
            self._attempt_ended(future, fd)
            raise

    async def sock_recv(self, sock: socket.socket, n: int) -> bytes:
        """As the standard library's, as all of these."""
        if not self._is_plain(sock):
            return await super().sock_recv(sock, n)
        data = self._attempt_recv(sock, n)
        return data if type(data) is bytes else await self._wait(sock, data)

    async def sock_recv_into(self, sock: socket.socket, buf: Any) -> int:
        if not self._is_plain(sock):
            return await super().sock_recv_into(sock, buf)
        count = self._attempt_recv_into(sock, buf)
        return count if type(count) is int else await self._wait(sock, count)

    async def sock_sendall(self, sock: socket.socket, data: Any) -> None:
        if not self._is_plain(sock):
            return await super().sock_sendall(sock, data)
        sending = self._attempt_sendall(sock, data)
        return None if sending is None else await self._wait(sock, sending)

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        if not self._is_plain(sock):
            return await super().sock_accept(sock)
        accepted = self._attempt_accept(sock)
        fd, address = accepted if type(accepted) is tuple else await self._wait(sock, accepted)
        return socket.socket(_family(sock), _type(sock) | socket.SOCK_NONBLOCK, _proto(sock), fd), address

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        connecting = self._attempt_connect(sock, address, _family(sock)) if self._is_plain(sock) else False
        if connecting is False:
            return await super().sock_connect(sock, address)
        return None if connecting is None else await self._wait(sock, connecting)

    if sys.version_info >= (3, 11):

        async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
            if not self._is_plain(sock):
                return await super().sock_recvfrom(sock, bufsize)
            received = self._attempt_recvfrom(sock, bufsize)
            return received if type(received) is tuple else await self._wait(sock, received)

        async def sock_recvfrom_into(self, sock: socket.socket, buf: Any, nbytes: int = 0) -> tuple[int, Any]:
            if not self._is_plain(sock):
                return await super().sock_recvfrom_into(sock, buf, nbytes)
            received = self._attempt_recvfrom_into(sock, buf, nbytes)
            return received if type(received) is tuple else await self._wait(sock, received)

        async def sock_sendto(self, sock: socket.socket, data: Any, address: Any) -> int:
            sent = self._attempt_sendto(sock, data, address, _family(sock)) if self._is_plain(sock) else None
            if sent is None:
                return await super().sock_sendto(sock, data, address)
            return sent if type(sent) is int else await self._wait(sock, sent)

    # --- children: one descriptor each, so that no SIGCHLD is taken from the application ---

    def _watch_child(self, transport: Any) -> None:
        pid = transport.get_pid()
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:  # forbidden, or no descriptor left
            wait = functools.partial(self._wait_for_child, pid, transport)
            threading.Thread(target=wait, name=f"licorne-waitpid-{pid}", daemon=True).start()
        else:
            self._add_reader(pidfd, self._child_exited, pidfd, pid, transport)

    def _child_exited(self, pidfd: int, pid: int, transport: Any) -> None:
        self._remove_reader(pidfd)
        os.close(pidfd)
        transport._process_exited(_exit_code(pid))

    def _wait_for_child(self, pid: int, transport: Any) -> None:
        returncode = _exit_code(pid)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.call_soon_threadsafe(transport._process_exited, returncode)

    # --- signals: Python's own handlers run soon too, not only those of add_signal_handler() ---

    def _wakeup_begin(self) -> bool:
        """Let signals wake the poll. Whoever had set a wakeup descriptor gets the bytes passed on."""
        if not _in_main_thread():
            return False
        try:
            own = self._csock.fileno()
            before = signal.set_wakeup_fd(own, warn_on_full_buffer=False)
        except (ValueError, OSError):  # not the main interpreter
            return False
        self._chained_wakeup_fd = before if before != own else -1
        return True

    def _wakeup_end(self) -> None:
        before, self._chained_wakeup_fd = self._chained_wakeup_fd, -1
        if not self._signal_handlers:
            try:
                signal.set_wakeup_fd(before)
            except (ValueError, OSError):  # closed meanwhile
                signal.set_wakeup_fd(-1)

    def _process_self_data(self, data: bytes) -> None:
        super()._process_self_data(data)
        if self._chained_wakeup_fd >= 0:
            with contextlib.suppress(OSError):  # full, or closed by its owner
                os.write(self._chained_wakeup_fd, data)

    # --- called by the turn ---

    def _callback_failed(self, handle: Any, exception: BaseException) -> None:
        options = _FORMAT_OPTIONS if self._debug else {}
        callback = format_helpers._format_callback_source(handle._callback, handle._args, **options)
        context = {"message": f"Exception in callback {callback}", "exception": exception, "handle": handle}
        if handle._source_traceback:
            context["source_traceback"] = handle._source_traceback
        self.call_exception_handler(context)

    def _slow_callback(self, handle: Any, seconds: float) -> None:
        logger.warning("Executing %s took %.3f seconds", base_events._format_handle(handle), seconds)

    def _warn_lost(self) -> None:
        logger.warning("socket.send() raised exception.")

    # --- fork ---

    def _after_fork(self) -> None:
        """In the child: a poller and a wake-up of its own, so that nothing it does is felt by the parent."""
        if self.is_closed():
            return
        self._poller_after_fork()
        if self._csock is None:
            return
        old = self._csock.fileno()
        self._close_self_pipe()
        self._make_self_pipe()
        if _in_main_thread():
            fd = signal.set_wakeup_fd(-1)
            signal.set_wakeup_fd(self._csock.fileno() if fd == old else fd, warn_on_full_buffer=False)


def _after_fork() -> None:
    for loop in list(_loops):
        loop._after_fork()


os.register_at_fork(after_in_child=_after_fork)


def new_event_loop() -> Loop:
    """A new loop; what asyncio calls a loop factory."""
    return Loop()


def __getattr__(name: str) -> Any:
    # Made when asked for: merely to name asyncio's policies is deprecated from Python 3.14.
    if name != "EventLoopPolicy":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    global EventLoopPolicy

    class EventLoopPolicy(asyncio.DefaultEventLoopPolicy):  # type: ignore[misc]
        """asyncio's policy, with loops of licorne."""

        _loop_factory = Loop

    EventLoopPolicy.__qualname__ = "EventLoopPolicy"
    return EventLoopPolicy


def install() -> None:
    """Make asyncio's new loops ours, for the whole process."""
    asyncio.set_event_loop_policy(sys.modules[__name__].EventLoopPolicy())
