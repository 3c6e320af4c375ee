"""bjoern: C and libev, one process, WSGI alone. Several workers are forked by the caller, as its README shows."""

REQUIREMENTS = ["bjoern==3.2.2"]
KINDS = {"wsgi"}


def command(bin_dir, app, kind, port, workers):
    module, attribute = app.split(":")
    code = (
        f"import bjoern, os, signal, {module} as m; bjoern.listen(m.{attribute}, '127.0.0.1', {port}); "
        f"[None for _ in range({workers - 1}) if os.fork() == 0 and bjoern.run()]; bjoern.run()"
    )
    return [f"{bin_dir}/python", "-c", code]
