"""Transports: the standard library's, with their hot half native (pyglue/aioloop_stream.h, aioloop_datagram.c). What
they keep in attributes is kept there, where reading and writing need it."""

from __future__ import annotations

import asyncio
import contextlib
import operator
import socket
from asyncio import base_events, selector_events, trsock, unix_events
from typing import Any

from licorne import _core


def _forward(name: str) -> property:
    """An attribute that the native half keeps."""

    def store(self: Any, value: Any) -> None:
        setattr(self._native, name, value)

    return property(operator.attrgetter(f"_native.{name}"), store)


_family = socket.socket.__base__.family.__get__  # without the enumeration


def _peer_name(sock: socket.socket) -> Any:
    try:
        return sock.getpeername()
    except OSError:
        return None


class _ProtocolFailed:
    """Of transports that go on when a callback of their protocol fails, as in the standard library."""

    def _protocol_failed(self, exception: BaseException) -> None:
        message = f"Exception in a callback of {type(self._protocol).__qualname__}"
        context = {"message": message, "exception": exception, "transport": self, "protocol": self._protocol}
        self._loop.call_exception_handler(context)


# From Python 3.13 a server is told which of its connections comes and goes.
_SERVER_KNOWS = base_events.Server._attach.__code__.co_argcount > 1


class SocketTransport(selector_events._SelectorSocketTransport):
    """The standard library's, made and ended in fewer steps: a server does both for each connection."""

    _buffer = _forward("buffer")
    _closing = _forward("closing")
    _conn_lost = _forward("conn_lost")
    _empty_waiter = _forward("empty_waiter")
    _eof = _forward("eof")
    _paused = _forward("paused")
    _protocol = _forward("protocol")

    # What its initialisers would set.
    _protocol_connected = True
    _protocol_paused = False
    _high_water, _low_water = 64 * 1024, 16 * 1024
    _server = None

    def __init__(
        self,
        loop: Any,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future | None = None,
        extra: dict | None = None,
        server: Any = None,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._sock_fd = fd = sock.fileno()
        self._extra = {"peername": _peer_name(sock)} if extra is None else extra
        self._native = stream = _core.Stream(loop, self, fd)
        self.write = stream.write
        self.writelines = stream.writelines
        self.is_closing = stream.is_closing
        self.is_reading = stream.is_reading
        self.get_write_buffer_size = stream.get_write_buffer_size
        stream.protocol = protocol
        if server is not None:
            self._server = server
            server._attach(self) if _SERVER_KNOWS else server._attach()
        loop._transports[fd] = self
        if _family(sock) != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # another protocol than TCP
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        loop.call_soon(protocol.connection_made, self)
        loop.call_soon(self._start, waiter)

    def _start(self, waiter: asyncio.Future | None) -> None:
        if self.is_reading():
            self._native.start_reading()
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _add_reader(self, fd: int, callback: Any) -> None:
        if self.is_reading():
            self._native.start_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name not in self._extra and self._sock is not None:
            if name == "socket":
                self._extra[name] = trsock.TransportSocket(self._sock)
            elif name == "sockname":
                self._extra[name] = self._sock.getsockname()
        return self._extra.get(name, default)

    # What ends a connection looks at the state that a failed write leaves: so what was written is sent first.

    def close(self) -> None:
        stream = self._native
        stream.flush()
        if stream.closing:
            return
        stream.closing = True
        self._loop._remove_reader(self._sock_fd)
        if not stream.get_write_buffer_size():
            stream.conn_lost += 1
            self._loop.call_soon(self._call_connection_lost, None)

    def write_eof(self) -> None:
        self._native.flush()
        super().write_eof()

    def _force_close(self, exc: BaseException | None) -> None:
        self._native.flush()
        super()._force_close(exc)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        stream = self._native
        try:
            stream.connection_lost(exc)
        finally:
            waiter, server = stream.empty_waiter, self._server
            self._sock.close()
            self._sock = self._loop = self._server = None
            stream.protocol = None
            if server is not None:
                server._detach(self) if _SERVER_KNOWS else server._detach()
            if waiter is not None:
                waiter.set_exception(ConnectionError("Connection is closed by peer"))

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._native.protocol = protocol


class DatagramTransport(_ProtocolFailed, selector_events._SelectorDatagramTransport, asyncio.DatagramTransport):
    """The standard library's transport, with its hot half native: what is plain."""

    _buffer = _forward("buffer")
    _closing = _forward("closing")
    _conn_lost = _forward("conn_lost")
    _protocol = _forward("protocol")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        *args: Any,
    ) -> None:
        self._native = _core.Datagram(loop, self, sock.fileno(), sock.family, _peer_name(sock))
        self.sendto = self._native.sendto
        super().__init__(loop, sock, protocol, address, *args)

    def _add_reader(self, fd: int, callback: Any) -> None:
        self._native.start_reading()

    def _sendto(self, data: Any, addr: Any = None) -> None:
        super().sendto(data, addr)


class ReadPipeTransport(_ProtocolFailed, unix_events._UnixReadPipeTransport):
    """For pipes, sockets and character devices."""

    _closing = _forward("closing")
    _paused = _forward("paused")
    _protocol = _forward("protocol")

    def __init__(self, loop: asyncio.AbstractEventLoop, pipe: Any, *args: Any) -> None:
        self._native = stream = _core.Stream(loop, self, pipe.fileno(), True)
        self.is_reading = stream.is_reading  # which Python 3.10 does not have
        super().__init__(loop, pipe, *args)

    def _add_reader(self, fd: int, callback: Any) -> None:
        if self.is_reading():
            self._native.start_reading()

    def resume_reading(self) -> None:
        if not self._closing and self._paused:
            self._paused = False
            self._native.start_reading()

    def _read_ready__on_eof(self) -> None:
        self._closing = True
        self._loop._remove_reader(self._fileno)
        self._loop.call_soon(self._protocol.eof_received)
        self._loop.call_soon(self._call_connection_lost, None)


class WritePipeTransport(unix_events._UnixWritePipeTransport):
    """For pipes, sockets and character devices."""

    _buffer = _forward("buffer")
    _closing = _forward("closing")
    _conn_lost = _forward("conn_lost")
    _protocol = _forward("protocol")
    _ending = False

    def __init__(self, loop: asyncio.AbstractEventLoop, pipe: Any, *args: Any) -> None:
        self._native = stream = _core.Stream(loop, self, pipe.fileno(), True)
        self.write = stream.write
        self.writelines = stream.writelines
        self.is_closing = stream.is_closing
        self.get_write_buffer_size = stream.get_write_buffer_size
        super().__init__(loop, pipe, *args)

    # What ends it looks at the state that a failed write leaves: so what was written is sent first.

    def write_eof(self) -> None:
        self._native.flush()
        super().write_eof()

    def _close(self, exc: BaseException | None = None) -> None:
        self._native.flush()
        if not self._ending and self._loop is not None:
            self._ending = True
            super()._close(exc)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        self._loop._remove_reader(self._fileno)
        super()._call_connection_lost(exc)
