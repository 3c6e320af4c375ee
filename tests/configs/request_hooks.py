# How long requests take, in the log.
import time


def pre_request(worker, req):
    req.started = time.monotonic()
    worker.log.debug("%s %s", req.method, req.path)


def post_request(worker, req, environ, resp):
    took = time.monotonic() - req.started
    worker.log.info("MARK %s %s %s %s %s", req.method, req.path, resp.status, took < 60, environ["REQUEST_METHOD"])
