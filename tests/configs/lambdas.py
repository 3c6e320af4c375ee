# Hooks on one line.
on_starting = lambda server: print("MARK starting", flush=True)  # noqa: E731
when_ready = lambda server: open("ready", "w").close()  # noqa: E731
worker_exit = lambda server, worker: None  # noqa: E731
