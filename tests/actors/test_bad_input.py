"""Impossible values are refused with a clear error before anything is sent, and before a connection is opened at all.

The producers and consumers here have a server's address at which nobody listens: whatever reached for it would say ConnectionFailed.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any, NoReturn

import anyio
import pytest
import trio

from redisaq import Admin, Consumer, DeadLetter, Message, Producer, RetryAfter, RetryPolicy
from redisaq.errors import ConnectionFailed, PartitionKeyError, PayloadTooLarge, SerializationError, SettingsError
from redisaq.middleware import Outgoing
from redisaq.settings import MAX_SECONDS
from tests.actors.group import Notebook, fresh_url, produce

NOWHERE = "unix:///nonexistent/redisaq"
BAD: Any = {"a": 1}
NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001 -- that is the point

SECONDS: list[Any] = [-1, -1e-9, math.nan, math.inf, -math.inf, True, "1", 1.5e9, 1e300, 10**400]
"""Values that are never a number of seconds."""

REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    *(({"delay": value}, SettingsError, "delay") for value in SECONDS),
    *(({"timeout": value}, SettingsError, "timeout") for value in [0, *SECONDS]),
    *(({"dedup_id": "a", "dedup_window": value}, SettingsError, "dedup_window") for value in [0, *SECONDS]),
    *(({"dedup_id": value}, SettingsError, "dedup_id") for value in ("", "a{b}", "a\n", "\udcff", "x" * 10_000, 5)),
    ({"at": NAIVE}, SettingsError, "aware datetime"),
    ({"at": "2030-01-01"}, SettingsError, "aware datetime"),
    ({"at": 1_900_000_000}, SettingsError, "aware datetime"),
    ({"at": datetime.max.replace(tzinfo=UTC)}, SettingsError, "until `at`"),
    ({"delay": 1, "at": datetime.now(UTC)}, SettingsError, "not both"),
    *(({"key": value}, SettingsError, "key") for value in (5, b"k", "\udcff")),
    *(({"headers": value}, SerializationError, "headers") for value in ({"a": 1}, {1: "a"}, {"a": None}, {b"a": "b"}, {"a": "\udcff"})),
    *(({"headers": value}, SerializationError, "a mapping of str to str, not ") for value in ([("a", "b")], "abc", 5)),
    ({"headers": {"a": "b", "c": b"secret"}}, SerializationError, "the value of 'c' is bytes"),
    ({"headers": {1: "a"}}, SerializationError, "a name is int"),
    ({"partition_key": "no such"}, PartitionKeyError, "no such"),
]


def serialize_to(data: str | bytes) -> Callable[[Any], str | bytes]:
    """Return a serializer that makes this of everything."""
    return lambda _payload: data


async def refused(what: Any, error: type[Exception], words: str | None, **settings: Any) -> None:
    """Enqueue it in each way."""
    payload, more = what
    match = None if words is None else re.escape(words)
    producer = Producer("jobs", NOWHERE, **settings)
    with pytest.raises(error, match=match):
        await producer.enqueue(payload, **more)
    if not {"dedup_id", "dedup_window"} & set(more):
        with pytest.raises(error, match=match):
            await producer.batch_enqueue([{"n": 0}, payload] if payload != {"n": 1} else [payload], **more)
    assert (producer.statistics().sent, producer.statistics().connected) == (0, False)
    await producer.close()


@pytest.mark.anyio
@pytest.mark.parametrize(("more", "error", "words"), REFUSED, ids=[f"{n}-{next(iter(more))}" for n, (more, *_) in enumerate(REFUSED)])
async def test_a_bad_argument_sends_nothing(more: dict[str, Any], error: type[Exception], words: str) -> None:
    await refused(({"n": 1}, more), error, words)


@pytest.mark.anyio
async def test_what_is_good_goes_to_the_server() -> None:
    """Else the tests here would prove nothing."""
    producer = Producer("jobs", NOWHERE)
    soon = datetime.now(UTC) + timedelta(seconds=1e8)
    good: list[dict[str, Any]] = [{}, {"delay": MAX_SECONDS}, {"at": soon}, {"timeout": 0.1}, {"dedup_id": "a"}, {"key": ""}]
    good.append({"headers": {"a": ""}})
    for more in good:
        with pytest.raises(ConnectionFailed):
            await producer.enqueue({"n": 1}, **more)
    await producer.close()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("message", "error"),
    [
        (Message("others", 1), SettingsError),
        (Message("jobs", 1, timeout=math.nan), SettingsError),
        (Message("jobs", 1, headers=BAD), SerializationError),
        (Message("jobs", 1, partition_key="user"), PartitionKeyError),
        (Message("jobs", object()), SerializationError),
        ("\udcff", SerializationError),
        (math.nan.__add__, SerializationError),
    ],
    ids=["topic", "timeout", "headers", "partition_key", "payload", "text", "callable"],
)
async def test_a_bad_message_sends_nothing(message: Any, error: type[Exception]) -> None:
    await refused((message, {}), error, None)


@pytest.mark.anyio
async def test_a_payload_that_is_too_large_sends_nothing() -> None:
    """One byte more than may be; of a batch the others stay, too; `max_payload` counts what the serializer made."""
    await refused(("x" * 99, {}), PayloadTooLarge, "101", max_payload=100)
    await refused(("x", {}), PayloadTooLarge, "1048577", serializer=serialize_to(b"x" * ((1 << 20) + 1)))
    await refused(("x", {"delay": 5.0}), PayloadTooLarge, "11", max_payload=10, serializer=serialize_to("é" * 5 + "x"))
    async with Producer("jobs", fresh_url(), max_payload=100) as producer:
        await producer.enqueue("x" * 98)
        with pytest.raises(PayloadTooLarge) as caught:
            await producer.batch_enqueue(["x", "x" * 99, "x"])
        assert (caught.value.size, caught.value.limit) == (101, 100)
        assert producer.statistics().sent == 1


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        *(({"max_attempts": value}, "max_attempts") for value in (0, -1, 1.5, True, "3", 1 << 40)),
        *(({name: value}, name) for name in ("backoff", "max_backoff") for value in SECONDS),
        *(({"factor": value}, "factor") for value in (0.5, *SECONDS)),
        *(({"give_up_on": value}, "give_up_on") for value in (ValueError, [ValueError], (ValueError(),), ("ValueError",))),
        *(({name: value}, name) for name in ("jitter", "blocking") for value in (1, "yes", None)),
    ],
)
def test_a_retry_policy_that_cannot_work(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        RetryPolicy(**settings)


@pytest.mark.parametrize("factor", [1, 1.0, 2, 1e6, 1e9])
@pytest.mark.parametrize("attempt", [1, 2, 40, 64, 65, 1 << 20])
def test_no_pause_is_longer_than_the_longest(factor: float, attempt: int) -> None:
    """However large the power grows."""
    policy = RetryPolicy(max_attempts=1 << 20, backoff=0.5, factor=factor, max_backoff=60.0, jitter=False)
    assert policy.pause(attempt, Random(0)) == min(60.0, 0.5 * float(factor) ** min(attempt - 1, 30))
    assert RetryPolicy(backoff=0, factor=factor).pause(attempt, Random(0)) == 0


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        *(({name: value}, name) for name in ("timeout", "heartbeat_interval", "heartbeat_ttl", "drain_timeout") for value in SECONDS),
        *(({"dead_maxlen": value}, "dead_maxlen") for value in (0, -1, 1.5, True)),
        ({"retry": 3}, "RetryPolicy"),
        *(({name: ""}, name) for name in ("group_name", "consumer_name", "namespace")),
        ({"start": "now"}, "start"),
    ],
)
def test_a_consumer_that_cannot_work(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        Consumer("jobs", NOWHERE, **settings)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        *(
            ({name: value}, name)
            for name in ("max_backlog", "max_payload", "maxlen", "init_partitions")
            for value in (0, -1, 1.5, True, "9")
        ),
        *(({"send_timeout": value}, "send_timeout") for value in (0, *SECONDS)),
        ({"topic": ""}, "topic"),
        ({"namespace": "a:b"}, "namespace"),
        ({"serializer": "json"}, "serializer"),
    ],
)
def test_a_producer_that_cannot_work(settings: dict[str, Any], word: str) -> None:
    named: dict[str, Any] = {"topic": "jobs", "redis_url": NOWHERE, **settings}
    with pytest.raises(SettingsError, match=word):
        Producer(**named)


@pytest.mark.parametrize("seconds", SECONDS)
def test_a_pause_that_is_none(seconds: Any) -> None:
    with pytest.raises(SettingsError, match="RetryAfter"):
        RetryAfter(seconds)


class Unspeakable(Exception):
    """An error that has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.anyio
async def test_a_handler_s_bad_instruction_is_a_failure_like_any_other() -> None:
    """It ends neither the consumer nor the message without a word."""
    url = fresh_url()
    await produce(url, 4)
    bad: list[Any] = [lambda: RetryAfter(math.nan), lambda: DeadLetter(5), Unspeakable, lambda: RetryAfter("soon")]  # type: ignore[arg-type]

    async def handle(message: Message[Any]) -> None:
        error = bad[message.payload["n"]]()
        raise error

    notebook = Notebook()
    with anyio.fail_after(15):
        policy = RetryPolicy(max_attempts=2, backoff=0.01)
        await Consumer("jobs", url, retry=policy, on_event=notebook.note).process(handle, until_empty=True)
    async with Admin(url) as admin:
        dead = {letter.payload["n"]: (letter.error_type, letter.error) async for letter in admin.dead_letters("jobs", "default_group")}
    assert dead == {
        0: ("redisaq.errors.SettingsError", "RetryAfter must be at least 0 and at most 1e+09 seconds, not nan"),
        1: ("DeadLetter", "5"),
        2: (f"{__name__}.Unspeakable", "<its text cannot be made: RuntimeError>"),
        3: ("redisaq.errors.SettingsError", "RetryAfter must be a number of seconds, not 'soon'"),
    }


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unspeakable(), "tests.actors.test_bad_input.Unspeakable: <its text cannot be made: RuntimeError>"),
        (ValueError("x" * 100_000), "ValueError: " + "x" * 1000),
        (ValueError("\udcff"), "ValueError: \\udcff"),
    ],
)
async def test_whatever_a_deserializer_raises_is_a_dead_letter_with_a_bounded_reason(error: Exception, reason: str) -> None:
    """Else each member that reads it would end."""
    url = fresh_url()
    await produce(url, 2)

    def deserialize(data: bytes) -> object:
        if b"1" in data:
            return data
        raise error

    notebook = Notebook()
    with anyio.fail_after(10):
        await Consumer("jobs", url, deserializer=deserialize).process(notebook.handle, until_empty=True)
    assert [message.payload for message in notebook.messages] == [b'{"n":1}']
    async with Admin(url) as admin:
        (dead,) = [letter async for letter in admin.dead_letters("jobs", "default_group", deserializer=deserialize)]
    assert (dead.error_type, dead.error) == ("Unreadable", reason)
    assert dead.unreadable == reason


def cancellation() -> BaseException:
    """Return the cancellation of this event loop that nobody asked for, as the result of something that was cancelled is one."""
    kind = anyio.get_cancelled_exc_class()
    return kind() if kind is not trio.Cancelled else trio.Cancelled._create(source="unknown")


@pytest.mark.anyio
async def test_a_plain_function_that_raises_a_cancellation_has_failed() -> None:
    """It awaits nothing, so nobody has cancelled it; and a task group would end its task as if nothing had happened."""
    url = fresh_url()
    logged: list[str] = []

    def note(record: logging.LogRecord) -> bool:
        logged.append(record.getMessage())
        return True

    logger = logging.Logger(__name__)  # noqa: LOG001 -- one that getLogger makes would keep the filter
    logger.addFilter(note)

    def fail(*_: object) -> NoReturn:
        raise cancellation()

    def deserialize(data: bytes) -> object:
        return data if b"1" in data else fail()

    def on_send(outgoing: Outgoing) -> None:
        outgoing.when_sent.append(fail)

    async with Producer("jobs", url, on_send=on_send, logger=logger) as producer:
        await producer.batch_enqueue([{"n": 0}, {"n": 1}])
    notebook = Notebook()
    with anyio.fail_after(10):
        consumer = Consumer("jobs", url, deserializer=deserialize, on_event=fail, logger=logger)
        await consumer.process(notebook.handle, until_empty=True)
    assert [message.payload for message in notebook.messages] == [b'{"n":1}']
    assert logged.count("a function of when_sent failed") == 2
    assert "on_event failed on EntryUnreadable" in logged
    async with Admin(url) as admin:
        (dead,) = [letter async for letter in admin.dead_letters("jobs", "default_group", deserializer=deserialize)]
    assert dead.error_type == "Unreadable"


@pytest.mark.anyio
async def test_an_admin_that_is_given_one_where_it_takes_several() -> None:
    url = fresh_url()
    await produce(url, 1)
    admin: Any = Admin(url)
    for wrong in (5, "a", b"a", len):
        for call in (
            partial(admin.partitions, "jobs", "workers", partitions=wrong),
            partial(admin.group, "jobs", "workers", partitions=wrong),
            partial(admin.message_summaries, "jobs", partitions=wrong),
            partial(admin.dead_summaries, "jobs", "workers", partitions=wrong),
            partial(admin.dead_page, "jobs", "workers", partitions=wrong),
            partial(admin.next_delayed, "jobs", partitions=wrong),
            partial(admin.count_delayed, "jobs", wrong),
            partial(admin.redrive, "jobs", "workers", wrong),
            partial(admin.purge, "jobs", "workers", wrong),
            partial(admin.retry_now, "jobs", "workers", wrong),
        ):
            with pytest.raises(SettingsError, match="must be several"):
                await call()
    with pytest.raises(SettingsError, match="aware datetime"):
        await admin.count_delayed("jobs", [NAIVE])
    with pytest.raises(SettingsError, match="aware datetime"):
        await admin.next_delayed("jobs", after=(NAIVE, "1"))
    await admin.close()
