"""FastPySGI, called as its README does; for ASGI on uvloop's loop, beside which it polls one of its own without ever
sleeping for long. Bodies up to what the rows send are allowed."""

REQUIREMENTS = ["fastpysgi==0.6", "uvloop==0.23.0"]
KINDS = {"asgi", "wsgi"}
BUSY = {"asgi"}


def command(bin_dir, app, kind, port, workers):
    module, attribute = app.split(":")
    # A loop cannot be shared by the workers that it forks.
    loop = "import uvloop; s.loop = uvloop.new_event_loop(); " if kind == "asgi" and workers == 1 else ""
    code = (
        f"import fastpysgi, {module} as m; s = fastpysgi.server; s.hook_sigint = 2; s.loglevel = 0; {loop}"
        f"s.max_content_length = 1 << 30; "
        f"fastpysgi.run(m.{attribute}, host='127.0.0.1', port={port}, workers={workers})"
    )
    return [f"{bin_dir}/python", "-c", code]
