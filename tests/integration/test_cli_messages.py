"""The commands for single messages, against a real server: what they print, as text and as JSON, and how they end."""

from __future__ import annotations

import json
import signal
from typing import Any

import anyio
import pytest

from redisaq import Consumer, Message, Producer, RetryPolicy
from redisaq.brokers.redis.keys import Keys
from tests.integration.cli_processes import LIMIT, own_place, started
from tests.integration.conftest import Say
from tests.servers import Server, free_port

LONG = RetryPolicy(backoff=3600.0, jitter=False)


@pytest.fixture
def failed(redis: Server, namespace: str) -> list[str]:
    """A topic "orders" of one partition with two messages that "billing" is to try again in an hour; return their ids."""

    async def work() -> list[str]:
        async with Producer("orders", redis.url, namespace=namespace) as producer:
            msg_ids = await producer.batch_enqueue(["\x1b[2J", 2])

        def handle(message: Message[Any]) -> None:
            raise ValueError(f"no \x1b[31mcustomer {message.payload}")

        consumer = Consumer("orders", redis.url, namespace=namespace, group_name="billing", retry=LONG)
        async with consumer, anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, handle)
            with anyio.fail_after(30):
                while consumer.statistics().failed < 2:
                    await anyio.sleep(0.01)
            await consumer.stop()
        return msg_ids

    return anyio.run(work)


def objects(out: str) -> list[Any]:
    return [json.loads(line) for line in out.splitlines()]


def test_retries_are_listed_tried_again_and_cancelled(say: Say, failed: list[str]) -> None:
    status, out, err = say("retries", "orders", "billing")
    assert (status, err, len(out.splitlines())) == (0, "", 3)
    assert "ValueError: no \\x1b[31mcustomer 2" in out
    assert "\x1b" not in out
    assert "… and more: use --limit 0" in say("retries", "orders", "billing", "--limit", "1")[1]
    assert len(say("retries", "orders", "billing", "--limit", "0")[1].splitlines()) == 3
    first, second = objects(say("retries", "orders", "billing", "--json")[1])
    assert ([first["msg_id"], second["msg_id"]], first["payload"], first["attempts"]) == (failed, "\x1b[2J", 1)
    assert {"due", "error_type", "traceback", "entry_id", "headers", "enqueued_at", "life"} <= first.keys()
    status, out, err = say("retry", "orders", "billing")
    assert (status, out) == (2, "")
    assert "Try 2 message(s) of billing of orders again now?" in err
    assert "--yes" in err
    assert json.loads(say("retry", "orders", "billing", failed[0], "--dry-run", "--json")[1]) == {"retried": 1, "dry_run": True}
    assert say("retry", "orders", "billing", "nothing", "--yes")[0] == 1
    assert say("retry", "orders", "billing", failed[0], "--yes") == (0, "tried again now: 1\n", "")
    assert say("retry", "orders", "billing", "--yes", "--json") == (0, '{"retried":1}\n', "")
    assert say("cancel", "orders", failed[0], "billing")[0] == 2
    assert say("cancel", "orders", failed[0], "billing", "--dry-run")[:2] == (
        0,
        f"would be deleted: the retry of message {failed[0]} in group billing of orders\n",
    )
    assert say("cancel", "orders", failed[0], "billing", "--yes", "--json") == (0, f'{{"cancelled":"{failed[0]}"}}\n', "")
    for more in ((), ("--dry-run",)):
        assert say("cancel", "orders", failed[0], "billing", "--yes", *more)[0] == 1
    assert [one["msg_id"] for one in objects(say("retries", "orders", "billing", "--json")[1])] == [failed[1]]


def test_delayed_messages_are_listed_and_cancelled(say: Say) -> None:
    ids = [say("produce", "orders", str(n), "--delay", "3600", "--partitions", "1", "--key", "k")[1].strip() for n in range(2)]
    status, out, _ = say("delayed", "orders")
    assert (status, len(out.splitlines()), out.split()[:5]) == (0, 3, ["message", "partition", "due", "key", "payload"])
    assert {one["msg_id"]: (one["payload"], one["key"], one["entry_id"]) for one in objects(say("delayed", "orders", "--json")[1])} == {
        ids[0]: (0, "k", ""),
        ids[1]: (1, "k", ""),
    }
    status, out, _ = say("message", ids[0])
    assert (status, "due" in out) == (0, True)
    found = json.loads(say("message", ids[0], "orders", "--json")[1])
    assert (found["in_stream"], found["groups"], found["payload"], "due" in found) == (False, {}, 0, True)
    assert say("cancel", "orders", ids[0], "--yes")[:2] == (0, f"deleted: the delayed message {ids[0]} of orders\n")
    assert say("cancel", "orders", ids[0], "--yes")[0] == 1
    assert say("message", ids[0], "orders")[0] == 1
    assert say("cancel", "orders", ids[1], "--yes")[0] == 0
    assert say("delayed", "orders") == (0, "no message is delayed\n", "")


def test_what_is_pending_and_where_a_message_is(say: Say, redis: Server, namespace: str, failed: list[str]) -> None:
    assert say("pending", "orders", "billing") == (0, "nothing is pending\n", "")

    async def while_it_runs() -> None:
        begun = anyio.Event()

        async def wait(_: Message[Any]) -> None:
            begun.set()
            await anyio.sleep_forever()

        consumer = Consumer("orders", redis.url, namespace=namespace, group_name="audit", consumer_name="anna")
        async with consumer, anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, wait)
            with anyio.fail_after(30):
                await begun.wait()
            await anyio.to_thread.run_sync(look)
            tasks.cancel_scope.cancel()

    def look() -> None:
        status, out, _ = say("pending", "orders", "audit")
        assert status == 0
        assert out.splitlines()[1].split()[:3] == [failed[0], "0", "anna"]
        assert "\x1b" not in out
        one = objects(say("pending", "orders", "audit", "--json")[1])[0]
        assert (one["owner_name"], one["payload"], one["deliveries"]) == ("anna", "\x1b[2J", 1)
        for words in (["message", failed[0]], ["message", failed[0], "orders"]):
            status, out, _ = say(*words)
            assert status == 0
            assert "\x1b" not in out
            assert [line.split()[:2] for line in out.splitlines()[-2:]] == [["audit", "pending"], ["billing", "retry"]]
        found = json.loads(say("message", failed[0], "--json")[1])
        assert {name: one["state"] for name, one in found["groups"].items()} == {"audit": "pending", "billing": "retry"}
        assert found["groups"]["billing"]["retry"]["error_type"] == "ValueError"
        assert (found["in_stream"], found["complete"], found["payload"]) == (True, True, "\x1b[2J")

    anyio.run(while_it_runs)


def test_a_tail(say: Say, redis: Server, namespace: str) -> None:
    """What is there, then what comes, until somebody interrupts it."""
    for n in range(3):
        say("produce", "orders", json.dumps({"n": n}), "--key", "k", "--partitions", "1")
    status, out, _ = say("tail", "orders", "--no-follow", "--last", "2")
    assert (status, [line.split()[-1] for line in out.splitlines()]) == (0, ['{"n":1}', '{"n":2}'])
    assert [one["payload"]["n"] for one in objects(say("tail", "orders", "--no-follow", "--json")[1])] == [0, 1, 2]
    assert say("tail", "orders", "--no-follow", "--last", "0") == (0, "", "")
    words = ("tail", "orders", "--last", "1", "--json", "--url", redis.url, "--namespace", namespace)
    with own_place() as place, started(place, *words) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["payload"] == {"n": 2}
        (msg_id,) = say("produce", "orders", "7")[1].split()
        assert json.loads(process.stdout.readline())["msg_id"] == msg_id
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 130


def test_what_is_not_there_and_a_server_that_is_away(say: Say, redis: Server, namespace: str, failed: list[str]) -> None:
    for words in (
        ["pending", "nothing", "g"],
        ["retries", "nothing", "g"],
        ["delayed", "nothing"],
        ["message", "m", "nothing"],
        ["tail", "nothing"],
        ["retry", "nothing", "g", "--yes"],
        ["cancel", "nothing", "m", "--yes"],
        ["cancel", "nothing", "m", "g", "--yes"],
    ):
        status, out, err = say(*words)
        assert (status, out) == (1, ""), words
        assert "no topic nothing" in err
    redis.command("SADD", f"{namespace}:topics", "deleted")  # as if it was deleted after the names were read
    status, _, err = say("message", "nothing")
    assert (status, "no message nothing in any topic" in err) == (1, True)
    assert say("produce", "broken", "1", "--partitions", "1")[0] == 0
    stream = Keys(namespace).stream("broken", 0).decode()
    redis.command("DEL", stream)
    redis.command("SET", stream, "text")
    status, out, err = say("message", failed[0])  # "broken" comes before "orders"
    assert (status, failed[0] in out, err) == (0, True, "")
    status, _, err = say("message", "nothing")
    assert (status, "broken cannot be read, and was not searched: WRONGTYPE" in err, "rename or delete it" in err) == (3, True, True)
    status, _, err = say("message", failed[0], "orders", "--limit", "1")
    assert (status, "ended at its limit of 1" in err) == (1, True)
    assert say("pending", "orders", "g")[0] == 1
    assert say("tail", "orders", "--partition", "7")[0] == 2
    status, out, err = say("message", "m", "--url", f"redis://:secret@127.0.0.1:{free_port()}/0", where=False)
    assert (status, out, "secret" in err) == (3, "", False)
