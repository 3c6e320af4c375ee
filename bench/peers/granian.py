"""granian: one event loop and one Rust thread a worker, dead workers replaced (it must be told to)."""

import signal

REQUIREMENTS = ["granian"]
KINDS = {"asgi", "wsgi"}
RELOAD = signal.SIGHUP


def command(bin_dir, app, kind, port, workers):
    return [
        f"{bin_dir}/granian",
        "--interface",
        kind,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        str(workers),
        "--respawn-failed-workers",
        "--log-level",
        "warning",
        app,
    ]
