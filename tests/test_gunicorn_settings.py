"""All 120 settings of gunicorn 27, in a file as its users write it: each does what it does there, or is explained.

One server runs with most of them at values of their own; a probe for each sees what came of it from outside. What needs
a server of its own (signals, reloads, dying workers, sockets of others) is shown by the test that ELSEWHERE names. What
has no meaning here is told with its line (EXPLAINED).
"""

from __future__ import annotations

import ast
import json
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.server import Server, wait_until

TESTS = Path(__file__).resolve().parent

APP = """
import json, os, sys
print("printed by the application", flush=True)
open("made", "w").close()

def wsgi(environ, start_response):
    facts = {k: v for k, v in environ.items() if isinstance(v, (str, bool, int))}
    facts["environ"] = dict(os.environ)
    facts["cwd"], facts["path"], facts["pid"] = os.getcwd(), sys.path, os.getpid()
    body = json.dumps(facts).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
"""

SETTINGS = {
    "wsgi_app": '"web:wsgi"',
    "bind": '["127.0.0.1:0", "unix:" + folder + "/web.sock"]',
    "backlog": "77",
    "workers": "2",
    "worker_class": '"gthread"',
    "threads": "3",
    "keepalive": "1",
    "limit_request_line": "200",
    "limit_request_fields": "6",
    "limit_request_field_size": "300",
    "preload_app": "True",
    "chdir": "folder + '/app'",
    "raw_env": '["SHOP=open"]',
    "pidfile": "folder + '/pid'",
    "umask": "0o027",
    "secure_scheme_headers": '{"X-SCHEME": "tls"}',
    "forwarded_allow_ips": '"127.0.0.1"',
    "pythonpath": "folder + '/lib'",
    "permit_obsolete_folding": "True",
    "permit_unconventional_http_method": "True",
    "casefold_http_method": "True",
    "header_map": '"dangerous"',
    "root_path": '"/root"',
    "accesslog": "folder + '/access.log'",
    "access_log_format": "'%(m)s %(U)s %(s)s %({x-id}i)s'",
    "errorlog": "folder + '/error.log'",
    "loglevel": '"debug"',
    "capture_output": "True",
    "proc_name": '"the-shop"',
    "control_socket": "folder + '/ctl'",
}

EXPLAINED = {
    "worker_tmp_dir": ('"/dev/shm"', "shared memory"),
    "asgi_loop": ('"uvloop"', "own event loop"),
    "http_parser": ('"fast"', "own HTTP parser"),
    "asgi_disconnect_grace_period": ("5", "not cancelled"),
    "spew": ("True", "does not trace"),
    "default_proc_name": ('"shop"', "--name"),
    "tmp_upload_dir": ('"/tmp"', "never written to files"),
    "reload_engine": ('"poll"', "inotify"),
    "control_socket_mode": ("0o660", "owner alone"),
    "suppress_ragged_eofs": ("True", "without a meaning"),
    "do_handshake_on_connect": ("True", "without a meaning"),
    "dirty_apps": ('["a:B"]', "task queue"),
    "dirty_workers": ("2", "task queue"),
    "dirty_timeout": ("2", "task queue"),
    "dirty_threads": ("2", "task queue"),
    "dirty_graceful_timeout": ("2", "task queue"),
    "http2_cleartext": ('"both"', "HTTP/2"),
    "http2_max_concurrent_streams": ("10", "HTTP/2"),
    "http2_initial_window_size": ("70000", "HTTP/2"),
    "http2_max_frame_size": ("20000", "HTTP/2"),
    "http2_max_header_list_size": ("9000", "HTTP/2"),
}


# --- how the server is asked


class Site:
    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder

    def say(self, *lines: str, to: str | None = None) -> str:
        """The whole answer to a request that asks for the connection's end."""
        if to is None:
            client = self.server.connect()
        else:
            client = socket.socket(socket.AF_UNIX)
            client.connect(to)
        with client:
            client.sendall("\r\n".join([*lines, "Host: shop", "Connection: close", "", ""]).encode())
            return client.makefile("rb").read().decode()

    def environ(self, *lines: str) -> dict:
        return json.loads(self.say(*(lines or ("GET / HTTP/1.1",))).partition("\r\n\r\n")[2])

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def workers(self) -> list[int]:
        return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", self.text("error.log"))]

    def eventually(self, name: str, part: str) -> bool:
        wait_until(lambda: part in self.text(name), f"{part!r} in {name}")
        return True


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "app").mkdir()
    (folder / "lib").mkdir()
    (folder / "app" / "web.py").write_text(APP)
    lines = [f"{name} = {value}" for name, value in SETTINGS.items()]
    lines += [f"{name} = {value}" for name, (value, _) in EXPLAINED.items()]
    (folder / "gunicorn.conf.py").write_text(f"folder = {str(folder)!r}\n" + "\n".join(lines) + "\n")
    with Server(cwd=folder, bind=None, wait=False) as server:
        wait_until(
            lambda: (folder / "error.log").exists() and "Ready" in (folder / "error.log").read_text(), "the start"
        )
        server._first_address = address_in((folder / "error.log").read_text())
        yield Site(server, folder)


def address_in(log: str) -> str:
    found = re.search(r"Listening at: (http://127\.0\.0\.1:\d+)", log)
    assert found, log
    return found[1]


# --- what is seen of each

PROBES: dict[str, Callable[[Site], bool]] = {}


def probe(function: Callable[[Site], bool]) -> Callable[[Site], bool]:
    PROBES[function.__name__.removeprefix("sees_")] = function
    return function


@probe
def sees_config(site: Site) -> bool:
    return site.environ()["environ"]["SHOP"] == "open"


@probe
def sees_wsgi_app(site: Site) -> bool:
    return "Serving web:wsgi" in site.text("error.log")


@probe
def sees_bind(site: Site) -> bool:
    return site.say("GET / HTTP/1.1", to=str(site.folder / "web.sock")).startswith("HTTP/1.1 200 OK")


@probe
def sees_backlog(site: Site) -> bool:
    return listen_queue(site.server.port) == 77


@probe
def sees_workers(site: Site) -> bool:
    return len(site.workers()) == 2 and site.environ()["wsgi.multiprocess"] is True


@probe
def sees_worker_class(site: Site) -> bool:
    return site.environ()["wsgi.multithread"] is True


@probe
def sees_threads(site: Site) -> bool:
    names = [Path(f"/proc/{pid}/task").iterdir() for pid in site.workers()]
    return all(sum(1 for _ in tasks) >= 3 for tasks in names)


@probe
def sees_keepalive(site: Site) -> bool:
    with site.server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
        began = time.monotonic()
        data = b""
        while chunk := client.recv(65536):
            data += chunk
        return data.startswith(b"HTTP/1.1 200") and time.monotonic() - began >= 0.9


@probe
def sees_limit_request_line(site: Site) -> bool:
    return " 414 " in site.say("GET /" + "a" * 200 + " HTTP/1.1").splitlines()[0]


@probe
def sees_limit_request_fields(site: Site) -> bool:
    return " 431 " in site.say("GET / HTTP/1.1", *(f"X-{i}: 1" for i in range(5))).splitlines()[0]


@probe
def sees_limit_request_field_size(site: Site) -> bool:
    return " 431 " in site.say("GET / HTTP/1.1", "X: " + "a" * 300).splitlines()[0]


@probe
def sees_preload_app(site: Site) -> bool:
    return site.text("error.log").count("printed by the application") == 1


@probe
def sees_chdir(site: Site) -> bool:
    return site.environ()["cwd"] == str(site.folder / "app")


@probe
def sees_raw_env(site: Site) -> bool:
    return site.environ()["environ"]["SHOP"] == "open"


@probe
def sees_pidfile(site: Site) -> bool:
    return int(site.text("pid")) == site.server.pid


@probe
def sees_umask(site: Site) -> bool:
    return (site.folder / "app" / "made").stat().st_mode & 0o777 == 0o640


@probe
def sees_secure_scheme_headers(site: Site) -> bool:
    return site.environ("GET / HTTP/1.1", "X-Scheme: tls")["wsgi.url_scheme"] == "https"


@probe
def sees_forwarded_allow_ips(site: Site) -> bool:
    return site.environ("GET / HTTP/1.1", "X-Forwarded-For: 192.0.2.7")["REMOTE_ADDR"] == "192.0.2.7"


@probe
def sees_pythonpath(site: Site) -> bool:
    return str(site.folder / "lib") in site.environ()["path"]


@probe
def sees_permit_obsolete_folding(site: Site) -> bool:
    return site.environ("GET / HTTP/1.1", "X-Folded: a", " b")["HTTP_X_FOLDED"].split() == ["a", "b"]


@probe
def sees_permit_unconventional_http_method(site: Site) -> bool:
    return site.environ("PURGE-ALL-OF-THE-THINGS / HTTP/1.1")["REQUEST_METHOD"] == "PURGE-ALL-OF-THE-THINGS"


@probe
def sees_casefold_http_method(site: Site) -> bool:
    return site.environ("get / HTTP/1.1")["REQUEST_METHOD"] == "GET"


@probe
def sees_header_map(site: Site) -> bool:
    return site.environ("GET / HTTP/1.1", "X_Under: 1")["HTTP_X_UNDER"] == "1"


@probe
def sees_root_path(site: Site) -> bool:
    environ = site.environ("GET /root/a HTTP/1.1")
    return (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/root", "/a")


@probe
def sees_accesslog(site: Site) -> bool:
    site.environ("GET /seen HTTP/1.1", "X-Id: seven")
    return site.eventually("access.log", "GET /seen 200 seven\n")


sees_access_log_format = PROBES["access_log_format"] = sees_accesslog


@probe
def sees_errorlog(site: Site) -> bool:
    return "Ready" in site.text("error.log") and "Ready" not in site.server.log


@probe
def sees_loglevel(site: Site) -> bool:
    return site.eventually("error.log", "[DEBUG]")


@probe
def sees_capture_output(site: Site) -> bool:
    return "printed by the application" in site.text("error.log")


@probe
def sees_proc_name(site: Site) -> bool:
    return "the-shop" in Path(f"/proc/{site.workers()[0]}/cmdline").read_text()


@probe
def sees_control_socket(site: Site) -> bool:
    return (site.folder / "ctl").is_socket()


def listen_queue(port: int) -> int:
    """The backlog of a listening TCP socket, by sock_diag (man 7 sock_diag): idiag_wqueue."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as netlink:  # NETLINK_SOCK_DIAG
        question = struct.pack("=BBBxI48x", socket.AF_INET, socket.IPPROTO_TCP, 0, 1 << 10)  # TCP_LISTEN
        netlink.send(struct.pack("=IHHII", 16 + len(question), 20, 0x301, 1, 0) + question)  # SOCK_DIAG_BY_FAMILY, dump
        while True:
            data = netlink.recv(1 << 16)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind == 3:  # NLMSG_DONE
                    raise AssertionError(f"nobody listens on port {port}")
                if struct.unpack_from("!H", data, 16 + 4)[0] == port:
                    return struct.unpack_from("=I", data, 16 + 4 + 48 + 8)[0]
                data = data[(length + 3) & ~3 :]


@pytest.mark.parametrize("name", PROBES)
def test_a_setting_does_what_it_does_in_gunicorn(site, name):
    assert PROBES[name](site)


@pytest.mark.parametrize("name", EXPLAINED)
def test_a_setting_without_a_meaning_is_told_with_its_line(site, name):
    number = 1 + (*SETTINGS, *EXPLAINED).index(name) + 1
    pattern = rf'gunicorn\.conf\.py:{number}: "{name}" has no effect: .*{EXPLAINED[name][1]}'
    assert re.search(pattern, site.server.log + site.text("error.log"))


# --- shown by other tests

ELSEWHERE = {
    "worker_connections": "test_exhaustion.py::test_worker_connections",
    "max_requests": "test_process.py::test_max_requests_loses_nothing",
    "max_requests_jitter": "test_lifecycle.py::test_recycling",
    "timeout": "test_process.py::test_a_stuck_worker_is_killed_and_replaced",
    "graceful_timeout": "test_process.py::test_graceful_timeout",
    "asgi_lifespan": "test_asgi_lifespan.py::test_lifespan_off",
    "websocket_max_message_size": "test_websocket.py::test_violations",
    "reload": "test_reload.py::test_a_change_is_served",
    "reload_extra_files": "test_reload.py::test_what_counts_as_a_change",
    "check_config": "test_settings.py::test_check",
    "print_config": "test_settings.py::test_what_is_printed_is_a_configuration_file",
    "reuse_port": "test_scale.py::test_two_servers_share_a_port_only_if_both_are_told",
    "daemon": "test_service.py::test_daemon",
    "user": "test_privileges.py::test_workers_and_mold_are_the_user",
    "group": "test_privileges.py::test_numbers_and_another_group",
    "initgroups": "test_privileges.py::test_in_the_configuration_file_and_initgroups",
    "proxy_protocol": "test_proxy_protocol.py::test_the_client_is_the_one_that_the_header_names",
    "proxy_allow_ips": "test_proxy_protocol.py::test_gunicorns_values_in_a_file",
    "logconfig": "test_logging.py::test_an_ini_file",
    "logconfig_dict": "test_logging.py::test_logconfig_dict",
    "logconfig_json": "test_logging.py::test_syslog_beside_the_error_log",
    "syslog": "test_logging.py::test_syslog_beside_the_error_log",
    "syslog_addr": "test_logging.py::test_syslog_beside_the_error_log",
    "syslog_facility": "test_logging.py::test_syslog_beside_the_error_log",
    "control_socket_disable": "test_control.py::test_no_control_socket",
    "on_starting": "test_hooks.py::test_a_servers_life",
    "on_reload": "test_hooks.py::test_a_reload_is_told_to_the_new_file",
    "when_ready": "test_hooks.py::test_a_servers_life",
    "pre_fork": "test_hooks.py::test_a_workers_life",
    "post_fork": "test_hooks.py::test_a_workers_life",
    "post_worker_init": "test_hooks.py::test_a_workers_life",
    "worker_int": "test_hooks.py::test_a_fast_stop_is_told",
    "worker_abort": "test_hooks.py::test_a_stuck_worker_is_told_before_it_is_killed",
    "pre_exec": "test_upgrade.py::test_pre_exec",
    "pre_request": "test_hooks.py::test_requests",
    "post_request": "test_hooks.py::test_post_request_takes_two_to_four_arguments",
    "child_exit": "test_hooks.py::test_a_workers_death_is_told",
    "worker_exit": "test_hooks.py::test_a_workers_life",
    "nworkers_changed": "test_hooks.py::test_the_number_of_workers_changes",
    "on_exit": "test_hooks.py::test_a_servers_life",
    "on_dirty_starting": "test_config_file.py::test_a_hook_is_said_not_to_be_called",
    "dirty_post_fork": "test_config_file.py::test_a_hook_is_said_not_to_be_called",
    "dirty_worker_init": "test_config_file.py::test_a_hook_is_said_not_to_be_called",
    "dirty_worker_exit": "test_config_file.py::test_a_hook_is_said_not_to_be_called",
    "ssl_context": "test_config_file.py::test_a_hook_is_said_not_to_be_called",
    "protocol": "test_uwsgi.py::test_gunicorns_names_in_a_file",
    "uwsgi_allow_ips": "test_uwsgi.py::test_only_those_allowed_may_speak_it",
    "paste": "test_paste.py::test_an_ini_file_serves",
    "raw_paste_global_conf": "test_paste.py::test_global_variables",
    "enable_stdio_inheritance": "test_service.py::test_a_daemon_that_keeps_its_output",
    "sendfile": "test_files_and_bodies.py::test_sendfile",
    "forwarder_headers": "test_gunicorn_http.py::test_reads_as_gunicorn_does",
    "strip_header_spaces": "test_gunicorn_http.py::test_reads_as_gunicorn_does",
    "permit_unconventional_http_version": "test_gunicorn_http.py::test_reads_as_gunicorn_does",
    "logger_class": "test_logging_idioms.py::test_a_health_filter",
    "statsd_host": "test_statsd.py::test_requests_statuses_durations_and_workers",
    "statsd_prefix": "test_statsd.py::test_a_prefix_and_tags",
    "dogstatsd_tags": "test_statsd.py::test_a_prefix_and_tags",
    "enable_backlog_metric": "test_statsd.py::test_the_backlog",
    "certfile": "test_tls_settings.py::test_a_certificate_does_not_lead_to_plain_text",
    "keyfile": "test_tls_settings.py::test_a_certificate_does_not_lead_to_plain_text",
    "ca_certs": "test_tls_settings.py::test_values_are_checked",
    "cert_reqs": "test_tls_settings.py::test_values_are_checked",
    "ciphers": "test_tls_settings.py::test_values_are_checked",
    "ssl_version": "test_tls_settings.py::test_values_are_checked",
    "http_protocols": "test_tls_settings.py::test_values_are_checked",
    "syslog_prefix": "test_logging.py::test_syslog_beside_the_error_log",
    "disable_redirect_access_to_syslog": "test_logging.py::test_accesses_may_stay_out_of_syslog",
}

SPELLINGS = {
    "asgi_lifespan": ("--lifespan",),
    "syslog_prefix": ("--log-syslog-prefix",),
    "raw_paste_global_conf": ("--paste-global",),
    "reload_extra_files": ("--reload-extra-file",),
    "control_socket_disable": ("--no-control-socket",),
    "websocket_max_message_size": ("ws_max_size", "--ws-max-size"),
}


def gunicorns_settings() -> set[str]:
    from tests.test_settings import GUNICORN, HOOKS

    return {*GUNICORN.split(), *HOOKS.split()}


def test_all_are_here_once():
    shown = [*PROBES, *EXPLAINED, *ELSEWHERE]
    assert len(shown) == len(set(shown))
    assert gunicorns_settings() - set(shown) == set()
    assert set(shown) - gunicorns_settings() == set()


def functions_of(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_test_that_shows_it_is_there(name):
    """And its file speaks of the setting, under one of its names."""
    file, _, function = ELSEWHERE[name].partition("::")
    assert function in functions_of(file)
    text = (TESTS / file).read_text()
    assert any(spelling in text for spelling in SPELLINGS.get(name, (name, "--" + name.replace("_", "-"))))
