"""A value that is a text or a number to one part of the package is the same one to every other: subclasses become plain at the edge."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, IntEnum
from typing import Any

import anyio
import pytest

from redisaq import Admin, Consumer, Message, Producer, RetryPolicy
from redisaq.errors import SettingsError
from redisaq.settings import ConsumerSettings, check_choice, check_count, check_factor, check_name, check_seconds, check_text
from redisaq.testing import HandlerKit
from tests.actors.group import IN_VIRTUAL_TIME, fresh_url


class Name(str, Enum):  # noqa: UP042 -- that is the point
    """As programs had them before StrEnum, and have them still: `str()` and f-strings say "Name.GROUP"."""

    TOPIC = "jobs"
    GROUP = "billing"
    MEMBER = "first"
    SPACE = "shop"
    KEY = "user-7"
    DEDUP = "invoice-9"
    HEADER = "trace"
    VALUE = "abc"
    FIELD = "user"
    KEYED = "key"
    EARLIEST = "earliest"


class Number(IntEnum):
    ONE = 1
    TWO = 2


class Odd(str):
    """It says something else each way it is asked."""

    __slots__ = ()

    def __str__(self) -> str:
        return "something else"

    def __format__(self, _spec: str) -> str:
        return "something else"

    def encode(self, *_: str) -> bytes:
        return b"something else"

    def __iter__(self) -> Iterator[str]:
        return iter("something else")


class Lying(float):
    """It converts to another number than it is."""

    __slots__ = ()

    def __float__(self) -> float:
        return 1e9


class Index:
    """An integer of another library's."""

    def __index__(self) -> int:
        return 3


@pytest.mark.parametrize("value", [Name.GROUP, Odd("billing")])
def test_texts_come_out_plain(value: str) -> None:
    for text in (check_name("group_name", value), check_text("key", value)):
        assert (type(text), text) == (str, "billing")
    choice = check_choice("ordering", Name.KEYED, ("partition", "key"))
    assert (type(choice), choice) == (str, "key")


@pytest.mark.parametrize(("value", "number"), [(Number.TWO, 2), (Index(), 3), (7, 7)])
def test_whole_numbers_come_out_plain(value: Any, number: int) -> None:
    found = check_count("batch_size", value)
    assert (type(found), found) == (int, number)


@pytest.mark.parametrize(("value", "seconds"), [(Number.TWO, 2.0), (Lying(3.5), 3.5), (3, 3.0)])
def test_seconds_come_out_plain(value: float, seconds: float) -> None:
    for found in (check_seconds("timeout", value), check_factor("factor", value)):
        assert (type(found), found) == (float, seconds)


def test_settings_keep_what_was_checked() -> None:
    """Checking one value and using another would be no check."""
    settings = ConsumerSettings(
        group_name=Name.GROUP,
        consumer_name=Name.MEMBER,
        namespace=Name.SPACE,
        batch_size=Number.TWO,
        concurrency=Number.TWO,
        init_partitions=Number.TWO,
        dead_maxlen=Number.TWO,
        timeout=Number.TWO,
        heartbeat_interval=Number.ONE,
        heartbeat_ttl=Lying(4.0),
        drain_timeout=Number.ONE,
        retry=RetryPolicy(max_attempts=Number.TWO, backoff=Number.ONE, factor=Number.TWO, max_backoff=Lying(5.0)),
    )
    plain = (str, int, float, bool, type(None))
    values = {**vars(settings), **vars(settings.retry)}
    assert {name: value for name, value in values.items() if isinstance(value, plain) and type(value) not in plain} == {}
    assert (settings.group_name, settings.heartbeat_ttl, settings.retry.max_backoff) == ("billing", 4.0, 5.0)


@IN_VIRTUAL_TIME
@pytest.mark.parametrize("group", [Name.GROUP, Odd("billing")])
async def test_one_group_has_one_owner(group: str) -> None:
    """However its name, the topic's and the namespace's are written: every message is handled once."""
    url, seen = fresh_url(), list[Message[Any]]()
    async with Producer(Name.TOPIC, url, namespace=Name.SPACE) as producer:
        ids = await producer.batch_enqueue(range(6))

    async def handle(message: Message[Any]) -> None:
        seen.append(message)

    odd: Consumer[Any] = Consumer(Name.TOPIC, url, group_name=group, namespace=Name.SPACE)
    plain: Consumer[Any] = Consumer("jobs", url, group_name="billing", namespace="shop")
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            await tasks.start(odd.process, handle)
            await tasks.start(plain.process, handle)
            while len(seen) < len(ids):
                await anyio.sleep(0.01)
            assert len(odd.assignment) + len(plain.assignment) == 1
            tasks.start_soon(odd.stop)
            tasks.start_soon(plain.stop)
    assert sorted(message.msg_id for message in seen) == sorted(ids)
    assert {(type(message.topic), message.topic) for message in seen} == {(str, "jobs")}


@IN_VIRTUAL_TIME
async def test_what_a_producer_is_given_comes_out_as_the_same_text() -> None:
    """Keys, headers, the field that names a key, deduplication: each is written by one part and read by another."""
    url = fresh_url()
    async with Producer("jobs", url, init_partitions=4) as producer:
        first = await producer.enqueue(1, key=Name.KEY, headers={Name.HEADER: Name.VALUE}, dedup_id=Name.DEDUP)
        assert await producer.enqueue(1, key="user-7", dedup_id="invoice-9") == first
        assert await producer.enqueue(1, key=Odd("user-7"), dedup_id=Odd("invoice-9")) == first
        await producer.batch_enqueue([{"user": Name.KEY}, {"user": "user-7"}, {"user": "user-7"}], partition_key=Name.FIELD)
        await producer.enqueue(Message("jobs", 1, key=Odd("user-7"), headers={Odd("trace"): Odd("abc")}))
    seen: list[Message[Any]] = []

    async def handle(message: Message[Any]) -> None:
        seen.append(message)

    with anyio.fail_after(30):
        await Consumer[Any]("jobs", url).process(handle, until_empty=True)
    assert [message.key for message in seen] == ["user-7"] * 5
    assert len({message.partition for message in seen}) == 1
    assert [dict(message.headers) for message in seen if message.headers] == [{"trace": "abc"}] * 2


@IN_VIRTUAL_TIME
async def test_admin_takes_the_same_values() -> None:
    url = fresh_url()
    async with Producer("jobs", url, namespace="shop") as producer:
        ids = await producer.batch_enqueue(range(3))

    async def fail(_message: Message[Any]) -> None:
        raise ValueError

    consumer: Consumer[Any] = Consumer("jobs", url, group_name="billing", namespace="shop", retry=RetryPolicy(max_attempts=1))
    with anyio.fail_after(30):
        await consumer.process(fail, until_empty=True)
        async with Admin(url, namespace=Name.SPACE) as admin:
            assert (await admin.topic(Name.TOPIC)).groups == ("billing",)
            assert type((await admin.topic(Name.TOPIC)).topic) is str
            found = [dead async for dead in admin.dead_letters(Name.TOPIC, Name.GROUP)]
            assert {(type(dead.topic), type(dead.group)) for dead in found} == {(str, str)}
            assert await admin.redrive("jobs", "billing", [Odd(ids[0])]) == 1
            assert await admin.purge("jobs", Odd("billing"), found) == 2
            earliest: Any = Name.EARLIEST
            await admin.seek(Odd("jobs"), Name.GROUP, earliest)
            await admin.delete_topic(Odd("jobs"), force=True)
            assert await admin.topics() == []


@IN_VIRTUAL_TIME
@pytest.mark.parametrize("partition", [True, False, 0.0, "0", None])
async def test_a_partition_is_named_by_its_number(partition: Any) -> None:
    """`True` and `1.0` are in `range(2)`, and other partitions than 1 where a key's name is made of them."""
    url = fresh_url()
    async with Producer("jobs", url, init_partitions=2) as producer, Admin(url) as admin:
        await producer.enqueue(1)
        await Consumer[Any]("jobs", url, group_name="billing").process(lambda _: None, until_empty=True)
        with pytest.raises(SettingsError, match="whole number"):
            await admin.seek("jobs", "billing", {partition: "0-1"})
        await admin.seek("jobs", "billing", {Number.ONE: Odd("0-1")})
        assert (await admin.group("jobs", "billing")).partitions[1].unread in (0, 1)


def test_a_kit_for_handlers_says_the_same() -> None:
    async def handle(message: Message[Any]) -> None:
        assert (type(message.topic), message.topic, message.key) == (str, "jobs", "user-7")

    outcome = HandlerKit(handle, topic=Name.TOPIC).deliver(1, key=Name.KEY)
    assert outcome.error is None
