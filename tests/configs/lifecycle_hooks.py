# All that a server can tell of its life.
import os


def on_starting(server):
    server.log.info("MARK starting %s", server.cfg.workers)


def when_ready(server):
    server.log.info("MARK ready. Spawning workers at %s", server.address[0] if server.address else None)


def pre_fork(server, worker):
    pass


def post_fork(server, worker):
    server.log.info("MARK spawned %s %s", worker.pid == os.getpid(), worker.age)


def post_worker_init(worker):
    worker.log.info("MARK init %s", callable(worker.wsgi))


def pre_exec(server):
    server.log.info("Forked child, re-executing.")


def worker_int(worker):
    worker.log.info("worker received INT or QUIT signal")
    import sys
    import threading
    import traceback

    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        worker.log.debug("# Thread: %s\n%s", names.get(ident, ""), "".join(traceback.format_stack(frame)))


def worker_abort(worker):
    worker.log.info("worker received SIGABRT signal")


def nworkers_changed(server, new_value, old_value):
    server.log.info("MARK workers %s %s", new_value, old_value)


def child_exit(server, worker):
    server.log.info("MARK gone %s", worker.pid)


def worker_exit(server, worker):
    worker.log.info("MARK exit %s", worker.alive)


def on_exit(server):
    server.log.info("MARK exit of the server")
