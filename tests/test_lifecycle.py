"""Nothing is lost: clients keep asking (support/loader.py) while the server reloads, recycles, scales, breaks and ends.

Each answer is looked at whole. No request may fail but those that a killed worker had in flight, and what fails is told
with its token and its worker. Each disturbance runs for a moment here, all of them for ten minutes in `make soak`.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from support.loader import Failure, Loader, Loaders, Report, merged
from support.raw_client import RawClient
from support.server import Server, alive, wait_until

APPS = Path(__file__).resolve().parent / "apps"
KINDS = {
    "asgi": ["tokens:asgi"],
    "wsgi": ["tokens:wsgi"],
    "threads": ["tokens:wsgi", "--threads", "4"],
}
TEARDOWN = 2.0  # seconds: so long may a killed process, on a busy machine, still hold its connections


class Site:
    """A server, the folder that its code and its configuration come from, and what was done to it."""

    def __init__(self, folder: Path, kind: str, *args: str) -> None:
        self.folder = folder
        self.version = 0
        self.workers = int(args[args.index("--workers") + 1])
        self.killed: dict[int, tuple[float, float]] = {}  # worker -> its end was after, and before
        self.master = 0  # its pid, once it is started
        self.opened: dict[int, int] = {}  # master -> its descriptors in a calm moment
        self.trace = folder / "trace"
        self.trace.mkdir()
        self.write_version()
        (folder / "conf.py").write_text("")
        env = {"TOKEN_TRACE": str(self.trace), "PYTHONDONTWRITEBYTECODE": "1"}
        given = [*KINDS[kind], "--pythonpath", str(APPS), "--config", "conf.py", "--boot-grace", "0.1", *args]
        self.server = Server(*given, cwd=folder, env=env)

    def write_version(self, more: str = "") -> str:
        """New code, which may do more than name its version."""
        self.version += 1
        (self.folder / "version.py").write_text(f"VERSION = {self.version}\n{more}\n")
        return str(self.version)

    # --- what it logs

    def mark(self) -> int:
        return (self.server.folder / "err").stat().st_size

    def wait_log(self, pattern: str, mark: int, count: int = 1) -> list[re.Match[str]]:
        """Waits for as many lines behind the mark."""
        compiled = re.compile(pattern)

        def lines() -> list[re.Match[str]] | None:
            with open(self.server.folder / "err", errors="replace") as log:
                log.seek(mark)
                found = list(compiled.finditer(log.read()))
            return found if len(found) >= count else None

        return wait_until(lines, f"{count} x {pattern}", 60)

    # --- what is done to it

    def signal(self, number: int) -> int:
        mark = self.mark()
        os.kill(self.master, number)
        return mark

    def end(self) -> None:
        self.signal(signal.SIGTERM)
        if self.master == self.server.pid:
            assert self.server.wait_exit() == 0
        else:
            wait_until(lambda: not alive(self.master), "the end of the master")

    def kill(self, pid: int) -> None:
        began = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.killed[pid] = (began, time.monotonic())

    def worker_of(self, token: str) -> int:
        """Who began to serve this request; 0: nobody."""
        for path in self.trace.iterdir():
            if f"{token}\n" in path.read_text():
                return int(path.name)
        return 0

    def settled(self) -> list[int]:
        """The workers, once none is leaving."""
        return wait_until(lambda: len(found := self.server.workers()) == self.workers and found, "the workers alone")

    # --- what was lost

    def excused(self, failure: Failure) -> bool:
        """Whether a killed worker had it in flight, on its connection or on its way to it; or the server was ended."""
        if failure.kind == "reset_kept" and failure.phase == "end":  # there is nobody to pass idle connections on to
            return True
        if failure.kind not in ("reset_new", "reset_kept", "truncated"):
            return False
        worker = self.worker_of(failure.token)
        return any(
            worker in (0, victim)
            and failure.began < before + TEARDOWN
            and after <= failure.ended < before + 2 * TEARDOWN
            for victim, (after, before) in self.killed.items()
        )

    def check(self, report: Report, allowed: Collection[str] = ()) -> None:
        failures = [failure for failure in report.failures if failure.kind not in allowed]
        lost = [failure for failure in failures if not self.excused(failure)]
        lines = "\n".join(f"{failure}, begun by {self.worker_of(failure.token)}" for failure in lost[:20])
        assert not lost, f"{len(lost)} lost; killed: {self.killed}\n{lines}"
        assert report.failed - report.count(*allowed) == len(failures), "more failures than are told one by one"
        assert report.good > 0


@contextlib.contextmanager
def serving(folder: Path, kind: str, *args: str) -> Iterator[Site]:
    site = Site(folder, kind, *args)
    with site.server:
        site.master = site.server.pid
        yield site
        if site.master != site.server.pid and alive(site.master):
            site.end()


each_kind = pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("asgi", ["--workers", "2", "--preload"]),
        ("wsgi", ["--workers", "3"]),
        ("threads", ["--workers", "2", "--preload"]),
    ],
    ids=["asgi-preload", "wsgi", "threads-preload"],
)


Disturbance = Callable[[Site, Loader], None]


# --- the disturbances -------------------------------------------------------------------------------------------------


def reload(site: Site, loader: Loader) -> None:
    """New code five times; each time it is what serves in the end."""
    for _ in range(5):
        version = site.write_version()
        site.wait_log("Reloaded: generation", site.signal(signal.SIGHUP))
        loader.wait_version(version)


def reload_broken_code(site: Site, loader: Loader) -> None:
    """The old code serves on, the next reload repairs."""
    before, broken = str(site.version), site.write_version("1 / 0")
    site.wait_log("The reload has failed", site.signal(signal.SIGHUP))
    loader.wait_good(50)
    assert loader.report().streak[0] == before
    reload_good(site, loader)
    assert broken not in loader.report().versions


def reload_broken_config(site: Site, loader: Loader) -> None:
    before = str(site.version)
    (site.folder / "conf.py").write_text("workers = 'many'\n")
    site.wait_log("The reload has failed", site.signal(signal.SIGHUP))
    loader.wait_good(50)
    assert loader.report().streak[0] == before
    (site.folder / "conf.py").write_text("")
    reload_good(site, loader)


DYING = """
import os, threading
def post_worker_init(worker):
    threading.Timer(0.05, os._exit, (1,)).start()
"""


def reload_dying_workers(site: Site, loader: Loader) -> None:
    """Its workers boot, and die within boot_grace."""
    before = str(site.version)
    site.write_version()
    (site.folder / "conf.py").write_text(DYING)
    began = time.monotonic()
    mark = site.signal(signal.SIGHUP)
    site.wait_log("The reload has failed", mark)
    site.settled()
    for booted in site.wait_log(r"Booting worker with pid: (\d+)", mark):
        site.killed[int(booted[1])] = (began, time.monotonic())  # what they had begun is lost
    loader.wait_good(50)
    assert loader.report().streak[0] == before
    (site.folder / "conf.py").write_text("")
    reload_good(site, loader)


def reload_good(site: Site, loader: Loader) -> None:
    version = site.write_version()
    site.wait_log("Reloaded: generation", site.signal(signal.SIGHUP))
    loader.wait_version(version)


def recycle(site: Site, loader: Loader, workers: int = 6) -> None:
    """max_requests is small: it goes on all the time."""
    mark = site.mark()
    site.wait_log("Booting worker with pid", mark, workers)


def scale(site: Site, loader: Loader) -> None:
    for number in (signal.SIGTTIN, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTTOU):
        site.workers += 1 if number == signal.SIGTTIN else -1
        site.signal(number)
        site.settled()
        loader.wait_good(50)


def kill_workers(site: Site, loader: Loader, times: int = 2) -> None:
    chance = random.Random(times)
    for _ in range(times):
        mark = site.mark()
        site.kill(chance.choice(site.settled()))
        site.wait_log("Booting worker with pid", mark)
        loader.wait_good(50)


def upgrade(site: Site, loader: Loader) -> None:
    """Another master takes over; one that is sent back leaves no trace."""
    for goes_on in (False, True):
        old, mark = site.master, site.signal(signal.SIGUSR2)
        new = int(site.wait_log(r"The new master (\d+) is ready", mark)[0][1])
        loader.wait_good(50)
        site.master = new if goes_on else old
        leaving = old if goes_on else new
        os.kill(leaving, signal.SIGTERM)
        wait_until(lambda leaving=leaving: not alive(leaving), f"the end of master {leaving}")
        loader.wait_good(50)
    site.settled()


def stick(site: Site, loader: Loader) -> None:
    """A worker hangs for longer than `timeout`; the master ends it."""
    token = f"stuck{site.mark()}"
    began = time.monotonic()
    with RawClient(site.server.connect()) as client:
        client.request("GET", f"/stuck/{token}/600")
        worker = wait_until(lambda: site.worker_of(token), "the request that sticks")
        wait_until(lambda: not alive(worker), f"the end of the stuck worker {worker}")
        site.killed[worker] = (began, time.monotonic())
    loader.wait_good(50)


def crash_loop(site: Site, loader: Loader) -> None:
    """No worker lives: clients wait or are turned away. Once the code is repaired, they are served."""
    site.write_version("import os\nos._exit(1)")
    for worker in site.settled():
        site.kill(worker)
    before = loader.report().count("refusal")
    loader.wait(lambda report: report.count("refusal") > before + 20, "clients that are turned away")
    loader.wait_version(site.write_version())


def descriptors_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def calm(site: Site, loader: Loader) -> None:
    """The master has closed again what it had opened; a mold's channel more or less."""
    loader.wait_good(100)
    site.settled()
    first = site.opened.setdefault(site.master, descriptors_of(site.master))
    wait_until(lambda: descriptors_of(site.master) <= first + 1, f"{first} descriptors in the master")


def end(site: Site, loader: Loader) -> None:
    loader.last_call()
    site.end()


# --- one by one -------------------------------------------------------------------------------------------------------


def disturb(site: Site, *disturbances: Disturbance, allowed: Collection[str] = (), **options: float) -> Report:
    with Loader(site.server.address, **{"streams": 1, "stream_seconds": 0.5, **options}) as loader:
        loader.wait_good(50)
        for disturbance in disturbances:
            loader.phase(disturbance.__name__)
            disturbance(site, loader)
        report = loader.stop()
    site.check(report, allowed)
    return report


@each_kind
def test_reloads(tmp_path: Path, kind: str, args: list[str]) -> None:
    with serving(tmp_path, kind, *args) as site:
        report = disturb(site, reload)
        assert report.closed_idle == 0
        assert list(report.versions) == ["1", "2", "3", "4", "5", "6"]


def test_reloads_that_fail(tmp_path: Path) -> None:
    with serving(tmp_path, "asgi", "--workers", "2") as site:
        report = disturb(site, reload_broken_code, reload_broken_config, reload_dying_workers)
        assert report.phases["reload_broken_code"].closed_idle == 0


@each_kind
def test_recycling(tmp_path: Path, kind: str, args: list[str]) -> None:
    limits = ["--max-requests", "50", "--max-requests-jitter", "20"]
    with serving(tmp_path, kind, *args, *limits) as site:
        report = disturb(site, recycle)
        assert report.closed_idle == 0


def test_scaling(tmp_path: Path) -> None:
    with serving(tmp_path, "asgi", "--workers", "2") as site:
        report = disturb(site, scale)
        assert report.closed_idle == 0


@each_kind
def test_killed_workers(tmp_path: Path, kind: str, args: list[str]) -> None:
    with serving(tmp_path, kind, *args) as site:
        disturb(site, kill_workers)


@pytest.mark.parametrize("kind", ["asgi", "wsgi", "threads"])
def test_a_stuck_worker(tmp_path: Path, kind: str) -> None:
    with serving(tmp_path, kind, "--workers", "2", "--timeout", "1") as site:
        disturb(site, stick, streams=0)


@each_kind
def test_the_end(tmp_path: Path, kind: str, args: list[str]) -> None:
    """Whoever was accepted is answered, streams to their end; then newcomers are refused."""
    with serving(tmp_path, kind, *args) as site:
        report = disturb(site, end, allowed=("refused",))
        assert report.failed > 0


@pytest.mark.sanitized
@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_another_executable(tmp_path: Path, kind: str) -> None:
    with serving(tmp_path, kind, "--workers", "2") as site:
        report = disturb(site, upgrade)
        assert report.closed_idle == 0


def test_descriptors_run_out(tmp_path: Path) -> None:
    """More clients than descriptors: each is served in its turn."""
    with serving(tmp_path, "asgi", "--workers", "2", "--open-files", "64") as site:
        with Loader(site.server.address, kept=120, fresh=10, kept_requests=5, rate=600) as loader:
            loader.wait_good(1500)
            site.check(loader.stop())
        assert 1 <= site.server.log.count("they take turns") <= site.workers
        assert "Cannot accept" not in site.server.log


def test_a_crash_loop(tmp_path: Path) -> None:
    with serving(tmp_path, "asgi", "--workers", "2", "--no-worker-grace", "0.1") as site:
        report = disturb(site, crash_loop, calm, streams=0, allowed=("refusal",))
        assert report.phases["calm"].failures == {}


# --- all of them ------------------------------------------------------------------------------------------------------

# In all; each server gets its share of both.
SOAK_SECONDS = float(os.environ.get("LICORNE_SOAK_SECONDS", "660"))
SOAK_REQUESTS = int(os.environ.get("LICORNE_SOAK_REQUESTS", "1000000"))
SOAKED = [  # kind, arguments, and what is done to it besides EACH
    ("asgi", ["--workers", "2", "--preload"], [stick]),
    ("wsgi", ["--workers", "4"], [stick, crash_loop]),
    ("threads", ["--workers", "2", "--preload"], [stick]),
    ("asgi", ["--workers", "3"], [stick, crash_loop]),
    ("wsgi", ["--workers", "3", "--preload"], [stick]),
    ("threads", ["--workers", "4"], [stick, crash_loop]),
]


def recycle_for_a_while(site: Site, loader: Loader) -> None:
    """Every 200 requests or so, for 2000 of them a worker."""
    (site.folder / "conf.py").write_text("max_requests = 200\nmax_requests_jitter = 50\n")
    reload_good(site, loader)
    recycle(site, loader, 10 * site.workers)
    (site.folder / "conf.py").write_text("")
    reload_good(site, loader)


EACH = [
    calm,
    reload,
    recycle_for_a_while,
    scale,
    reload_broken_code,
    kill_workers,
    reload_broken_config,
    reload_dying_workers,
    upgrade,
]


def soak(site: Site, disturbances: list[Disturbance], seconds: float, requests: int) -> Report:
    """All disturbances in turn until both have been reached, then the end."""
    options = {"kept": 24, "fresh": 4, "streams": 1, "rate": 1000}
    began = time.monotonic()
    with Loaders(site.server.address, 2, **options) as loader:
        loader.wait_good(1000)
        while time.monotonic() < began + seconds or loader.report().good < requests:
            for disturbance in disturbances:
                loader.phase(disturbance.__name__)
                disturbance(site, loader)
        loader.phase("end")
        end(site, loader)
        return loader.stop()


def table(reports: list[Report]) -> str:
    whole = merged(reports)
    lines = [f"{'disturbance':24}{'seconds':>9}{'good':>10}{'closed idle':>13}{'gap ms':>8}  failed"]
    for name, phase in whole.phases.items():
        gap = max(report.phases[name].longest_gap for report in reports if name in report.phases)
        seconds = sum(report.phases[name].seconds for report in reports if name in report.phases)
        failed = ", ".join(f"{count} {kind}" for kind, count in sorted(phase.failures.items())) or "none"
        lines.append(f"{name:24}{seconds:9.0f}{phase.good:10}{phase.closed_idle:13}{gap * 1000:8.0f}  {failed}")
    lines.append(f"{'all':24}{'':9}{whole.good:10}{whole.closed_idle:13}{'':8}  {whole.failed}")
    return "\n".join(lines)


@pytest.mark.soak
def test_all_disturbances_for_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = []
    for number, (kind, args, more) in enumerate(SOAKED):
        folder = tmp_path / str(number)
        folder.mkdir()
        share = 1 / len(SOAKED)
        with serving(folder, kind, *args, "--timeout", "4", "--no-worker-grace", "0.1") as site:
            report = soak(site, EACH + more, SOAK_SECONDS * share, int(SOAK_REQUESTS * share))
            reports.append(report)
            with capsys.disabled():
                print(f"\n--- {kind} {' '.join(args)}\n{table([report])}")
            site.check(report, allowed=("refusal", "refused"))
    with capsys.disabled():
        print(f"\n--- all\n{table(reports)}")
