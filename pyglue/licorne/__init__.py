"""licorne: an application server for Python web apps."""

_LOOP = ("EventLoopPolicy", "Loop", "install", "new_event_loop")


def __getattr__(name: str) -> object:
    # asyncio is imported by whoever uses the loop, not by everyone who imports the package.
    if name in _LOOP:
        from licorne import loop

        return getattr(loop, name)
    if name == "ClientDisconnected":
        from licorne._core import ClientDisconnected

        return ClientDisconnected
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
