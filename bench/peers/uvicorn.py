"""uvicorn as its documentation advises for production: uvloop and httptools, no access log."""

REQUIREMENTS = ["uvicorn==0.51.0", "uvloop", "httptools"]
KINDS = {"asgi"}


def command(bin_dir, app, kind, port, workers):
    return [
        f"{bin_dir}/uvicorn",
        app,
        "--port",
        str(port),
        "--workers",
        str(workers),
        "--no-access-log",
        "--loop",
        "uvloop",
        "--http",
        "httptools",
        "--log-level",
        "warning",
    ]
