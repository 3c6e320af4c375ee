"""granian, HTTP/1 alone and on uvloop; dead workers are replaced (it must be told to). One event loop and one Rust
thread a worker; WSGI: one thread that runs Python, as it chooses itself."""

import signal

REQUIREMENTS = ["granian==2.8.7", "uvloop==0.23.0"]
KINDS = {"asgi", "wsgi"}
RELOAD = signal.SIGHUP


def command(bin_dir, app, kind, port, workers):
    options = ["--http", "1", "--log-level", "warning", "--no-access-log", "--respawn-failed-workers"]
    loop = ["--loop", "uvloop"] if kind == "asgi" else []
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
    return [f"{bin_dir}/granian", "--interface", kind, *address, *options, *loop, app]
