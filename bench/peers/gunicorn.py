"""gunicorn with threads, its advised worker for WSGI behind keep-alive connections."""

REQUIREMENTS = ["gunicorn"]
KINDS = {"wsgi"}


def command(bin_dir, app, kind, port, workers):
    return [
        f"{bin_dir}/gunicorn",
        app,
        "-b",
        f"127.0.0.1:{port}",
        "-w",
        str(workers),
        "--threads",
        "4",
        "--keep-alive",
        "75",
        "--log-level",
        "warning",
    ]
