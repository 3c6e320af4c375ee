"""gunicorn with threads, its advised worker for WSGI behind keep-alive connections."""

import signal

REQUIREMENTS = ["gunicorn==27.0.1", "uvloop==0.23.0"]
ENVIRONMENT = "gunicorn"
KINDS = {"wsgi"}
OPTIONS = {
    "preload": ["--preload"],
    "max_requests": ["--max-requests", "200", "--max-requests-jitter", "50"],
    "timeout": ["--timeout", "2"],
    "config": ["--config", "conf.py"],
}
CONFIG = ("conf.py", "", "workers = 'many'\n")
RELOAD = signal.SIGHUP


def command(bin_dir, app, kind, port, workers):
    options = ["--threads", "4", "--keep-alive", "75", "--log-level", "warning"]
    return [f"{bin_dir}/gunicorn", app, "-b", f"127.0.0.1:{port}", "-w", str(workers), *options]
