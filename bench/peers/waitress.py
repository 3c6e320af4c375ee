"""waitress with its defaults: four threads, one process."""

REQUIREMENTS = ["waitress==3.0.2"]
KINDS = {"wsgi"}
MAX_WORKERS = 1


def command(bin_dir, app, kind, port, workers):
    return [f"{bin_dir}/waitress-serve", f"--listen=127.0.0.1:{port}", app]
