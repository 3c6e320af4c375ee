"""uvicorn as its documentation advises for production: uvloop and httptools, no access log."""

import signal

REQUIREMENTS = ["uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0"]
KINDS = {"asgi"}
OPTIONS = {
    "max_requests": ["--limit-max-requests", "200", "--limit-max-requests-jitter", "50"],
    "timeout": ["--timeout-worker-healthcheck", "2"],
}
RELOAD = signal.SIGHUP


def command(bin_dir, app, kind, port, workers):
    options = ["--no-access-log", "--loop", "uvloop", "--http", "httptools", "--log-level", "warning"]
    return [f"{bin_dir}/uvicorn", app, "--port", str(port), "--workers", str(workers), *options]
