"""`redisaq worker` with real processes and a real server: probes, restarts, signals, and what is left when something is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from redisaq import Admin, Producer
from redisaq.admin_views import GroupInfo
from tests.integration.cli_processes import own_place, running_in
from tests.integration.worker_processes import until, worker
from tests.servers import Server

# The tests themselves have no event loop: they are about other processes.

SHOP = """
    import os, pathlib
    import anyio
    from redisaq import App, Message

    app = App(os.environ["URL"], namespace=os.environ["NAMESPACE"])
    orders = app.topic("orders", int, partitions=8)

    ttl = float(os.environ.get("TTL", "12"))

    @orders.consumer("billing", heartbeat_interval=ttl / 6, heartbeat_ttl=ttl, drain_timeout=1000)
    async def bill(message: Message[int]) -> None:
        with pathlib.Path("begun").open("a") as begun:
            begun.write("x")
        await anyio.sleep(float(os.environ.get("WORK", "0.01")))
        with pathlib.Path("handled").open("a") as handled:
            handled.write(f"{message.payload}\\n")
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for the worker; when the test is over, nothing may run in it."""
    with own_place(leaves="shop.py") as directory:
        yield directory
        until(lambda: not running_in(directory), "every process ends")
        for file in directory.iterdir():
            if file.name != "shop.py":
                shutil.rmtree(file) if file.is_dir() else file.unlink()


def surroundings(server: Server, namespace: str, **more: str) -> dict[str, str]:
    """Return what SHOP finds in its environment."""
    return {"URL": server.url, "NAMESPACE": namespace, **more}


def enqueue(server: Server, namespace: str, count: int) -> None:
    async def send() -> None:
        async with Producer("orders", server.url, namespace=namespace, init_partitions=8) as producer:
            await producer.batch_enqueue(range(count))

    anyio.run(send)


def group(server: Server, namespace: str) -> GroupInfo:
    async def look() -> GroupInfo:
        async with Admin(server.url, namespace=namespace) as admin:
            return await admin.group("orders", "billing")

    return anyio.run(look)


def gone(pid: int) -> bool:
    """Return whether a process has ended (its parent, if it is dead, too, may not have waited for it)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_killed_child_is_started_again_and_a_stopped_one_is_not_live(place: Path, valkey_server: Server, namespace: str) -> None:
    env = surroundings(valkey_server, namespace, TTL="2")
    consumed = "messaging_client_consumed_messages_total"
    with worker(place, SHOP, env=env, processes=2, stalled_after=2.0, pulse=0.1) as shop:
        until(lambda: shop.says("/ready", 200) and shop.says("/live", 200), "it is ready")
        first, second = shop.pids()

        enqueue(valkey_server, namespace, 200)
        until(lambda: shop.metric(consumed, error_type="") >= 20, "some are handled and counted")
        counted = shop.metric(consumed, error_type="")
        os.kill(first, signal.SIGKILL)
        until(lambda: set(shop.handled()) == set(range(200)), "all are handled")
        until(lambda: shop.says("/ready", 200) and shop.pids()[0] not in (None, first), "the killed child is back")
        until(lambda: shop.metric("redisaq_partitions_owned") == 8, "every partition has an owner")
        until(lambda: shop.says("/live", 200), "every loop turns")
        assert shop.metric(consumed, error_type="") >= counted
        assert shop.metric("redisaq_worker_deaths_total") == 1
        assert [(child["starts"], child["last_end"]) for child in shop.status()["children"]] == [(2, "was ended by SIGKILL"), (1, "")]

        os.kill(second, signal.SIGSTOP)
        complaint = f"not live\nchild 2 (pid {second}): its event loop has not turned"
        until(lambda: complaint in shop.get("/live")[1], "the stopped child is noticed")
        assert shop.says("/live", 503)
        assert shop.says("/ready", 503)
        assert shop.says("/elsewhere", 404)
        os.kill(second, signal.SIGCONT)
        until(lambda: shop.says("/ready", 200), "it goes on")

        shop.signal(signal.SIGTERM)
        assert shop.end() == 0
    info = group(valkey_server, namespace)
    assert (info.pending, info.unread, info.retry) == (0, 0, 0)


def test_what_a_killed_child_has_counted_since_its_last_report_is_not_lost(place: Path, valkey_server: Server, namespace: str) -> None:
    """Here it has never reported a message at all."""
    with worker(place, SHOP, env=surroundings(valkey_server, namespace), processes=1, pulse=600.0) as shop:
        enqueue(valkey_server, namespace, 20)
        until(lambda: set(shop.handled()) == set(range(20)), "all are handled")
        until(lambda: group(valkey_server, namespace).pending == 0, "all are settled")
        assert shop.metric("messaging_client_consumed_messages_total") == 0
        os.kill(shop.pids()[0], signal.SIGKILL)
        until(lambda: shop.metric("messaging_client_consumed_messages_total", error_type="") == 20, "all are counted")
        assert shop.metric("messaging_process_duration_seconds_count") == shop.metric("redisaq_message_wait_seconds_count") == 20


def test_the_first_sigterm_drains_and_the_second_forces(place: Path, valkey_server: Server, namespace: str) -> None:
    env = surroundings(valkey_server, namespace, WORK="1000")
    with worker(place, SHOP, env=env, processes=2, backend="uvloop", log="json", pulse=0.1) as shop:
        until(lambda: shop.says("/ready", 200), "it is ready")
        enqueue(valkey_server, namespace, 2)
        until(lambda: (place / "begun").exists() and len((place / "begun").read_text()) == 2, "both are in handlers")
        shop.signal(signal.SIGTERM)
        until(lambda: shop.status()["draining"] and shop.says("/ready", 503), "it drains")
        until(lambda: shop.says("/live", 200), "every loop turns")
        until(lambda: {child["state"] for child in shop.status()["children"]} <= {"draining", "ended"}, "the children drain")
        shop.signal(signal.SIGTERM)
        assert shop.end() == 1
        lines = [json.loads(line) for line in shop.log().splitlines()]
        assert ("draining", 0) in [(line["message"], line["child"]) for line in lines]
        acquired = [line for line in lines if line.get("redisaq_event") == "PartitionAcquired"]
        assert {(line["redisaq_topic"], line["level"]) for line in acquired} == {("orders", "INFO")}
    info = group(valkey_server, namespace)
    assert info.pending + info.unread == 2


def test_children_drain_when_their_parent_is_killed(place: Path, valkey_server: Server, namespace: str) -> None:
    env = surroundings(valkey_server, namespace, WORK="0.5")
    with worker(place, SHOP, "--processes", "2", "--backend", "trio", env=env) as shop:
        until(lambda: shop.says("/ready", 200), "it is ready")
        pids = shop.pids()
        enqueue(valkey_server, namespace, 1)
        until((place / "begun").exists, "it is in a handler")
        shop.signal(signal.SIGKILL)
        until(lambda: all(map(gone, pids)), "the children end")
        assert shop.handled() == [0]
    info = group(valkey_server, namespace)
    assert (info.members, info.pending, info.unread) == ((), 0, 0)


DYING = """
    import os
    from contextlib import asynccontextmanager
    from redisaq import App

    @asynccontextmanager
    async def die(_):
        os._exit(3)
        yield

    app = App("memory://", lifespan=die)
    app.topic("orders").consumer("billing")(print)
"""


def test_five_deaths_in_a_minute_end_it(place: Path) -> None:
    with worker(place, DYING, health=False, processes=1) as shop:
        assert shop.end() == 1
        assert shop.log().count("child 1 ended with status 3") >= 5
        assert "5 deaths in 60 s are too many" in shop.log()


RELOADED = """
    from contextlib import asynccontextmanager
    from redisaq import App

    @asynccontextmanager
    async def tell(_):
        print("version 1", flush=True)
        yield

    app = App("memory://", lifespan=tell)
    app.topic("orders").consumer("billing")(print)
"""


def test_a_changed_file_starts_it_again(place: Path) -> None:
    """A mistake in the program ends nothing: it waits for the next change."""
    with worker(place, RELOADED, health=False, reload=True) as shop:
        until(lambda: "version 1" in shop.log(), "it serves")
        (place / "shop.py").write_text("this is no Python\n")
        until(lambda: "waiting for a file to change" in shop.log(), "it notices")
        assert "SyntaxError" in shop.log()
        saved = 0.0

        def serves_again() -> bool:
            """Save like somebody who sees no effect: the watcher forgets what comes just while it hands earlier changes over."""
            nonlocal saved
            if time.monotonic() > saved + 10:
                saved = time.monotonic()
                (place / "shop.py").write_text(textwrap.dedent(RELOADED.replace("version 1", "version 2")))
            return "version 2" in shop.log()

        until(serves_again, "it serves again")
        shop.signal(signal.SIGINT)
        assert shop.end() == 0


BROKEN = """
    def rate():
        return 1 / 0

    rate()
"""


def test_a_program_that_cannot_be_imported_shows_its_traceback_once(place: Path) -> None:
    with worker(place, BROKEN, health=False, processes=1) as shop:
        assert shop.end() == 1
        log = shop.log()
    assert log.count("ZeroDivisionError: division by zero") == 1
    assert "shop.py" in log
    assert "loading.py" not in log
    assert "importing shop:app failed" in log


@pytest.mark.parametrize(
    ("program", "url", "reason"),
    [
        ("jobs = 1", "memory://", "module shop has no 'app'"),
        (DYING, "rediss:nowhere", "the URL begins with none of"),
    ],
)
def test_what_cannot_be_run_at_all_is_one_line(place: Path, program: str, url: str, reason: str) -> None:
    with worker(place, program, "--url", url, health=False) as shop:
        assert shop.end() == 2
        assert shop.log().startswith("redisaq worker: ")
        assert reason in shop.log()
        assert shop.log().count("\n") == 1
