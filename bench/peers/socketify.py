"""socketify: uWebSockets through cffi, by its own command line."""

REQUIREMENTS = ["socketify==0.0.31"]
KINDS = {"asgi", "wsgi"}
BUSY = {"asgi", "wsgi"}


def command(bin_dir, app, kind, port, workers):
    options = ["--workers", str(workers), "--disable-listen-log", f"--{kind}"]
    return [f"{bin_dir}/python", "-m", "socketify", app, "--host", "127.0.0.1", "--port", str(port), *options]
