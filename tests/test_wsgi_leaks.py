"""Nothing is left of a request: references, descriptors and memory are flat over many requests of all kinds."""

from __future__ import annotations

import json

import pytest

from support.wsgi_probe import Probe, probe_server

WARM_UP = 300  # rounds until most caches of tracebacks, code and allocators are full
ROUNDS = 450  # of 26 requests, in a window
WINDOWS = 4


def use_everything(probe: Probe) -> None:
    with probe.connect() as client:
        for target in (
            "/hello",
            "/items?of=a,b",
            "/generator/x?of=one,two",
            "/write",
            "/late-start/x",
            "/empty",
            "/exc-info-replaces",
            "/fail-before/x?error=ValueError",
            "/fail-after-start",
            "/misuse/x?case=header-newline",
            "/misuse/x?case=twice",
            "/returns/x?what=none",
            "/big/x?size=40000&blocks=3",
            "/big/x?size=40000&blocks=1&as=list",
            "/file/x?size=40000",
            "/file/x?kind=bytesio&size=9000",
            "/file-closed",
            "/environ/%41?q=%20",
        ):
            client.request("GET", target, "X-Same: 1", "X-Same: 2", "X-Other-Thing: x")
            client.response()
        client.ask("POST", "/echo", body=b"x" * 30000)
        client.ask("POST", "/read?how=iter", body=b"a\nb\n")
        client.ask("POST", "/ignore", body=b"unread")
    for target in ("/yields/x?what=str", "/length/x?says=20&blocks=2", "/fail-after-body/x?error=ValueError"):
        probe.get(target)
    leaver = probe.connect()
    leaver.request("GET", "/endless/x")
    leaver.until(b"\r\n\r\n")
    leaver.reset()


def facts(probe: Probe) -> dict[str, int]:
    return json.loads(probe.get("/collect").body)


def is_flat(grown: dict[str, int]) -> bool:
    others = [abs(value) for name, value in grown.items() if name not in ("rss", "blocks")]
    return grown["rss"] < 2 * 1024 * 1024 and grown["blocks"] < 200 and max(others) < 20


@pytest.mark.timeout(300)
@pytest.mark.parametrize("threads", [1, 4], ids=["inline", "threads"])
def test_flat(threads: int) -> None:
    """What one kind of request loses shows in each window, as ROUNDS blocks at least; caches that settle do not."""
    windows = []
    with probe_server(threads) as probe:
        for _ in range(WARM_UP):
            use_everything(probe)
        before = facts(probe)
        while len(windows) < WINDOWS and not (windows and is_flat(windows[-1])):
            for _ in range(ROUNDS):
                use_everything(probe)
            after = facts(probe)
            windows.append({name: after[name] - before[name] for name in before})
            before = after
    assert is_flat(windows[-1]), windows
