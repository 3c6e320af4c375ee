"""hypercorn with its defaults."""

REQUIREMENTS = ["hypercorn"]
KINDS = {"asgi"}
OPTIONS = {"max_requests": ["--max-requests", "200", "--max-requests-jitter", "50"]}


def command(bin_dir, app, kind, port, workers):
    return [f"{bin_dir}/hypercorn", app, "-b", f"127.0.0.1:{port}", "-w", str(workers), "--log-level", "warning"]
