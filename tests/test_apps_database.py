"""An app over PostgreSQL and Redis: its pools over many requests and two workers, time limits, clients that leave."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from support.clients import Request, aiohttp_session, drive, feed
from support.databases import Postgres
from support.server import Server, wait_until

APPS = Path(__file__).resolve().parent / "apps"
DRIVERS = ["sqlalchemy", "psycopg"]
# The limit may strike before the database has begun with the query; psycopg then asks too early for its cancellation,
# and waits for its end, under any server.
TOO_LONG = "seconds=2&limit=0.02"
OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
ASLEEP = f"{OTHERS} AND state = 'active' AND query LIKE '%pg_sleep%'"


def environment(postgres: Postgres, redis: str) -> dict[str, str]:
    return {
        "POSTGRES_URL": postgres.sqlalchemy_url,
        "POSTGRES_CONNINFO": postgres.conninfo,
        "REDIS_SOCKET": redis,
    }


@pytest.fixture
def server(request: pytest.FixtureRequest, postgres: Postgres, redis: str) -> Iterator[Server]:
    """Two workers, unless the test is parametrized with another number."""
    workers = str(getattr(request, "param", 2))
    with Server(
        *["database:app", "--workers", workers, "--preload", "--lifespan", "on"],
        cwd=APPS,
        env=environment(postgres, redis),
    ) as server:
        yield server
        assert server.log.count("Booting worker") == int(workers), server.log
    # The pools are closed by the lifespan's end, so nothing of the app is left in the database.
    wait_until(lambda: postgres.run(OTHERS) == [("0",)], "the workers' connections to be closed")


one_worker = pytest.mark.parametrize("server", [1], indirect=True)


def get(server: Server, path: str) -> dict:
    return drive("httpx", server, [Request("GET", path)])[0].json()


async def everything(server: Server, count: int) -> list[tuple[str, int, dict | str]]:
    """Transfers (some fail), sums, sleeps and timeouts, from 24 clients at a time: three times the pools' size."""
    gate = asyncio.Semaphore(24)

    async def one(number: int) -> tuple[str, int, dict | str]:
        kind = ("transfer", "transfer", "failing", "accounts", "rows", "slow", "redis")[number % 7]
        chance = random.Random(number)
        async with gate, aiohttp_session(server) as session:
            if kind in ("transfer", "failing"):
                source, target = chance.sample(range(1, 9), 2)
                wish = {"from": source, "to": target, "amount": chance.randint(1, 9), "fail": kind == "failing"}
                async with session.post("/transfer", json=wish) as got:
                    return kind, got.status, await got.json() if got.status == 200 else await got.text()
            path = {
                "accounts": "/accounts",
                "rows": "/rows/500",
                "slow": f"/sleep/{DRIVERS[number % 2]}?{TOO_LONG}",
                "redis": "/sleep/redis?seconds=0.02",
            }[kind]
            async with session.get(path) as got:
                return kind, got.status, await got.json() if kind == "accounts" else await got.text()

    return await asyncio.gather(*(one(number) for number in range(count)))


def test_pools_under_load(server: Server, postgres: Postgres) -> None:
    results = asyncio.run(everything(server, 420))
    expected = {"transfer": 200, "failing": 500, "accounts": 200, "rows": 200, "slow": 504, "redis": 200}
    found = {(kind, status) for kind, status, _ in results}
    assert found - {("slow", 200)} == set(expected.items())  # a limit that struck too early
    rows = "".join(f"{n} {hashlib.md5(str(n).encode()).hexdigest()}\n" for n in range(1, 501))
    for kind, _, content in results:
        if kind == "accounts":  # at any moment: no transfer is half done
            assert sum(account["balance"] for account in content["accounts"]) == 8000
        if kind == "rows":
            assert content == rows
    assert len({content["worker"] for kind, _, content in results if kind == "transfer"}) == 2

    done = sum(kind == "transfer" for kind, _, _ in results)
    end = get(server, "/accounts")
    entries = [entry for account in end["accounts"] for entry in account["entries"]]
    assert end["transfers"] == done and len(entries) == 2 * done and sum(entries) == 0
    assert all(1000 + sum(account["entries"]) == account["balance"] for account in end["accounts"])
    assert postgres.run("SELECT sum(balance) FROM account") == [("8000",)]

    log = server.log
    assert log.count("RuntimeError: on purpose, in the middle") == log.count("[ERROR]") == 60, log
    assert "never awaited" not in log and "was never retrieved" not in log and "garbage collector" not in log


@one_worker
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_timeout_leaves_the_pool_usable(server: Server, postgres: Postgres, driver: str) -> None:
    """More timeouts than the pool has connections; then all connections are used at once."""
    limited = [Request("GET", f"/sleep/{driver}?{TOO_LONG}")] * 10
    assert [reply.status for reply in drive("httpx", server, limited)] == [504] * 10
    wait_until(lambda: get(server, "/pools")[driver] == 0, "all connections back in the pool")

    async def at_once() -> list[int]:
        async def sleep() -> int:
            async with aiohttp_session(server) as session, session.get(f"/sleep/{driver}?seconds=0.05") as got:
                return got.status

        return await asyncio.gather(*(sleep() for _ in range(12)))

    assert asyncio.run(at_once()) == [200] * 12
    wait_until(lambda: postgres.run(ASLEEP) == [("0",)], "the server to have cancelled the queries")
    assert "[ERROR]" not in server.log


def hang_up(client: socket.socket, how: str) -> None:
    if how == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


@one_worker
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_client_leaves_while_its_query_runs(server: Server, postgres: Postgres, driver: str, how: str) -> None:
    """The app hears of it and cancels; the database stops; the pool is whole; nothing is logged as an error."""
    before = get(server, "/pools")
    for _ in range(2):  # more clients, in sum, than the pool has connections
        clients = [server.connect() for _ in range(3)]
        for client in clients:
            client.sendall(f"GET /watched/{driver} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_until(lambda: postgres.run(ASLEEP) == [("3",)], "the queries to run")
        for client in clients:
            hang_up(client, how)
        wait_until(lambda: get(server, "/pools")[driver] == 0, "the connections to be back in the pool")
        wait_until(lambda: postgres.run(ASLEEP) == [("0",)], "the queries to end")
    after = get(server, "/pools")
    assert after["cancelled"] == 6
    assert after["tasks"] <= before["tasks"] + 1
    assert drive("curl", server, [Request("GET", f"/sleep/{driver}?seconds=0.01")])[0].text == "slept\n"
    assert "[ERROR]" not in server.log and "Traceback" not in server.log, server.log


@one_worker
def test_a_client_leaves_in_the_middle_of_the_rows(server: Server) -> None:
    for _ in range(6):
        with server.connect() as client:
            client.sendall(b"GET /rows/5000000 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
    wait_until(lambda: get(server, "/pools")["psycopg"] == 0, "the connections to be back in the pool")
    assert "[ERROR]" not in server.log, server.log


def test_news_travel_between_workers(server: Server) -> None:
    """Readers on both workers hear, as it happens, what comes in on either."""
    with feed("httpx", server, "/news") as one, feed("aiohttp", server, "/news") as two:
        messages = [(line for line in lines if line.startswith("data:")) for lines in (one, two)]
        assert [next(lines) for lines in messages] == ["data: subscribed"] * 2
        for number in range(20):
            (posted,) = drive("requests", server, [Request("POST", "/news", json={"number": number})], keep=False)
            assert posted.json()["heard"] == 2
            for lines in messages:
                assert json.loads(next(lines).removeprefix("data: ")) == {"number": number}
    assert "[ERROR]" not in server.log, server.log


def test_requests_in_flight_end_before_the_pools_close(server: Server, postgres: Postgres) -> None:
    """TERM while queries run: they are answered, then the lifespan ends, then the worker does."""

    async def sleep_over_the_end() -> list[tuple[int, str]]:
        async def sleep(session: aiohttp.ClientSession) -> tuple[int, str]:
            async with session.get("/sleep/sqlalchemy?seconds=1.5") as got:
                return got.status, await got.text()

        async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(force_close=True)) as session:
            tasks = [asyncio.ensure_future(sleep(session)) for _ in range(4)]
            await asyncio.to_thread(wait_until, lambda: postgres.run(ASLEEP) == [("4",)], "the queries to run")
            server.send_signal(signal.SIGTERM)
            return await asyncio.gather(*tasks)

    assert asyncio.run(sleep_over_the_end()) == [(200, "slept\n")] * 4
    assert server.wait_exit() == 0
    assert "[ERROR]" not in server.log, server.log
