"""uWSGI as its documentation advises: a master, the application loaded before the fork. Without a proxy in front of it
it keeps no connections."""

import signal

REQUIREMENTS = ["uWSGI==2.0.31"]
KINDS = {"wsgi"}
OPTIONS = {
    "preload": [],
    "no_preload": ["--lazy-apps"],
    "max_requests": ["--max-requests", "200", "--max-requests-delta", "25"],
    "timeout": ["--harakiri", "2"],
    "config": ["--ini", "conf.ini"],
}
CONFIG = ("conf.ini", "[uwsgi]\n", "[uwsgi]\nprocesses = many\nmodule = nosuch:app\n")
RELOAD = signal.SIGHUP
KEEPS = False


def command(bin_dir, app, kind, port, workers):
    return [
        f"{bin_dir}/uwsgi",
        "--http-socket",
        f"127.0.0.1:{port}",
        "--master",
        "--processes",
        str(workers),
        "--die-on-term",
        "--need-app",
        "--disable-logging",
        "--listen",
        "128",
        "--virtualenv",
        bin_dir.removesuffix("/bin"),
        "--pythonpath",
        ".",
        "--module",
        app,
    ]
