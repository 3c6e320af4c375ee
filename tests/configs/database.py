# Connections are not shared over a fork: each worker makes its own.
import os

preload_app = True
workers = 2


def post_fork(server, worker):
    import web

    web.pool = f"pool of {os.getpid()}"
    server.log.info("MARK pool %s", worker.pid == os.getpid())


def worker_exit(server, worker):
    import web

    server.log.info("MARK closing %s", web.pool == f"pool of {os.getpid()}")
