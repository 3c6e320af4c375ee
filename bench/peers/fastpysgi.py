"""FastPySGI, called as its README does. Beside asyncio's loop it polls its own without ever sleeping for long."""

REQUIREMENTS = ["fastpysgi==0.6", "uvloop==0.23.0"]
KINDS = {"asgi", "wsgi"}
BUSY = {"asgi"}


def command(bin_dir, app, kind, port, workers):
    module, attribute = app.split(":")
    loop = "import uvloop; s.loop_factory = uvloop.new_event_loop; " if kind == "asgi" else ""
    code = (
        f"import fastpysgi, {module} as m; s = fastpysgi.server; s.hook_sigint = 2; {loop}"
        f"fastpysgi.run(m.{attribute}, host='127.0.0.1', port={port}, workers={workers}, loglevel=0)"
    )
    return [f"{bin_dir}/python", "-c", code]
