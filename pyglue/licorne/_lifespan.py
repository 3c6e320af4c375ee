"""The lifespan of an application that is served in the caller's process (`licorne.Server`): one long conversation, in a
task of its own. In workers the extension leads it (pyglue/asgi_lifespan.c).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from licorne.config import Config

logger = logging.getLogger("uvicorn.error")

NEXT = {  # event: (what must have been asked, what it says)
    "lifespan.startup.complete": ("startup", True),
    "lifespan.startup.failed": ("startup", False),
    "lifespan.shutdown.complete": ("shutdown", True),
    "lifespan.shutdown.failed": ("shutdown", False),
}


class LifespanOff:
    """No conversation at all."""

    def __init__(self, config: Config) -> None:
        self.should_exit = False
        self.state: dict[str, Any] = {}

    async def startup(self) -> None:
        pass

    async def shutdown(self) -> None:
        pass

    def cancel(self) -> None:
        pass


class LifespanOn:
    """`startup()`, later `shutdown()`; after a shutdown the next startup() begins a new conversation."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.should_exit = False
        self.state: dict[str, Any] = {}
        self._task: asyncio.Task[None] | None = None
        self._begin()

    def _begin(self) -> None:
        self.startup_failed = self.shutdown_failed = self.error_occurred = False
        self._asked: str | None = None  # what the application has still to answer
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._answered = asyncio.Event()

    async def startup(self) -> None:
        logger.info("Waiting for application startup.")
        self._begin()
        self._task = asyncio.get_running_loop().create_task(self._converse())
        await self._ask("startup")
        if self.startup_failed or (self.error_occurred and self.config.lifespan == "on"):
            logger.error("Application startup failed. Exiting.")
            self.should_exit = True
        else:
            logger.info("Application startup complete.")

    async def shutdown(self) -> None:
        if self.error_occurred or self._task is None:
            return
        logger.info("Waiting for application shutdown.")
        await self._ask("shutdown")
        if self.shutdown_failed or (self.error_occurred and self.config.lifespan == "on"):
            logger.error("Application shutdown failed. Exiting.")
            self.should_exit = True
        else:
            logger.info("Application shutdown complete.")

    def cancel(self) -> None:
        """Whoever served was cancelled: nobody will ask for the shutdown."""
        if self._task is not None:
            self._task.cancel()

    async def _ask(self, what: str) -> None:
        assert self._task is not None
        self._asked = what
        self._answered.clear()
        self._events.put_nowait({"type": f"lifespan.{what}"})
        if not self._task.done():
            await self._answered.wait()

    async def _converse(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.0"},
            "state": self.state,
        }
        application = self.config.loaded_app
        try:
            if self.config.interface == "asgi2":
                await application(scope)(self._receive, self._send)
            else:
                await application(scope, self._receive, self._send)
        except BaseException as error:
            self._failed(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._answered.set()

    def _failed(self, error: BaseException) -> None:
        self.error_occurred = True
        if self.startup_failed or self.shutdown_failed or isinstance(error, asyncio.CancelledError):
            return
        if self.config.lifespan == "auto":
            logger.info("ASGI 'lifespan' protocol appears unsupported.")
        else:
            logger.error("Exception in 'lifespan' protocol\n", exc_info=error)

    async def _receive(self) -> dict[str, Any]:
        return await self._events.get()

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind not in NEXT:
            raise ValueError(f"unexpected event {kind!r} in the lifespan scope")
        asked, complete = NEXT[kind]
        if self._asked != asked:
            raise RuntimeError(f"{kind!r} was sent at the wrong time")
        self._asked = None
        if not complete:
            self.startup_failed |= asked == "startup"
            self.shutdown_failed |= asked == "shutdown"
            if message.get("message"):
                logger.error(message["message"])
        self._answered.set()
