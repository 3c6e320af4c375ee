"""Prometheus, Sentry, OpenTelemetry and New Relic, set up as their own documentation has it; each talks to a receiver
that is really there."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.server import Server, command, wait_until

PRELOAD = ("--preload",)
pairs = pytest.mark.parametrize(("kind", "options"), [("asgi", PRELOAD), ("wsgi", ())], ids=["asgi-preload", "wsgi"])


def get(server: Server, path: str = "/") -> str:
    with server.connect() as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return client.makefile("rb").read().decode()


class Receiver(ThreadingHTTPServer):
    """Keeps what is posted."""

    daemon_threads = True

    def __init__(self) -> None:
        self.posted: list[tuple[str, bytes]] = []
        super().__init__(("127.0.0.1", 0), self._handler())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        posted = self.posted

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                posted.append(
                    (self.path, gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
                )
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *args: object) -> None:
                pass

        return Handler

    @property
    def port(self) -> int:
        return self.server_address[1]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield made
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


def application(kind: str, before: str, body: str = "pass", wrap: str = "app") -> str:
    """`body` runs in each request, with `path`; the answer tells the process."""
    if kind == "asgi":
        return f"""
import os
{before}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for step in ("startup", "shutdown"):
            await receive()
            await send({{"type": f"lifespan.{{step}}.complete"}})
        return
    path, answer = scope["path"], str(os.getpid()).encode()
    {body}
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": answer}})

app = {wrap}
"""
    return f"""
import os
{before}

def app(environ, start_response):
    path, answer = environ["PATH_INFO"], str(os.getpid()).encode()
    {body}
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer]

app = {wrap}
"""


# --- Prometheus: https://prometheus.github.io/client_python/multiprocess/

PROMETHEUS = """
from prometheus_client import multiprocess

def child_exit(server, worker):
    multiprocess.mark_process_dead(worker.pid)
"""

PROMETHEUS_BEFORE = """
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, multiprocess

REQUESTS = Counter("requests", "Requests")
ALIVE = Gauge("alive", "Who is there", multiprocess_mode="livesum")
ALIVE.set(0)

def metrics():
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return generate_latest(registry)
"""

PROMETHEUS_BODY = """
    if path == "/metrics":
        answer = metrics()
    else:
        REQUESTS.inc()
        ALIVE.set(1)
"""


def metric(text: str, name: str) -> float:
    return float(re.search(rf"^{name} ([\d.]+)$", text, re.MULTILINE)[1])


@pairs
def test_prometheus_over_four_processes(tmp_path, kind, options):
    (tmp_path / "web.py").write_text(application(kind, PROMETHEUS_BEFORE, PROMETHEUS_BODY.strip()))
    (tmp_path / "gunicorn.conf.py").write_text(PROMETHEUS)
    (tmp_path / "metrics").mkdir()
    env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")}
    asked: Counter[str] = Counter()
    with Server("web:app", "--workers", "4", *options, cwd=tmp_path, env=env) as server:

        def ask_all() -> bool:
            asked[get(server).partition("\r\n\r\n")[2]] += 1
            return len(asked) == 4

        wait_until(ask_all, "an answer of each worker")
        total = asked.total()
        assert metric(get(server, "/metrics"), "requests_total") == total
        assert metric(get(server, "/metrics"), "alive") == 4
        victim = int(next(iter(asked)))
        os.kill(victim, signal.SIGKILL)
        server.wait_log(rf"Worker {victim} was killed")
        wait_until(lambda: metric(get(server, "/metrics"), "alive") == 3, "the mark of the dead worker")
        assert metric(get(server, "/metrics"), "requests_total") == total  # the dead one's are counted still


# --- Sentry: https://docs.sentry.io/platforms/python/integrations/


def sentry_init(port: int) -> str:
    return f'sentry_sdk.init(dsn="http://public@127.0.0.1:{port}/1", auto_enabling_integrations=False)'


def errors_in(receiver: Receiver) -> list[dict]:
    """The events of the envelopes: a line each of headers, then header and payload of each item."""
    events = []
    for _, body in receiver.posted:
        lines = body.split(b"\n")[1:]
        for header, payload in zip(lines[::2], lines[1::2], strict=False):
            if header and json.loads(header).get("type") == "event":
                events.append(json.loads(payload))
    return events


@pytest.mark.parametrize(
    ("kind", "options", "where"),
    [("asgi", (), "module"), ("asgi", PRELOAD, "post_fork"), ("wsgi", PRELOAD, "module"), ("wsgi", (), "post_fork")],
    ids=["asgi-module", "asgi-preload-post_fork", "wsgi-preload-module", "wsgi-post_fork"],
)
def test_sentry_hears_of_an_exception(tmp_path, kind, options, where, receiver):
    middleware = {
        "asgi": ("from sentry_sdk.integrations.asgi import SentryAsgiMiddleware", "SentryAsgiMiddleware(app)"),
        "wsgi": ("from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware", "SentryWsgiMiddleware(app)"),
    }
    line, wrap = middleware[kind]
    init = sentry_init(receiver.port)
    before = f"import sentry_sdk\n{line}\n" + (init if where == "module" else "")
    (tmp_path / "web.py").write_text(application(kind, before, 'assert path != "/bad", "no such luck"', wrap))
    hook = f"import sentry_sdk\ndef post_fork(server, worker):\n    {init}\n" if where == "post_fork" else ""
    (tmp_path / "gunicorn.conf.py").write_text(hook)
    with Server("web:app", *options, cwd=tmp_path) as server:
        assert " 200 " in get(server).split("\r\n")[0]
        assert " 500 " in get(server, "/bad").split("\r\n")[0]
        (event,) = wait_until(lambda: errors_in(receiver), "the event")
    (error,) = event["exception"]["values"]
    assert (error["type"], error["value"]) == ("AssertionError", "no such luck")
    assert event["request"]["url"].endswith("/bad") and event["request"]["method"] == "GET"


# --- OpenTelemetry: https://opentelemetry-python.readthedocs.io/en/latest/examples/fork-process-model/

OTEL = """
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

def post_fork(server, worker):
    server.log.info("Worker spawned (pid: %s)", worker.pid)
    resource = Resource.create(attributes={"service.name": "shop", "worker": worker.pid})
    trace.set_tracer_provider(TracerProvider(resource=resource))
    span_processor = BatchSpanProcessor(
        OTLPSpanExporter(endpoint="http://127.0.0.1:%PORT%/v1/traces"), schedule_delay_millis=100
    )
    trace.get_tracer_provider().add_span_processor(span_processor)
"""


def spans_by_worker(receiver: Receiver) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for path, body in receiver.posted:
        assert path == "/v1/traces"
        request = ExportTraceServiceRequest()
        request.ParseFromString(body)
        for resource in request.resource_spans:
            facts = {a.key: a.value for a in resource.resource.attributes}
            names = [span.name for scope in resource.scope_spans for span in scope.spans]
            found.setdefault(facts["worker"].int_value if "worker" in facts else 0, []).extend(names)
    return found


@pairs
def test_opentelemetry_spans_of_each_worker(tmp_path, kind, options, receiver):
    middleware = {
        "asgi": (
            "from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware",
            "OpenTelemetryMiddleware(app)",
        ),
        "wsgi": (
            "from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware",
            "OpenTelemetryMiddleware(app)",
        ),
    }
    (tmp_path / "web.py").write_text(application(kind, middleware[kind][0], "pass", middleware[kind][1]))
    (tmp_path / "gunicorn.conf.py").write_text(OTEL.replace("%PORT%", str(receiver.port)))
    with Server("web:app", "--workers", "2", *options, cwd=tmp_path) as server:
        first, second = server.workers()

        def both_heard() -> bool:
            get(server)
            return set(spans_by_worker(receiver)) >= {first, second}

        wait_until(both_heard, "spans of both workers")
    assert all(name.startswith("GET") for names in spans_by_worker(receiver).values() for name in names)


def test_opentelemetry_instrument(tmp_path, receiver):
    """`opentelemetry-instrument COMMAND` works by a sitecustomize, which the mold's Python runs."""
    body = 'trace.get_tracer("shop").start_span("work " + path).end()'
    (tmp_path / "web.py").write_text(application("wsgi", "from opentelemetry import trace", body))
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    program = [str(Path(sys.executable).parent / "opentelemetry-instrument"), *command()]
    with Server("web:app", cwd=tmp_path, env=env, program=program) as server:
        get(server, "/x")
        wait_until(lambda: "work /x" in spans_by_worker(receiver).get(0, []), "the span")


# --- New Relic: https://docs.newrelic.com/docs/apm/agents/python-agent/; in developer mode it needs no network

NEWRELIC_INI = """
[newrelic]
license_key = 0000000000000000000000000000000000000000
app_name = shop
developer_mode = true
monitor_mode = true
startup_timeout = 10
log_file = stderr
log_level = info
"""

NEWRELIC_BODY = "import newrelic.agent; answer = str(newrelic.agent.current_transaction() is not None).encode()"


@pytest.mark.parametrize(("kind", "way"), [("wsgi", "admin"), ("asgi", "config")])
def test_new_relic_has_a_transaction(tmp_path, kind, way):
    (tmp_path / "newrelic.ini").write_text(NEWRELIC_INI)
    wrap = {"asgi": "newrelic.agent.ASGIApplicationWrapper(app)", "wsgi": "newrelic.agent.WSGIApplicationWrapper(app)"}
    (tmp_path / "web.py").write_text(application(kind, "import newrelic.agent", NEWRELIC_BODY, wrap[kind]))
    env = {"NEW_RELIC_CONFIG_FILE": str(tmp_path / "newrelic.ini")}
    program = (
        [str(Path(sys.executable).parent / "newrelic-admin"), "run-program", *command()] if way == "admin" else None
    )
    if way == "config":
        (tmp_path / "gunicorn.conf.py").write_text("import newrelic.agent\nnewrelic.agent.initialize('newrelic.ini')\n")
    with Server("web:app", cwd=tmp_path, env=env, program=program) as server:
        answer = get(server)
    assert re.search(r"^True\r?$", answer, re.MULTILINE), answer


# --- the loggers of a gunicorn that is installed


def test_a_subclass_of_gunicorns_own_logger(tmp_path):
    glogging = pytest.importorskip("gunicorn.glogging")
    assert glogging.Logger
    (tmp_path / "web.py").write_text(application("wsgi", ""))
    (tmp_path / "gunicorn.conf.py").write_text("""
from gunicorn.glogging import Logger

accesslog = "-"
access_log_format = "%(m)s %(U)s %(s)s %({x-y}e)s"

class Mine(Logger):
    def access(self, resp, req, environ, request_time):
        if req.path != "/health":
            super().access(resp, req, environ, request_time)

    def info(self, msg, *args, **kwargs):
        super().info("<" + msg + ">", *args, **kwargs)

logger_class = Mine
""")
    with Server("web:app", cwd=tmp_path, wait=False) as server:
        server.wait_log("<Ready: .*>")
        get(server, "/health")
        get(server, "/a")
        server.stop()
        assert server.output == "GET /a 200 -\n"
        assert "[INFO] <Starting licorne" in server.log
