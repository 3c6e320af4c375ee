"""licorne: an application server for Python web apps."""

_LOOP = ("EventLoopPolicy", "Loop", "install", "new_event_loop")
_CORE = ("ClientDisconnected", "Deadline", "RequestTimeout", "__version__")


def __getattr__(name: str) -> object:
    # asyncio is imported by whoever uses the loop, not by everyone who imports the package: the mold is one of these.
    if name in _LOOP:
        from licorne import loop

        return getattr(loop, name)
    if name == "run":
        from licorne import _run

        return _run.run
    if name == "Config":
        from licorne.config import Config

        return Config
    if name == "Server":
        from licorne.server import Server

        return Server
    if name in _CORE:
        from licorne import _core

        return getattr(_core, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LOOP, *_CORE, "Config", "Server", "run"})
