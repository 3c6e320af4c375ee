"""licorne with four threads a worker."""

import signal

REQUIREMENTS = []
VERSION = ["{bin}/licorne", "--version"]
KINDS = {"wsgi"}
OPTIONS = {
    "preload": ["--preload"],
    "max_requests": ["--max-requests", "200", "--max-requests-jitter", "50"],
    "timeout": ["--timeout", "2"],
    "config": ["--config", "conf.py"],
    "no_worker": ["--no-worker-grace", "1"],
}
CONFIG = ("conf.py", "", "workers = 'many'\n")
RELOAD = signal.SIGHUP


def command(bin_dir, app, kind, port, workers):
    options = ["--threads", "4", "--log-level", "warning"]
    return [f"{bin_dir}/licorne", app, "-b", f"127.0.0.1:{port}", "-w", str(workers), *options]
