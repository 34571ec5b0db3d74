"""Every command that looks at a server or changes it, in each situation that goes wrong: its status, and where its words go.

The table says how each command is called. A command that is in no row, or a situation that a command takes for success, fails the test.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import anyio
import pytest

from redisaq import Admin, Consumer, Message, Producer, RetryPolicy
from redisaq.brokers.steps.topics import FORMAT
from redisaq.cli.command_line import make_commands
from tests.integration.conftest import Say
from tests.servers import Server, free_port

TOPIC, GROUP = "TOPIC", "GROUP"

COMMANDS: dict[str, list[str]] = {
    "topics": ["topics"],
    "topic": ["topic", TOPIC],
    "group": ["group", TOPIC, GROUP],
    "history": ["history", TOPIC, GROUP],
    "schedule": ["schedule"],
    "pending": ["pending", TOPIC, GROUP],
    "retries": ["retries", TOPIC, GROUP],
    "delayed": ["delayed", TOPIC],
    "message": ["message", "nothing", TOPIC],
    "tail": ["tail", TOPIC, "--no-follow"],
    "doctor": ["doctor"],
    "dead list": ["dead", "list", TOPIC, GROUP],
    "dead kinds": ["dead", "kinds", TOPIC, GROUP],
    "dead show": ["dead", "show", TOPIC, GROUP, "nothing"],
    "dead export": ["dead", "export", TOPIC, GROUP],
    "dead redrive": ["dead", "redrive", TOPIC, GROUP, "--yes"],
    "dead redrive one": ["dead", "redrive", TOPIC, GROUP, "nothing", "--yes"],
    "dead redrive dry": ["dead", "redrive", TOPIC, GROUP, "--dry-run"],
    "dead purge": ["dead", "purge", TOPIC, GROUP, "--yes"],
    "retry": ["retry", TOPIC, GROUP, "--yes"],
    "retry dry": ["retry", TOPIC, GROUP, "--dry-run"],
    "cancel": ["cancel", TOPIC, "nothing", "--yes"],
    "cancel dry": ["cancel", TOPIC, "nothing", "--dry-run"],
    "cancel a retry": ["cancel", TOPIC, "nothing", GROUP, "--yes"],
    "produce": ["produce", TOPIC, "1"],
    "run-now": ["run-now", "nothing", "nothing"],
    "grow": ["grow", TOPIC, "5", "--yes"],
    "grow dry": ["grow", TOPIC, "5", "--dry-run"],
    "pause": ["pause", TOPIC, GROUP],
    "resume": ["resume", TOPIC, GROUP],
    "seek": ["seek", TOPIC, GROUP, "latest", "--yes"],
    "seek dry": ["seek", TOPIC, GROUP, "latest", "--dry-run"],
    "delete dry": ["delete", TOPIC, "--dry-run"],
    "delete a group": ["delete", TOPIC, GROUP, "--yes"],
    "delete": ["delete", TOPIC, "--yes"],
}

ELSEWHERE = {"top", "worker", "dashboard", "demo", "server", "completion"}
"""Commands that wait, do not end by themselves, or ask no server: they have tests of their own."""

LISTS_CHANGES = {"history"}
"""What looks only at a group's own list of changes, which has no layout that could differ."""

NOT_THERE = {"message", "dead show", "dead redrive one", "cancel", "cancel dry", "cancel a retry", "run-now"}
"""What names a message that does not exist: the answer is no."""


def filled(words: Sequence[str], topic: str = "orders", group: str = "billing") -> list[str]:
    return [{TOPIC: topic, GROUP: group}.get(word, word) for word in words]


def check_error(name: str, words: Sequence[str], result: tuple[int, str, str], status: int) -> str:
    """Check that a command failed with one line that says so, and nothing on standard output."""
    got, out, err = result
    assert (got, out) == (status, ""), (name, result)
    assert len(err.splitlines()) == 1, (name, err)
    command = " ".join(["redisaq", *words[: 2 if words[0] == "dead" else 1]])
    assert err.startswith(f"{command}: "), (name, err)
    return err


def test_every_command_is_in_the_table() -> None:
    commands = make_commands()
    names = {name for name in commands if not name.startswith("-")} - ELSEWHERE - {"dead"}
    names |= {f"dead {name}" for name in commands["dead"] if not name.startswith("-")}
    called = {" ".join(words[: 2 if words[0] == "dead" else 1]) for words in COMMANDS.values()}
    assert called == names


def test_a_server_that_is_away(say: Say) -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    for name, words in COMMANDS.items():
        for more in ([], ["--json"]):
            err = check_error(name, words, say(*filled(words), *more, "--url", url, where=False), 3)
            assert "secret" not in err, name
            assert "127.0.0.1" in err, name


def test_a_topic_that_does_not_exist(say: Say) -> None:
    for name, words in COMMANDS.items():
        if TOPIC in words:
            for more in ([], ["--json"]):
                assert "no topic nothing" in check_error(name, words, say(*filled(words, "nothing"), *more), 1), name
            check_error(name, words, say(*filled(words, "{x}")), 2)
    assert say("topics") == (0, "", ""), "none was made"


def test_a_topic_of_a_later_format(say: Say, redis: Server, namespace: str) -> None:
    """Nothing is done to it, and each command says what to do."""

    async def make() -> None:
        async with Producer("orders", redis.url, namespace=namespace, init_partitions=2):
            pass

    anyio.run(make)
    meta = f"{{{namespace}:orders}}:meta"
    redis.command("HSET", meta, "format", FORMAT + 1)
    before = redis.command("HGETALL", meta)
    for name, words in COMMANDS.items():
        if TOPIC in words and name not in LISTS_CHANGES:
            err = check_error(name, words, say(*filled(words)), 1)
            assert "topic orders has format" in err, name
            assert "install a later one" in err, name
    assert redis.command("HGETALL", meta) == before


@pytest.fixture
def billing(redis: Server, namespace: str) -> None:
    """A topic "orders" with a group "billing" that has one dead letter and one message that waits for a retry."""

    async def make() -> None:
        async def handle(message: Message[int]) -> None:
            raise ValueError(f"no customer {message.payload}")

        async with Producer("orders", redis.url, namespace=namespace, init_partitions=2) as producer:
            await producer.enqueue(1)
            for attempts in (1, 2):
                retry = RetryPolicy(max_attempts=attempts, backoff=3600.0, max_backoff=3600.0)
                consumer = Consumer("orders", redis.url, namespace=namespace, group_name="billing", retry=retry)
                async with consumer, anyio.create_task_group() as tasks, Admin(redis.url, namespace=namespace) as admin:
                    await tasks.start(consumer.process, handle)
                    with anyio.fail_after(30):
                        while (info := await admin.group("orders", "billing")).dead + info.retry < attempts:
                            await anyio.sleep(0.01)
                    await consumer.stop()
                await producer.enqueue(2)

    anyio.run(make)


@pytest.mark.usefixtures("billing")
def test_a_group_that_does_not_exist_and_what_is_not_there(say: Say) -> None:
    for name, words in COMMANDS.items():
        if GROUP in words:
            err = check_error(name, words, say(*filled(words, group="nobody")), 1)
            assert "no group nobody" in err, (name, err)
        if name in NOT_THERE:
            check_error(name, words, say(*filled(words)), 1)


@pytest.mark.usefixtures("billing")
def test_success_is_reported_as_text_and_as_json(say: Say) -> None:
    """In the order of the table, so that deleting comes last."""
    many = {"pending", "retries", "delayed", "tail", "dead list", "dead export"}
    for name, words in COMMANDS.items():
        if name in NOT_THERE:
            continue
        ways = [["--json"]] if name in ("delete", "delete a group") else [["--json"], []]
        for more in ways:
            status, out, err = say(*filled(words), *more)
            assert (status, err) == (0, "") or (name, status) == ("doctor", 1), (name, status, err)
            assert out.strip() or name in many, name
            documents = [json.loads(line) for line in out.splitlines()] if more else [None]
            assert len(documents) == 1 or name in many, (name, out)
    assert say("topics", "--json") == (0, "[]\n", "")


@pytest.mark.usefixtures("billing")
def test_a_group_that_is_busy(say: Say, redis: Server, namespace: str) -> None:
    """What may not be done to it says so, and changes nothing; everything else works, also with --force."""
    refused = {"seek", "delete", "delete a group"}

    def look() -> None:
        for name, words in COMMANDS.items():
            if name in refused:
                assert "live member(s): " in check_error(name, words, say(*filled(words)), 1)
            elif name not in NOT_THERE and name != "doctor":
                assert say(*filled(words))[0] == 0, name
        assert say("delete", "orders", "billing", "--yes", "--force")[0] == 0

    async def while_it_runs() -> None:
        consumer = Consumer("orders", redis.url, namespace=namespace, group_name="billing")
        async with anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, lambda _: None)
            await anyio.to_thread.run_sync(look)
            await consumer.stop()

    anyio.run(while_it_runs)
