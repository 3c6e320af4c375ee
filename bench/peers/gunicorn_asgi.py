"""gunicorn with its ASGI worker, on uvloop."""

REQUIREMENTS = ["gunicorn==27.0.1", "uvloop==0.23.0"]
ENVIRONMENT = "gunicorn"
KINDS = {"asgi"}
OPTIONS = {"preload": ["--preload"]}


def command(bin_dir, app, kind, port, workers):
    options = ["-k", "asgi", "--asgi-loop", "uvloop", "--keep-alive", "75", "--log-level", "warning"]
    return [f"{bin_dir}/gunicorn", app, "-b", f"127.0.0.1:{port}", "-w", str(workers), *options]
