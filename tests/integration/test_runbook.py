"""The runbook, played through: each symptom is brought about on a real server, and the page's commands are typed as they are written there.

A test opens its section of docs/operate/runbook.md and types that section's commands through it. A command that the section does not have
fails, and so does one that was left out. What a command prints and repairs is compared with what the page says of it. Commands of the
machine (`journalctl`, `systemctl`, `dmesg`) are not typed.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest

from redisaq import Admin, App, Consumer, Message, Producer, RetryPolicy, Tick, events
from redisaq.cli import main
from redisaq.environment import current_environment, use_environment
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed, ConsumerError, DamagedKeyError, QueueFull, ServerFull
from tests.integration.worker_processes import worker
from tests.server_fixtures import ServerPool
from tests.servers import Server, free_port
from tests.unit.source import ROOT

E = TypeVar("E", bound=events.Event)

PAGE = (ROOT / "docs/operate/runbook.md").read_text(encoding="utf-8")
FIRST, _, REST = PAGE.partition("| symptom |")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", REST, re.MULTILINE | re.DOTALL)) | {"First of all": FIRST}
LIMIT = 60.0
"""Seconds that anything may take on a busy machine."""

GROUP = "redisaq group orders billing"
PENDING = "redisaq pending orders billing"
RETRIES = "redisaq retries orders billing"
RETRY = "redisaq retry orders billing ID"
PAUSE = "redisaq pause orders billing"
RESUME = "redisaq resume orders billing"
SLOWLY = RetryPolicy(backoff=1000.0, jitter=False)


class Section:
    """A section of the page: its commands, and which of them have been typed."""

    def __init__(self, heading: str, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
        text = SECTIONS[heading]
        lines = [line for block in re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) for line in block.splitlines()]
        spoken = [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", re.sub(r"(?ms)^```.*?^```$", "", text))]
        self.commands = {line for line in [*lines, *spoken] if re.match(r"(redisaq|redis-cli|curl) \S+ ", f"{line} ")}
        self.left = set(self.commands)
        self._server, self._capsys = server, capsys

    async def type(self, line: str, status: int = 0, **words: str) -> str:
        """Type a line of the page, with these words in place of those in capitals; return what it prints."""
        assert line in self.commands, f"not on the page: {line}"
        self.left.discard(line)
        program, *typed = (words.get(word, word) for word in shlex.split(line))
        if program == "curl":
            return await anyio.to_thread.run_sync(curl, [word.replace("localhost:8080", words["address"]) for word in typed])
        if program == "redis-cli":
            answer = self._server.command(*typed)
            return answer.decode() if isinstance(answer, bytes) else str(answer)
        self._capsys.readouterr()
        ended = await anyio.to_thread.run_sync(main, typed)
        printed, complaints = self._capsys.readouterr()
        assert ended == status, f"{line} ended with {ended}:\n{printed}{complaints}"
        return printed + complaints

    async def until(self, line: str, *found: str, **words: str) -> str:
        """Type a line until each of these patterns is in what it prints."""
        limit = time.monotonic() + LIMIT
        while True:
            printed = await self.type(line, 0, **words)
            if all(re.search(pattern, printed) for pattern in found):
                return printed
            assert time.monotonic() < limit, f"{line} never says {found}:\n{printed}"
            await anyio.sleep(0.2)


def curl(words: list[str]) -> str:
    """Run curl; return what it prints, which is nothing if nobody listens."""
    return subprocess.run(["curl", "-s", *words], check=False, capture_output=True, text=True, timeout=LIMIT).stdout


Open = Callable[[str], Section]


@pytest.fixture(scope="module")
def server(server_pool: ServerPool) -> Iterator[Server]:
    """A server that the scenes may break."""
    own = server_pool.new("valkey9")
    yield own
    own.close()


class Terminal(io.StringIO):
    """A terminal, at which somebody types yes to every question."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def runbook(server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Open:
    """Open a section of the page."""
    monkeypatch.setenv("REDISAQ_URL", server.url)
    monkeypatch.setattr(sys, "stdin", Terminal("y\n" * 10))
    server.start()
    server.flush()
    return lambda heading: Section(heading, server, capsys)


def play(section: Section, scene: Callable[[], Awaitable[None]]) -> None:
    """Play a scene, on asyncio. It must type every command of its section."""

    async def within_limits() -> None:
        with anyio.fail_after(3 * LIMIT):
            await scene()

    try:
        anyio.run(within_limits)
    except ExceptionGroup as group:
        found: Exception = group
        while isinstance(found, ExceptionGroup):
            (found,) = found.exceptions
        raise found from None
    assert section.left == set()


class Events(list[events.Event]):
    """What a consumer reports."""

    async def one(self, kind: type[E]) -> E:
        """Wait for an event of this kind; return the first."""
        limit = time.monotonic() + LIMIT
        while not (found := [event for event in self if isinstance(event, kind)]):
            assert time.monotonic() < limit, f"no {kind.__name__} in {self}"
            await anyio.sleep(0.01)
        return found[0]


@asynccontextmanager
async def consumer(handler: Any, name: str | None = "anna", topic: str = "orders", **settings: Any) -> AsyncIterator[Events]:
    """Let a consumer of the group "billing" run; at the end it is stopped, as a process is that is restarted."""
    reported = Events()
    settings = {"group_name": "billing", "consumer_name": name, "batch_size": 1, "heartbeat_interval": 0.2, "heartbeat_ttl": 2.0} | settings
    async with anyio.create_task_group() as tasks:
        await tasks.start(Consumer(topic, on_event=reported.append, **settings).process, handler)
        yield reported
        tasks.cancel_scope.cancel()


async def enqueue(*payloads: object, **settings: Any) -> list[str]:
    """Enqueue orders; return their ids."""
    async with Producer("orders", **settings) as producer:
        return list(await producer.batch_enqueue(payloads))


async def fill(producer: Producer, payload: object) -> None:
    """Enqueue until this is refused."""
    for _ in range(1000):
        await producer.enqueue(payload)


def ignore(_: Message[Any]) -> None:
    """Handle anything."""


async def fail(_: Message[Any]) -> None:
    """Fail always."""
    raise OSError("the mail server is away")


async def hang(_: Message[Any]) -> None:
    """Never end."""
    await anyio.sleep_forever()


def rows_of(printed: str) -> dict[int, dict[str, str]]:
    """Return the table of partitions that a command has printed: of each partition, its cells by their heads."""
    lines = iter(printed.splitlines())
    heads = next(line.split() for line in lines if line.startswith("partition"))
    cells = [line.split() for line in lines if line.split()[0].isdigit()]
    return {int(row[0]): dict(zip(heads, row, strict=True)) for row in cells}


def test_each_symptom_is_played() -> None:
    """Each row of the page's table leads to a section, and each section is opened by a test."""
    rows = re.findall(r"^\| .+ \| \[(.+?)\]\(#(.+?)\) \|$", PAGE, re.MULTILINE)
    assert {heading for heading, _ in rows} == set(SECTIONS) - {"First of all"}
    assert all(place == re.sub(r"[^a-z ]", "", heading.lower()).replace(" ", "-") for heading, place in rows)
    assert set(re.findall(r"runbook\(\"(.+?)\"\)", Path(__file__).read_text(encoding="utf-8"))) == set(SECTIONS)


def test_first_of_all(runbook: Open) -> None:
    book = runbook("First of all")

    async def scene() -> None:
        await enqueue(1)
        async with consumer(ignore):
            async with Admin() as admin:
                await admin.pause("orders", "billing")
            await enqueue(1)
            await book.until("redisaq top --once", r"NEEDS ATTENTION \(1\)\n‖ +orders › billing +(is|has been) paused.* by ")
        doctor = await book.type("redisaq doctor", status=1)  # for it writes nothing to disk
        assert "fix: CONFIG SET appendonly yes" in doctor

    play(book, scene)


def test_consumers_do_not_keep_up(runbook: Open) -> None:
    book = runbook("Consumers do not keep up")
    released = False

    async def handle(message: Message[Any]) -> None:
        while not released:
            await anyio.sleep(0.01)
        await fail(message)

    async def scene() -> None:
        nonlocal released
        await enqueue(*range(20), init_partitions=2)
        async with consumer(handle, None, retry=SLOWLY):
            rows = rows_of(await book.until(GROUP, "14 unread, 6 pending"))  # of each partition, one in its handler and two read ahead
            assert all(row["owner"] != "-" and row["unread"] == "7" for row in rows.values())
            lines = (await book.type(f"{GROUP} --running")).splitlines()
            member = next(line.split() for line in lines if line.rstrip().endswith("0, 1"))
            assert member[1] == f"{socket.gethostname()}:{os.getpid()}"
            running = [line.split() for line in lines[-2:]]
            assert sorted(row[2] for row in running) == ["0", "1"]
            assert {(row[4], row[5]) for row in running} == {(member[0], f"{datetime.now(UTC):%Y-%m-%d}")}
            released = True
            await book.until(GROUP, r"[1-9]\d* to be retried")
            await book.type(PAUSE)
            assert ", paused:" in await book.type(GROUP)
            assert "OSError: the mail server is away" in await book.type(RETRIES)
            await book.type(RESUME)
            await book.until(GROUP, "billing of orders: 0 unread, 0 pending, 20 to be retried")
            await book.type("redisaq grow orders 16")
            assert len(rows_of(await book.type(GROUP))) == 16

    play(book, scene)


CRASHING = """
import sys, anyio
from redisaq import Consumer
consumer = Consumer("orders", group_name="billing", consumer_name="bert", heartbeat_interval=0.2, heartbeat_ttl=2.0)
anyio.run(consumer.process, lambda message: None)
"""


def test_nobody_consumes(runbook: Open) -> None:
    book = runbook("Nobody consumes")

    async def scene() -> None:
        await enqueue(1, init_partitions=2)
        async with consumer(ignore):
            process = subprocess.Popen([sys.executable, "-c", CRASHING])
            try:
                await book.until(GROUP, r"(?m)^ *\d +anna", r"(?m)^ *\d +bert")
            finally:
                process.kill()
                process.wait()
            await book.until(GROUP, r"(?m)^ *0 +anna", r"(?m)^ *1 +anna")
            async with Admin() as admin:
                await admin.pause("orders", "billing")
                assert ", paused:" in await book.type(GROUP)
                (found, *_) = await admin.history("orders", "billing")
            assert (found.what, str(os.getpid()) in found.by) == ("paused", True)
            await book.type(RESUME)
            assert ", paused:" not in await book.type(GROUP)
        await enqueue(2)
        printed = await book.type(GROUP)
        assert "no members" in printed
        assert "1 unread" in printed
        assert await book.type("curl localhost:8080/status", address=f"127.0.0.1:{free_port()}") == ""
        async with Producer("parcels", namespace="shop"):
            pass
        assert await book.type("redisaq topics --namespace shop") == "parcels\n"

    play(book, scene)


def test_one_partition_is_stuck(runbook: Open) -> None:
    book = runbook("One partition is stuck")
    handled: list[Any] = []

    async def scene() -> None:
        first, *_ = await enqueue(1, 2)
        async with consumer(hang):
            await book.until(PENDING, f"{first} .*anna")
            await book.until(GROUP, "0 unread, 2 pending")
        async with consumer(fail, "bert", retry=RetryPolicy(backoff=1000.0, jitter=False, blocking=True)) as reported:
            assert (await reported.one(events.MessageFailed)).msg_id == first  # which is logged
            await book.until(GROUP, "0 unread, 2 pending, 0 to be retried")
        async with consumer(lambda message: handled.append(message.payload), "carla"):
            await book.until(GROUP, "0 unread, 0 pending, 0 to be retried")
            assert handled == [1, 2]
        assert rows_of(await book.type("redisaq topic orders"))[0]["entries"] == "2"

    play(book, scene)


def test_a_new_partition_waits(runbook: Open) -> None:
    book = runbook("A new partition waits")
    handled: list[Any] = []
    broken = True

    async def handle(message: Message[Any]) -> None:
        if broken and message.payload < 2:
            await fail(message)
        handled.append(message.payload)

    async def scene() -> None:
        nonlocal broken
        first, second = await enqueue(0, 1)
        async with consumer(handle, retry=SLOWLY), Admin() as admin:
            await book.until(GROUP, "2 to be retried")
            await admin.grow("orders", 2)
            async with Producer("orders") as producer:
                for payload in range(2, 8):
                    await producer.enqueue(payload, key=f"key {payload}")
            await book.until(GROUP, r"(?m)^ +1 +anna +[1-9]")
            assert rows_of(await book.type(GROUP))[1]["pending"] == "0"  # nothing of it is read
            assert "OSError: the mail server is away" in await book.type(RETRIES)
            broken = False
            await book.type(RETRY, ID=first)
            await book.until(GROUP, "1 to be retried")
            await book.type("redisaq cancel orders ID billing", ID=second)
            await book.until(GROUP, "0 unread, 0 pending, 0 to be retried")
            assert sorted(handled) == [0, *range(2, 8)]
            assert handled[-1] != 0

    play(book, scene)


def test_messages_became_dead_letters(runbook: Open) -> None:
    book = runbook("Messages became dead letters")
    handled: list[Any] = []

    async def scene() -> None:
        first, second = await enqueue(1, 2)
        async with consumer(fail, retry=RetryPolicy(max_attempts=2, backoff=0.01)):
            await book.until("redisaq dead list orders billing", first, second)
        shown = await book.type("redisaq dead show orders billing ID", ID=first)
        assert "OSError: the mail server is away" in shown
        assert "in fail" in shown
        async with consumer(lambda message: handled.append(message.payload)):
            assert "redriven: 2" in await book.type("redisaq dead redrive orders billing")
            while len(handled) < 2:
                await anyio.sleep(0.01)
        assert "no dead letters" in await book.type("redisaq dead list orders billing")

    play(book, scene)


def test_messages_were_trimmed(runbook: Open) -> None:
    book = runbook("Messages were trimmed")

    async def scene() -> None:
        await enqueue(0)
        async with consumer(ignore):
            await book.until(GROUP, "0 unread, 0 pending")
        await enqueue(*range(20), maxlen=5, approximate=False)
        async with consumer(ignore) as reported:
            assert (await reported.one(events.EntriesTrimmed)).count == 15
            await book.until(GROUP, "0 unread, 0 pending")
        assert rows_of(await book.type(GROUP))[0]["lost"] == "15"
        assert rows_of(await book.type("redisaq topic orders"))[0]["entries"] == "5"
        await enqueue(*range(20), maxlen=100)
        async with consumer(ignore):
            await book.until(GROUP, "0 unread, 0 pending")
        assert rows_of(await book.type(GROUP))[0]["lost"] == "15"

    play(book, scene)


def test_the_server_is_away(runbook: Open, server: Server) -> None:
    book = runbook("The server is away")
    handled: list[Any] = []

    async def scene() -> None:
        async with Producer("orders", send_timeout=0.3) as producer:
            await producer.enqueue(1)
            async with consumer(lambda message: handled.append(message.payload)) as reported:
                while not handled:
                    await anyio.sleep(0.01)
                server.command("SAVE")
                server.kill()
                with pytest.raises(ConnectionFailed):
                    await producer.enqueue(2)
                await reported.one(events.Disconnected)
                assert "cannot connect" in await book.type("redisaq doctor", status=3)
                server.start()
                assert await book.type("redis-cli ping") == "PONG"
                await producer.enqueue(3)
                while handled[-1] != 3:
                    await anyio.sleep(0.01)
        server.command("CONFIG", "SET", "requirepass", "secret")
        try:
            assert "the server asks for a password" in await book.type("redisaq doctor", status=1)
        finally:
            server.restart(keep_data=False)

    play(book, scene)


def test_the_servers_memory_is_full(runbook: Open, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = runbook("The server's memory is full")
    monkeypatch.chdir(tmp_path)

    async def scene() -> None:
        await enqueue("dead", "waits")
        async with consumer(fail, retry=RetryPolicy(max_attempts=1)), Admin() as admin:
            while (await admin.group("orders", "billing")).dead < 2:
                await anyio.sleep(0.01)
        async with consumer(hang, group_name="old_group"):
            pass
        used = int(re.findall(r"used_memory:(\d+)", await book.type("redis-cli info memory"))[0])
        server.command("CONFIG", "SET", "maxmemory", used + 200_000)
        try:
            async with Producer("orders", send_timeout=1.0) as producer:
                with pytest.raises(ServerFull):
                    await fill(producer, "x" * 20_000)
            doctor = await book.type("redisaq doctor", status=1)
            assert "nothing is evicted" in doctor
            assert "of the memory is used: when it is full, producers are refused" in doctor
            assert await book.type("redisaq topics") == "orders\n"
            assert "groups: billing, old_group" in await book.type("redisaq topic orders")
            handled: list[Any] = []
            async with consumer(handled.append), Admin() as admin:
                while (await admin.group("orders", "billing")).unread:
                    await anyio.sleep(0.01)
            assert handled
            await book.type("redisaq dead export orders billing dead.jsonl")
            assert len((tmp_path / "dead.jsonl").read_text().splitlines()) == 2
            await book.type("redisaq dead purge orders billing")
            await book.type("redisaq delete orders old_group")
        finally:
            server.command("CONFIG", "SET", "maxmemory", 0)

    play(book, scene)


def test_enqueues_are_refused(runbook: Open) -> None:
    book = runbook("Enqueues are refused")

    async def scene() -> None:
        await enqueue(0)
        async with consumer(ignore, group_name="old_group"), consumer(ignore):
            await book.until(GROUP, "0 unread, 0 pending")
        async with Producer("orders", max_backlog=3, send_timeout=0.2) as producer, consumer(ignore):
            with pytest.raises(QueueFull):
                await fill(producer, 0)
            await book.until(GROUP, "0 unread, 0 pending")
            assert "billing, old_group" in await book.type("redisaq topic orders")
            await book.type("redisaq delete orders old_group")
            for payload in range(10):
                await producer.enqueue(payload)

    play(book, scene)


def test_nobody_knows_whether_a_message_is_there(runbook: Open, server: Server) -> None:
    book = runbook("Nobody knows whether a message is there")

    async def scene() -> None:
        async with Producer("orders", send_timeout=0.3) as producer:
            await producer.enqueue(1)
            server.pause()
            try:
                with pytest.raises(AmbiguousEnqueueError) as raised:
                    await producer.enqueue(2)
                with pytest.raises(AmbiguousEnqueueError):
                    await producer.enqueue(3, dedup_id="three")
            finally:
                server.resume()
            (found,) = raised.value.message_ids
            assert "payload" in await book.type("redisaq message ID orders", ID=found)
            await producer.enqueue(3, dedup_id="three")
        async with Admin() as admin:
            assert (await admin.topic("orders")).length == 3
        assert "or it was trimmed" in await book.type("redisaq message ID orders", status=1, ID="another")

    play(book, scene)


def test_leases_are_lost(runbook: Open, server: Server) -> None:
    book = runbook("Leases are lost")

    async def scene() -> None:
        (first,) = await enqueue(1)
        runs = 0

        async def block(_: Message[Any]) -> None:
            nonlocal runs
            runs += 1
            if runs == 1:
                time.sleep(0.8)

        async with consumer(block, heartbeat_ttl=0.4, slow_after=None) as reported:
            blocked = await reported.one(events.HandlerBlocked)
            assert blocked.msg_id == first
            await book.until(GROUP, "0 unread, 0 pending")
            assert runs == 2
        await enqueue(2)
        async with consumer(lambda _: time.sleep(0.8), heartbeat_ttl=0.4, slow_after=0.1) as reported:
            await book.until(GROUP, "1 pending")
            await book.until(GROUP, "0 unread, 0 pending")
            assert not [event for event in reported if isinstance(event, events.HandlerBlocked | events.LeaseLost)]
            assert (await reported.one(events.HandlerSlow)).attempt == 1
        await enqueue(3)
        async with consumer(hang, heartbeat_ttl=0.4) as reported:
            await book.until(PENDING, "anna")
            server.pause()
            try:
                await reported.one(events.LeaseLost)
            finally:
                server.resume()
            assert not [event for event in reported if isinstance(event, events.HandlerBlocked)]

    play(book, scene)


def test_processes_die(runbook: Open, server: Server, tmp_path: Path) -> None:
    book = runbook("Processes die")
    program = """
        import os
        from redisaq import App, RetryPolicy
        app = App()
        orders = app.topic("orders")
        @orders.consumer("billing", retry=RetryPolicy(max_attempts=1), heartbeat_interval=0.2, heartbeat_ttl=1.0)
        async def bill(message):
            if message.payload == "kills":
                os._exit(9)
        """

    async def scene() -> None:
        first, _ = await enqueue("kills", "kills not")
        with worker(tmp_path, program, processes=1) as running:
            async with Admin() as admin:
                while not (await anyio.to_thread.run_sync(running.says, "/live", 200)):
                    await anyio.sleep(0.05)
                address = f"127.0.0.1:{running.port}"
                await book.until("curl -s localhost:8080/status", 'deaths":[1-9]', address=address)
                while not (letters := [one async for one in admin.dead_letters("orders", "billing")]):
                    await anyio.sleep(0.05)
                while (await admin.group("orders", "billing")).unread:
                    await anyio.sleep(0.05)
            assert [(one.msg_id, one.attempts) for one in letters] == [(first, 1)]

    play(book, scene)


def test_a_message_does_harm(runbook: Open) -> None:
    book = runbook("A message does harm")

    async def scene() -> None:
        async with Producer("orders") as producer:
            delayed = await producer.enqueue(0, delay=1000.0)
            await producer.enqueue(1)
        async with consumer(fail, retry=SLOWLY):
            async with Admin() as admin:
                while not (found := [one async for one in admin.retries("orders", "billing")]):
                    await anyio.sleep(0.01)
            retried = found[0].msg_id
            assert "OSError" in await book.type("redisaq message ID orders", ID=retried)
            assert re.search(r"\ndue +\d", await book.type("redisaq message ID orders", ID=delayed))
            await book.type("redisaq cancel orders ID billing", ID=retried)
            await book.type("redisaq cancel orders ID", ID=delayed)
            assert "OSError" not in await book.type("redisaq message ID orders", ID=retried)
            await book.type("redisaq message ID orders", status=1, ID=delayed)
            await book.type(PAUSE)
            await enqueue(*range(2, 6))
            await book.type("redisaq seek orders billing latest")
            async with Admin() as admin:
                assert (await admin.group("orders", "billing")).unread == 0
            await book.type("redisaq seek orders billing 2026-01-31T03:00:00+00:00")
            async with Admin() as admin:
                assert (await admin.group("orders", "billing")).unread == 5
            await book.type(RESUME)

    play(book, scene)


def test_a_cron_job_did_not_run(runbook: Open) -> None:
    book = runbook("A cron job did not run")

    async def scene() -> None:
        app = App(name="shop")

        @app.cron("* * * * * *", retry=RetryPolicy(max_attempts=1))
        async def often(_: Tick) -> None:
            raise OSError("the mail server is away")

        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            day = rf"{datetime.now(UTC):%Y-%m-%d} \S+"
            await book.until("redisaq schedule", rf"shop +often .* {day} +\w+ OSError: the mail server is away +{day}")
            assert "cron of shop-cron" in await book.type("redisaq group shop-cron cron")
            await app.stop()
        assert "OSError" in await book.type("redisaq dead list shop-cron cron")

    play(book, scene)


def test_a_clock_is_wrong(runbook: Open) -> None:
    book = runbook("A clock is wrong")

    async def scene() -> None:
        with use_environment(replace(current_environment(), wall_clock=lambda: time.time() + 36_000.0)):
            async with Producer("orders") as producer:
                late = await producer.enqueue(1, delay=3600.0)
                doctor = await book.type("redisaq doctor", status=1)
        assert re.search(r"warning +clock: the server's clock is 3\d{4}\.\d s behind this machine's", doctor)
        soonest = datetime.now(UTC) + timedelta(hours=10)
        _, _, *due = (await book.type("redisaq delayed orders")).splitlines()[1].split()
        assert " ".join(due[:2]) > f"{soonest:%Y-%m-%d %H:%M:%S}"
        await book.type("redisaq cancel orders ID", ID=late)
        assert await book.type("redisaq delayed orders") == "no message is delayed\n"

    play(book, scene)


def test_a_key_is_damaged(runbook: Open, server: Server) -> None:
    book = runbook("A key is damaged")
    key, aside = "{redisaq:orders:0}:0", "{redisaq:orders:0}:aside"

    async def scene() -> None:
        await enqueue(1)
        server.command("DEL", key)
        server.command("SET", key, "somebody else's")
        with pytest.raises(DamagedKeyError) as raised:
            await enqueue(2)
        assert raised.value.key == key
        with pytest.raises((DamagedKeyError, ConsumerError)) as ended:
            await Consumer("orders", group_name="billing").process(ignore)
        assert key in f"{ended.value} {ended.value.__cause__}"
        assert await book.type("redis-cli type KEY", KEY=key) == "string"
        await book.type("redis-cli rename KEY ASIDE", KEY=key, ASIDE=aside)
        handled: list[Any] = []
        async with consumer(lambda message: handled.append(message.payload)):
            await enqueue(3)
            while handled != [3]:
                await anyio.sleep(0.01)
        assert server.command("GET", aside) == b"somebody else's"

    play(book, scene)


def test_the_server_lost_data(runbook: Open, server: Server) -> None:
    book = runbook("The server lost data")
    handled: list[Any] = []

    def handle(message: Message[Any]) -> None:
        handled.append(message.payload)

    async def handles(*payloads: Any) -> None:
        while not set(payloads) <= set(handled):
            await anyio.sleep(0.01)

    async def scene() -> None:
        async with Producer("orders") as producer, consumer(handle):
            await producer.enqueue(1)
            await handles(1)
            server.flush()
            await producer.enqueue(2)
            await handles(2)
            await book.until("redisaq topics", "orders")
            await book.until(GROUP, "0 unread, 0 pending")
            server.command("SAVE")
            await producer.enqueue(3)
            await handles(3)
            outage = datetime.now(UTC)
        server.kill()
        server.start()
        handled.clear()
        await enqueue(4)
        await book.type(PAUSE)
        await book.type("redisaq seek orders billing TIME", TIME=outage.isoformat())
        await book.type(RESUME)
        async with consumer(handle):
            await handles(4)
        assert handled == [4]

    play(book, scene)
