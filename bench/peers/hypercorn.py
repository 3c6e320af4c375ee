"""hypercorn on uvloop."""

REQUIREMENTS = ["hypercorn==0.18.0", "uvloop==0.23.0"]
KINDS = {"asgi"}
OPTIONS = {"max_requests": ["--max-requests", "200", "--max-requests-jitter", "50"]}


def command(bin_dir, app, kind, port, workers):
    options = ["-k", "uvloop", "--log-level", "warning"]
    return [f"{bin_dir}/hypercorn", app, "-b", f"127.0.0.1:{port}", "-w", str(workers), *options]
