"""gunicorn with its default worker: one request after the other, a new connection for each."""

REQUIREMENTS = ["gunicorn==27.0.1", "uvloop==0.23.0"]
ENVIRONMENT = "gunicorn"
KINDS = {"wsgi"}
KEEPS = False
OPTIONS = {"preload": ["--preload"]}


def command(bin_dir, app, kind, port, workers):
    return [f"{bin_dir}/gunicorn", app, "-b", f"127.0.0.1:{port}", "-w", str(workers), "--log-level", "warning"]
