"""TLS: the standard library's protocol, with its hot half native (pyglue/aioloop_tls.c), over our transports."""

from __future__ import annotations

import sys
from asyncio import sslproto
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

        def _control_app_writing(self, context: Any = None) -> None:
            """Whoever writes does so in a context of his own."""
            in_context = getattr(self._transport, "_in_context", None)
            in_context(super()._control_app_writing) if in_context else super()._control_app_writing()

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
