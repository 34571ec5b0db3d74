"""The commands that look after topics and groups, against a real server: what they print, as text and as JSON, and how they end."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from redisaq import Admin, App, Consumer, DeadLetter, Message, Producer, RetryPolicy, Tick
from redisaq.brokers.redis.keys import Keys
from redisaq.identity import VERSION
from tests.integration.conftest import Say
from tests.servers import Server, free_port


async def enqueue(url: str, namespace: str, *payloads: object, partitions: int = 1) -> None:
    async with Producer("orders", url, namespace=namespace, init_partitions=partitions) as producer:
        await producer.batch_enqueue(payloads)


async def consume(url: str, namespace: str) -> None:
    """Let the group "billing" take all; what is a number above 1 dies."""

    async def handle(message: Message[Any]) -> None:
        if message.payload != 1:
            raise ValueError(f"no \x1b[31mcustomer {message.payload}")

    consumer = Consumer("orders", url, namespace=namespace, group_name="billing", retry=RetryPolicy(max_attempts=1))
    await consumer.process(handle, until_empty=True)


def ignore(_: Message[Any]) -> None:
    """Handle anything."""


@pytest.fixture
def billing(redis: Server, namespace: str) -> None:
    """A topic "orders" of two partitions with one message that is done, and three dead letters of the group "billing"."""
    anyio.run(lambda: enqueue(redis.url, namespace, 1, 2, 3, "<b>\x1b[2J", partitions=2))
    anyio.run(lambda: consume(redis.url, namespace))


def ids_of(say: Say) -> list[str]:
    _, out, _ = say("dead", "list", "orders", "billing", "--json")
    return [json.loads(line)["msg_id"] for line in out.splitlines()]


@pytest.mark.usefixtures("billing")
def test_looking(say: Say) -> None:
    assert say("topics") == (0, "orders\n", "")
    assert say("topics", "--json") == (0, '["orders"]\n', "")
    status, out, _ = say("topic", "orders")
    assert (status, out.splitlines()[:2]) == (0, ["orders: 2 partition(s), 4 entries, 0 delayed", "groups: billing"])
    assert [line.split() for line in out.splitlines()[2:]] == [["partition", "entries", "delayed"], ["0", "2", "0"], ["1", "2", "0"]]
    info = json.loads(say("topic", "orders", "--json")[1])
    assert [(one["partition"], one["length"], one["delayed"]) for one in info["partitions"]] == [(0, 2, 0), (1, 2, 0)]
    status, out, _ = say("group", "orders", "billing")
    assert (status, out.splitlines()[0]) == (0, "billing of orders: 0 unread, 0 pending, 0 to be retried, 3 dead")
    assert out.splitlines()[-1] == "no members"
    assert sum(one["dead"] for one in json.loads(say("group", "orders", "billing", "--json")[1])["partitions"]) == 3


def test_cron_jobs(say: Say, redis: Server, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redisaq.cron.LAST_WORD", 30.0)  # the last tick may be on its way when the program stops
    assert say("schedule") == (0, "no cron jobs\n", "")
    app = App(redis.url, name="shop", namespace=namespace)
    ran = anyio.Event()

    @app.cron("0 3 1 1 *", tz="Europe/Berlin", name="yearly")
    @app.cron("* * * * * *")
    def often(tick: Tick) -> None:
        raise DeadLetter(f"\x1b[2Jtick of {tick.name}")

    async def serve() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            with anyio.fail_after(30):
                while not any(one.outcome == "dead" for one in await app.schedules()):
                    await anyio.sleep(0.05)
            await app.stop()
            ran.set()

    anyio.run(serve)
    assert ran.is_set()
    status, out, _ = say("schedule", "shop")
    lines = out.splitlines()
    assert (status, lines[0].split()) == (0, ["app", "job", "schedule", "time", "zone", "last", "outcome", "next"])
    assert lines[1].startswith("shop  often")
    assert "dead DeadLetter: \\x1b[2Jtick of often" in lines[1]
    assert lines[2].split()[:7] == ["shop", "yearly", "0", "3", "1", "1", "*"]
    assert lines[2].endswith("-01-01 02:00:00")
    often_job, yearly = json.loads(say("schedule", "--json")[1])
    assert (often_job["outcome"], often_job["error"], often_job["tz"]) == ("dead", "DeadLetter: \x1b[2Jtick of often", "UTC")
    assert (yearly["last"], yearly["outcome"], yearly["next"][4:]) == (None, "", "-01-01T02:00:00Z")
    assert say("schedule", "another") == (0, "no cron jobs\n", "")
    assert say("schedule", "{x}")[0] == 2
    status, out, _ = say("run-now", "shop", "yearly", "--json")
    assert (status, list(json.loads(out))) == (0, ["msg_id"])
    assert say("run-now", "shop", "weekly") == (1, "", "redisaq run-now: shop has no cron job weekly\n")
    assert say("pause", "shop-cron", "cron")[0] == 0
    assert "are paused" in say("run-now", "shop", "yearly")[2]
    assert say("produce", "bad-cron", "1", "--partitions", "1")[0] == 0
    redis.command("SET", Keys(namespace).schedules("bad-cron").decode(), "text")
    status, out, err = say("schedule")
    assert (status, out.splitlines()[1].split()[:2]) == (3, ["shop", "often"])
    assert err.startswith("the cron jobs of bad cannot be read: WRONGTYPE")
    assert "rename or delete it" in err
    assert [one["app"] for one in json.loads(say("schedule", "--json")[1]) if one["unreadable"]] == ["bad"]


@pytest.mark.usefixtures("billing")
def test_letters_are_listed_and_shown_without_their_control_characters(say: Say) -> None:
    status, out, err = say("dead", "list", "orders", "billing")
    assert (status, err, len(out.splitlines())) == (0, "", 4)
    assert "ValueError: no \\x1b[31mcustomer 2" in out
    assert "\x1b" not in out
    assert "… and 2 more" in say("dead", "list", "orders", "billing", "--limit", "1")[1]
    oldest, newest = (say("dead", "list", "orders", "billing", "--json", *more)[1].splitlines() for more in ((), ("--newest",)))
    assert [json.loads(line)["died_at"] for line in newest] == sorted((json.loads(line)["died_at"] for line in oldest), reverse=True)
    assert json.loads(say("dead", "list", "orders", "billing", "--json", "--newest", "--limit", "1")[1]) == json.loads(newest[0])
    for words in (
        ["dead", "list", "orders", "billing"],
        ["pending", "orders", "billing"],
        ["retries", "orders", "billing"],
        ["delayed", "orders"],
    ):
        status, out, err = say(*words, "--limit", "-1")
        assert (status, out, "--limit" in err) == (2, "", True)
    for last in ("1001", "-1"):
        status, out, err = say("tail", "orders", "--no-follow", "--last", last)
        assert (status, out, "--last" in err) == (2, "", True)
    (found,) = [json.loads(line) for line in say("dead", "list", "orders", "billing", "--json")[1].splitlines() if "<b>" in line]
    assert found["payload"] == "<b>\x1b[2J"
    assert found["attempts"] == 1
    status, out, _ = say("dead", "show", "orders", "billing", found["msg_id"])
    assert status == 0
    assert "\x1b" not in out
    assert 'raise ValueError(f"no ' in out
    assert json.loads(say("dead", "show", "orders", "billing", found["msg_id"], "--json")[1]) == found
    status, out, _ = say("dead", "kinds", "orders", "billing")
    heads, *rows, last = out.splitlines()
    assert (status, heads.split(), last) == (0, ["count", "error", "where", "first", "last"], "counted all 3 dead letter(s)")
    assert [row.split()[0] for row in rows] == ["2", "1"], "numbers in a text do not count"
    assert "ValueError: no \\x1b[31mcustomer " in rows[0]
    assert "\x1b" not in out
    found = json.loads(say("dead", "kinds", "orders", "billing", "--json")[1])
    assert ([one["count"] for one in found["kinds"]], found["counted"], found["total"], found["complete"]) == ([2, 1], 3, 3, True)
    assert say("dead", "show", "orders", "billing", "nothing")[0] == 1


@pytest.mark.usefixtures("billing")
def test_letters_are_redriven_and_purged(say: Say, redis: Server, namespace: str) -> None:
    first, second, _ = ids_of(say)
    status, out, err = say("dead", "redrive", "orders", "billing")
    assert (status, out) == (2, "")
    assert "Try 3 dead letter(s) of billing of orders again? Use --yes" in err
    assert json.loads(say("dead", "redrive", "orders", "billing", "--dry-run", "--json")[1]) == {"redriven": 3, "dry_run": True}
    assert say("dead", "redrive", "orders", "billing", "nothing", "--yes")[0] == 1
    assert ids_of(say)[:2] == [first, second]
    assert say("dead", "redrive", "orders", "billing", first, "--yes") == (0, "redriven: 1\n", "")
    assert first not in ids_of(say)
    latest = json.loads(say("history", "orders", "billing", "--limit", "1", "--json")[1])[0]
    assert (latest["what"], latest["count"], latest["msg_id"]) == ("redriven", 1, "")
    assert "1 dead letter redriven by " in say("history", "orders", "billing", "--limit", "0")[1]
    anyio.run(lambda: consume(redis.url, namespace))  # it dies again
    assert len(ids_of(say)) == 3
    assert say("dead", "purge", "orders", "billing", second, "--yes", "--json") == (0, '{"purged":1}\n', "")
    assert say("dead", "redrive", "orders", "billing", "--yes") == (0, "redriven: 2\n", "")
    assert say("dead", "purge", "orders", "billing", "--yes") == (0, "purged: 0\n", "")
    assert say("dead", "list", "orders", "billing") == (0, "no dead letters\n", "")


def test_many_letters_are_one_line_of_the_history(say: Say, redis: Server, namespace: str) -> None:
    """It keeps about 1,000 lines: who purges a million letters must not flush it."""
    anyio.run(lambda: enqueue(redis.url, namespace, *range(2, 252)))
    anyio.run(lambda: consume(redis.url, namespace))

    async def history() -> list[tuple[str, int | None]]:
        async with Admin(redis.url, namespace=namespace) as admin:
            return [(one.what, one.count) for one in await admin.history("orders", "billing", count=3)]

    assert say("dead", "purge", "orders", "billing", "--yes") == (0, "purged: 250\n", "")
    assert anyio.run(history) == [("purged", 250), ("left", None), ("joined", None)]


@pytest.mark.usefixtures("billing")
def test_letters_are_exported_and_nothing_is_overwritten(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "letters"
    assert say("dead", "export", "orders", "billing", str(file)) == (0, "exported: 3\n", "")
    written = file.read_text(encoding="utf-8")
    assert [json.loads(line)["msg_id"] for line in written.splitlines()] == ids_of(say)
    assert say("dead", "export", "orders", "billing")[1] == written
    status, _, err = say("dead", "export", "orders", "billing", str(file))
    assert (status, file.read_text(encoding="utf-8")) == (1, written)
    assert "exists already" in err
    assert say("dead", "export", "orders", "billing", str(tmp_path / "no" / "folder"))[0] == 1
    away = tmp_path / "away"
    url = f"redis://127.0.0.1:{free_port()}/0"
    assert say("dead", "export", "orders", "billing", str(away), "--url", url, where=False)[0] == 3
    assert not away.exists(), "else the next attempt would be refused"


def test_producing(say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status, out, err = say("produce", "orders", '{"n": 1}')
    assert (status, out) == (1, "")
    assert "no topic orders: use --partitions N" in err
    status, out, _ = say("produce", "orders", '{"n": 1}', "--key", "k", "--header", "a=1", "--header", "b=2=3", "--partitions", "2")
    assert status == 0
    msg_id = out.strip()
    assert msg_id
    twice = [say("produce", "orders", "7", "--dedup-id", "x", "--json")[1] for _ in range(2)]
    assert twice[0] == twice[1]
    for wrong in ("{", "text", ""):
        assert say("produce", "orders", wrong)[0] == 2
    assert say("produce", "orders", "1", "--header", "a")[0] == 2
    assert say("produce", "orders", "1", "--partitions", "0")[0] == 2
    assert say("produce", "orders", "-", "--dedup-id", "x")[0] == 2
    lines = tmp_path / "lines"
    for text, ended in (('1\n\n{"a": 2}', 0), ("1\r\n2\nno\n4\n", 2)):
        lines.write_text(text, newline="")
        with lines.open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            status, out, err = say("produce", "orders", "-")
        assert (status, len(out.splitlines())) == (ended, 2)  # what was there before has been sent, and is reported
    assert "line 3 is not JSON" in err
    assert say("produce", "orders", '"\udcff"')[0] == 2  # as an argument arrives that is no UTF-8
    assert sum(one["length"] for one in json.loads(say("topic", "orders", "--json")[1])["partitions"]) == 6


def test_delayed_messages(say: Say) -> None:
    assert say("produce", "orders", "1", "--delay", "60", "--partitions", "1")[0] == 0
    assert "0 entries, 1 delayed" in say("topic", "orders")[1]


@pytest.mark.usefixtures("billing")
def test_growing(say: Say) -> None:
    would = "From 2 to 5 partitions: 60% of the keys move to the new partitions. A topic never shrinks."
    assert say("grow", "orders", "5") == (
        2,
        "",
        f"redisaq grow: Grow orders? {would} Use --yes: without a terminal, you cannot confirm this.\n",
    )
    assert say("grow", "orders", "5", "--dry-run") == (0, f"would grow orders. {would}\n", "")
    dry = {"topic": "orders", "partitions": 5, "before": 2, "dry_run": True}
    assert json.loads(say("grow", "orders", "5", "--dry-run", "--json")[1]) == dry
    assert say("produce", "orders", "1")[0] == 0
    assert say("grow", "orders", "5", "--yes") == (0, "orders has 5 partitions (before: 2)\n", "")
    assert "  grown to 5 partitions by " in say("history", "orders", "billing")[1].splitlines()[1]
    waits = "partition 4 waits until 1 message\\(s\\) of partition [01] are done, since 20.*"
    assert sum(bool(re.fullmatch(waits, line)) for line in say("group", "orders", "billing")[1].splitlines()) == 1
    for more in ([], ["--dry-run"]):
        status, _, err = say("grow", "orders", "3", *more)
        assert (status, "never shrinks" in err) == (1, True)
    assert say("grow", "orders", "5", "--json") == (0, '{"topic":"orders","partitions":5,"before":5}\n', "")
    assert say("grow", "nothing", "5")[0] == 1
    assert say("topics")[1] == "orders\n"  # it was not made
    for number in ("0", "999999999"):
        assert say("grow", "orders", number, "--dry-run") == (2, "", f"redisaq grow: partitions must be from 1 to 65536, not {number}\n")
    assert say("grow", "orders", "many")[0] == 2


@pytest.mark.usefixtures("billing")
def test_pausing_and_seeking(say: Say, redis: Server, namespace: str) -> None:
    assert say("pause", "orders", "billing") == (0, "billing of orders is paused\n", "")
    assert "paused" in say("group", "orders", "billing")[1]
    assert say("resume", "orders", "billing") == (0, "billing of orders is resumed\n", "")
    again = "4 messages would be delivered again. 4 would then wait."
    dead = "3 dead letters stay, and those from there on run once more as well"
    assert say("seek", "orders", "billing", "earliest", "--dry-run") == (
        0,
        f"would move billing of orders to earliest. {again}\n{dead}\n",
        "",
    )
    dry = json.loads(say("seek", "orders", "billing", "0=0-0", "--dry-run", "--json")[1])
    (one,) = dry.pop("partitions")
    assert (dry["again"], dry["skipped"], dry["waiting"], dry["complete"], dry["busy"], dry["dry_run"]) == (2, 0, 2, True, False, True)
    assert (one["partition"], one["again"], dry["dead"]) == (0, 2, one["dead"])
    status, out, err = say("seek", "orders", "billing", "earliest")  # nobody to ask
    assert (status, out) == (2, "")
    assert f"Move billing of orders to earliest? {again} Use --yes" in err
    assert "4 unread" not in say("group", "orders", "billing")[1]
    assert say("seek", "orders", "billing", "earliest", "--yes") == (0, "moved billing of orders to earliest\n", "")
    assert "4 unread" in say("group", "orders", "billing")[1]
    assert say("seek", "orders", "billing", "2100-01-01T00:00:00+00:00", "--yes")[0] == 0
    assert "0 unread" in say("group", "orders", "billing")[1]
    assert say("seek", "orders", "billing", "0=0-0", "1=0-0", "--yes")[0] == 0
    assert "4 unread" in say("group", "orders", "billing")[1]
    for wrong in (["soon"], ["2100-01-01T00:00:00"], ["earliest", "latest"], ["x=1-0"], ["0=1-0", "latest"], ["7=1-0"], ["0="]):
        assert say("seek", "orders", "billing", *wrong, "--yes")[0] == 2, wrong


@pytest.mark.usefixtures("billing")
def test_deleting(say: Say) -> None:
    assert say("delete", "orders", "billing")[0] == 2
    assert say("delete", "orders", "billing", "--dry-run")[1] == (
        "would delete group billing of orders with 0 pending, 0 to be retried and 3 dead\n"
    )
    assert say("delete", "orders", "billing", "--yes")[0] == 0
    assert say("group", "orders", "billing")[0] == 1
    assert say("delete", "orders", "--yes", "--json") == (0, '{"topic":"orders","group":null}\n', "")
    assert say("topics") == (0, "", "")
    assert say("delete", "orders", "--yes")[0] == 1


@pytest.mark.usefixtures("billing")
def test_a_group_that_is_busy(say: Say, redis: Server, namespace: str) -> None:
    async def while_it_runs() -> None:
        consumer = Consumer("orders", redis.url, namespace=namespace, group_name="billing", consumer_name="anna")
        async with anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, ignore)
            await anyio.to_thread.run_sync(look)
            await consumer.stop()

    def look() -> None:
        for words in (
            ["seek", "orders", "billing", "latest", "--yes"],
            ["delete", "orders", "billing", "--yes"],
            ["delete", "orders", "-y"],
        ):
            status, _, err = say(*words)
            assert status == 1, words
            assert "live member(s)" in err
        status, out, _ = say("seek", "orders", "billing", "latest", "--dry-run")
        hint = "group billing of orders has 1 live member(s): pause it, or stop them"
        assert (status, out.splitlines()[-1]) == (0, f"not now: {hint}")
        assert say("seek", "orders", "billing", "latest") == (1, "", f"redisaq seek: {hint}\n"), "it does not ask in vain"
        assert json.loads(say("seek", "orders", "billing", "latest", "--dry-run", "--json")[1])["busy"] is True
        status, out, _ = say("group", "orders", "billing")
        assert status == 0
        name, client, version, *_ = out.splitlines()[-1].split()
        assert (name, client, version) == ("anna", f"{socket.gethostname()}:{os.getpid()}", VERSION)
        (member,) = json.loads(say("group", "orders", "billing", "--json")[1])["members"]
        assert (member["pid"], member["ttl"]) == (os.getpid(), 12.0)
        assert say("topics")[1] == "orders\n"

    anyio.run(while_it_runs)


def test_what_is_in_handlers(say: Say, redis: Server, namespace: str) -> None:
    """The members of a group report it when it is asked for."""

    async def while_it_runs() -> None:
        begun, released = anyio.Event(), anyio.Event()

        async def handle(message: Message[Any]) -> None:
            del message
            begun.set()
            await released.wait()

        consumer = Consumer(
            "orders", redis.url, namespace=namespace, group_name="billing", consumer_name="anna", init_partitions=1, heartbeat_interval=0.5
        )
        async with Producer("orders", redis.url, namespace=namespace) as producer, anyio.create_task_group() as tasks:
            await producer.enqueue({"n": 1}, key="user\x1b-7")
            await tasks.start(consumer.process, handle)
            await begun.wait()
            await anyio.to_thread.run_sync(look)
            released.set()
            await consumer.stop()

    def look() -> None:
        assert "in a handler" not in say("group", "orders", "billing")[1]
        status, out, _ = say("group", "orders", "billing", "--running")
        heads, row = out.splitlines()[-2:]
        assert (status, heads.split()) == (0, ["in", "a", "handler", "key", "partition", "attempt", "member", "since", "for"])
        assert row.split()[1:5] == ["user\\x1b-7", "0", "1", "anna"]
        (member,) = json.loads(say("group", "orders", "billing", "--running", "--json")[1])["members"]
        assert member["running"] == 1
        (one,) = member["in_handlers"]
        assert (one["key"], one["attempt"], one["limit"]) == ("user\x1b-7", 1, None)

    anyio.run(while_it_runs)


def test_what_is_not_there_and_a_server_that_is_away(say: Say) -> None:
    for words in (["topic"], ["group", "g"], ["pause", "g"], ["resume", "g"], ["dead", "list", "g"], ["dead", "purge", "g"], ["delete"]):
        *command, last = [*words, "nothing"] if len(words) == 1 else [*words[:-1], "nothing", words[-1]]
        status, out, err = say(*command, last)
        assert (status, out) == (1, ""), words
        assert "no topic nothing" in err
    status, out, err = say("topics", "--url", f"redis://:secret@127.0.0.1:{free_port()}/0", where=False)
    assert (status, out) == (3, "")
    assert "secret" not in err
    assert len(err.splitlines()) == 1
    assert say("topics", "--url", "http://secret", where=False)[0] == 2
    assert say("topics", "--wrong", where=False)[0] == 2


def test_a_person_is_asked(say: Say, redis: Server, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    anyio.run(lambda: enqueue(redis.url, namespace, 1))
    monkeypatch.setattr(sys, "stdin", Terminal("no\n"))
    status, _, err = say("delete", "orders")
    assert (status, "Delete topic orders with 1 entries" in err, "Nothing was changed" in err) == (1, True, True)
    assert say("topics")[1] == "orders\n"
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert say("delete", "orders")[0] == 0
    assert say("topics")[1] == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions(say: Say, shell: str) -> None:
    status, out, _ = say("completion", shell, where=False)
    assert status == 0
    assert "topics" in out
