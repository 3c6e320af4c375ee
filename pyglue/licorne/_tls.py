"""TLS: the standard library's protocol, with its hot half native (pyglue/aioloop_tls.c), over our transports."""

from __future__ import annotations

import ssl
import sys
from asyncio import sslproto
from collections.abc import Callable
from typing import Any

from licorne import _core

if sys.version_info >= (3, 11):
    _State = sslproto.SSLProtocolState

    class TlsProtocol(_core.TlsBase, sslproto.SSLProtocol):
        """As the standard library's."""

        def _get_app_transport(self) -> Any:
            if self._app_transport is None:
                super()._get_app_transport().write = self._write
            return self._app_transport

        def _set_app_protocol(self, app_protocol: Any) -> None:
            super()._set_app_protocol(app_protocol)
            # A BufferedProtocol by its methods, where there are no others.
            if hasattr(app_protocol, "get_buffer") and not hasattr(app_protocol, "data_received"):
                self._app_protocol_get_buffer = app_protocol.get_buffer
                self._app_protocol_buffer_updated = app_protocol.buffer_updated
                self._app_protocol_is_buffer = True

        def connection_lost(self, exc: BaseException | None) -> None:
            transport = self._app_transport
            super().connection_lost(exc)
            if transport is not None:
                transport.__dict__.pop("write", None)  # it would hold us

        # Whoever writes, closes or resumes reading does so in his context; the protocol's callbacks have their own.

        def _in_context(self, function: Callable[[], None]) -> None:
            enter = getattr(self._transport, "_in_context", None)
            enter(function) if enter else function()

        def _control_app_writing(self) -> None:
            self._in_context(super()._control_app_writing)

        def _resume_reading(self) -> None:
            self._in_context(super()._resume_reading)

        def _start_shutdown(self) -> None:
            self._in_context(super()._start_shutdown)

        # After start_tls(), which calls no connection_made(), the transport is there before the first data.

        _is_first_read = False

        def _on_handshake_complete(self, handshake_exc: BaseException | None) -> None:
            self._is_first_read = True
            super()._on_handshake_complete(handshake_exc)
            self._is_first_read = False

        def _do_read(self) -> None:
            if self._is_first_read:
                self._is_first_read = False
                self._loop.call_soon(super()._do_read)
            else:
                super()._do_read()

        # Once the application has closed it is told of no more data: what still comes is discarded, and all that was
        # written leaves before the goodbye.

        def _do_flush(self) -> None:
            if self._app_transport is None or not self._app_transport._closed:
                super()._do_flush()
                return
            try:
                self._discard()
                self._do_write()
                self._control_ssl_reading()
            except Exception as error:
                self._on_shutdown_complete(error)
                return
            if not self._get_write_buffer_size():
                self._set_state(_State.SHUTDOWN)
                self._do_shutdown()

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._state is _State.FLUSHING and self._app_transport._closed:
                self._do_flush()

        def _do_shutdown(self) -> None:
            if self._app_transport and self._app_transport._closed and not self._eof_received:
                try:
                    self._discard()
                except Exception as error:
                    self._on_shutdown_complete(error)
                    return
            super()._do_shutdown()

        def _discard(self) -> None:
            ended = False
            try:
                while not ended:
                    ended = not self._sslobj.read(self.max_size)
            except sslproto.SSLAgainErrors:
                return
            except ssl.SSLZeroReturnError:
                pass
            self._call_eof_received()

        # Called by the native half, where it stands aside.

        def _taken_in(self) -> None:
            """More lies in `_incoming`: what the standard library's buffer_updated() does then."""
            if self._state is _State.DO_HANDSHAKE:
                self._do_handshake()
            elif self._state is _State.WRAPPED:
                self._do_read()
            elif self._state is _State.FLUSHING:
                self._do_flush()
            elif self._state is _State.SHUTDOWN:
                self._do_shutdown()

        def _write_slowly(self, data: Any) -> None:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
            if data:
                self._write_appdata((data,))

else:
    TlsProtocol = sslproto.SSLProtocol
