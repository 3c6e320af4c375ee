# An agent that may be there or not.
import logging

try:
    import an_agent_that_nobody_has
except ImportError:
    an_agent_that_nobody_has = None

log = logging.getLogger("gunicorn.error")


def post_fork(server, worker):
    if an_agent_that_nobody_has is not None:
        an_agent_that_nobody_has.start()
    server.log.info("Worker spawned (pid: %s)", worker.pid)
