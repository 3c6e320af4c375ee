"""FastPySGI: the fastest peer known."""

REQUIREMENTS = ["fastpysgi"]
KINDS = {"asgi", "wsgi"}


def command(bin_dir, app, kind, port, workers):
    module, attribute = app.split(":")
    code = (
        f"import fastpysgi, {module} as m; fastpysgi.server.hook_sigint = 2; "
        f"fastpysgi.run(m.{attribute}, host='127.0.0.1', port={port}, workers={workers}, loglevel=0)"
    )
    return [f"{bin_dir}/python", "-c", code]
