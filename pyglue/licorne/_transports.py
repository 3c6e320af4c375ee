"""Transports: the standard library's, with their hot half native (pyglue/aioloop_stream.h, aioloop_datagram.c). What
they keep in attributes is kept there, where reading and writing need it."""

from __future__ import annotations

import asyncio
import operator
import socket
from asyncio import constants, selector_events, unix_events
from typing import Any

from licorne import _core


def _forward(name: str) -> property:
    """An attribute that the native half keeps."""

    def store(self: Any, value: Any) -> None:
        setattr(self._native, name, value)

    return property(operator.attrgetter(f"_native.{name}"), store)


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


class SocketTransport(_core.Connection):
    """What is rare of a connection is as in the standard library's."""

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    __repr__ = selector_events._SelectorTransport.__repr__
    _fatal_error = selector_events._SelectorTransport._fatal_error
    _make_empty_waiter = selector_events._SelectorSocketTransport._make_empty_waiter
    _reset_empty_waiter = selector_events._SelectorSocketTransport._reset_empty_waiter


class DatagramTransport(_ProtocolFailed, selector_events._SelectorDatagramTransport, asyncio.DatagramTransport):
    """The standard library's transport, with its hot half native: what is plain."""

    _buffer = _forward("_buffer")
    _closing = _forward("_closing")
    _conn_lost = _forward("_conn_lost")
    _protocol = _forward("_protocol")

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

    # Whoever writes or closes does so in a context of his own.

    def _maybe_pause_protocol(self) -> None:
        self._native.in_context(super()._maybe_pause_protocol)

    def _maybe_resume_protocol(self) -> None:
        self._native.in_context(super()._maybe_resume_protocol)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        self._native.in_context(super()._call_connection_lost, exc)


class ReadPipeTransport(_ProtocolFailed, unix_events._UnixReadPipeTransport):
    """For pipes, sockets and character devices."""

    _closing = _forward("_closing")
    _paused = _forward("_paused")
    _protocol = _forward("_protocol")

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

    _buffer = _forward("_buffer")
    _closing = _forward("_closing")
    _conn_lost = _forward("_conn_lost")
    _protocol = _forward("_protocol")
    _protocol_paused = _forward("_protocol_paused")
    _high_water = _forward("_high_water")
    _low_water = _forward("_low_water")
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
