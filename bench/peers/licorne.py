"""licorne with its defaults: the one of this checkout's .venv, or of --licorne."""

REQUIREMENTS = []
KINDS = {"asgi", "wsgi"}


def command(bin_dir, app, kind, port, workers):
    return [f"{bin_dir}/licorne", app, "-b", f"127.0.0.1:{port}", "-w", str(workers), "--log-level", "warning"]
