"""licorne with four threads a worker."""

REQUIREMENTS = []
KINDS = {"wsgi"}


def command(bin_dir, app, kind, port, workers):
    return [
        f"{bin_dir}/licorne",
        app,
        "-b",
        f"127.0.0.1:{port}",
        "-w",
        str(workers),
        "--threads",
        "4",
        "--log-level",
        "warning",
    ]
