"""An application with a signal handler of its own."""

import signal
import sys


def handler(number, frame):
    sys.stderr.write(f"handled {signal.Signals(number).name}\n")
    sys.stderr.flush()


signal.signal(signal.SIGALRM, handler)


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"waits"]
