"""Not a server: ../yardstick.c answers the row's bytes from a bare epoll loop, which is what the kernel alone costs."""

from harness import machine

REQUIREMENTS = []
KINDS = {"asgi", "wsgi"}


def reference(row, port, workers, folder):
    if row.load.yardstick is None or row.kind not in row.load.yardstick:
        return None
    answer = folder / "answer"
    answer.write_bytes(row.response())
    words = [*row.load.yardstick[row.kind], "workers", str(workers)]
    program = machine.binary("yardstick", [machine.BENCH / "yardstick.c"])
    return [str(program), str(port), str(row.request_bytes), str(answer), *words]
