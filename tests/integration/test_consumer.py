"""What only a real server shows of Producer and Consumer."""

from __future__ import annotations

import functools
import resource
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from redisaq import Consumer, Message, Producer, events
from redisaq.errors import ConnectionFailed, SerializationError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.server_fixtures import ServerPool
    from tests.servers import Server

pytestmark = pytest.mark.anyio


@pytest.fixture
def url(valkey_server: Server) -> str:
    return valkey_server.url


async def test_connect_and_close_in_any_order_without_nesting(url: str, namespace: str) -> None:
    producer = Producer("jobs", url, namespace=namespace)
    consumer = Consumer("jobs", url, namespace=namespace)
    await producer.connect()
    await consumer.connect()
    await producer.close()
    await consumer.close()
    await producer.enqueue({"n": 1})  # a closed one opens again
    await producer.close()
    await producer.close()
    got: list[Any] = []

    async def handle(message: Message[Any]) -> None:
        got.append(message.payload)

    for n in (2, 3):  # and so does a consumer, each time
        await consumer.process(handle, until_empty=True)
        await consumer.close()
        await consumer.close()
        await producer.enqueue({"n": n})
    await producer.close()
    assert got == [{"n": 1}, {"n": 2}]


def test_one_producer_over_several_event_loops(anyio_backend: tuple[str, Any], url: str, namespace: str) -> None:
    producer = Producer("jobs", url, namespace=namespace)

    async def some() -> list[str]:
        return [await producer.enqueue({"n": n}) for n in range(3)]

    ids: list[str] = []
    for _ in range(3):
        ids += anyio.run(some, backend=anyio_backend[0], backend_options=anyio_backend[1])
    ids += anyio.run(some, backend="trio")
    got: list[str] = []

    async def drain() -> None:
        async def handle(message: Message[Any]) -> None:
            got.append(message.msg_id)

        await Consumer("jobs", url, namespace=namespace).process(handle, until_empty=True)
        await producer.close()

    anyio.run(drain, backend=anyio_backend[0], backend_options=anyio_backend[1])
    assert got == ids


async def test_the_first_connection_fails_at_once_and_says_what_to_do(namespace: str, tmp_path: Any) -> None:
    for url in ("redis://:secret@127.0.0.1:1/0", f"unix://{tmp_path}/nobody.sock"):
        for thing in (Producer("jobs", url, namespace=namespace).enqueue({}), Consumer("jobs", url, namespace=namespace).process(print)):
            with anyio.fail_after(30), pytest.raises(ConnectionFailed) as caught:
                await thing
            assert "secret" not in str(caught.value)
            assert "secret" not in repr(caught.value)
            assert ("127.0.0.1:1" in str(caught.value)) or ("nobody.sock" in str(caught.value))


async def test_a_wrong_password_and_a_missing_database(breakable_server: Server, namespace: str) -> None:
    breakable_server.command("CONFIG", "SET", "requirepass", "right")
    try:
        for url, word in (
            (breakable_server.url.replace("redis://", "redis://:wrong@"), "password"),
            (breakable_server.url.replace("redis://", "redis://:right@").replace("/0", "") + "/9999", "9999"),
        ):
            with anyio.fail_after(30), pytest.raises(ConnectionFailed) as caught:
                await Producer("jobs", url, namespace=namespace).enqueue({})
            assert caught.value.permanent
            assert word in str(caught.value).lower()
            assert "wrong@" not in str(caught.value)
    finally:
        producer = Producer("jobs", breakable_server.url.replace("redis://", "redis://:right@"), namespace=namespace)
        await producer.enqueue({"n": 1})
        await producer.close()


@pytest.mark.parametrize("topic", ["a{b}", "a\nb", "x" * 10_000, ""])
async def test_names_that_cannot_stand_in_a_key(topic: str, url: str) -> None:
    with pytest.raises(SettingsError, match="topic"):
        Producer(topic, url)
    with pytest.raises(SettingsError, match="topic"):
        Consumer(topic, url)


async def test_a_payload_that_cannot_be_serialized_sends_nothing_of_the_batch(url: str, namespace: str) -> None:
    async with Producer("jobs", url, namespace=namespace) as producer:
        with pytest.raises(SerializationError):
            await producer.batch_enqueue([{"n": 1}, {"n": object()}])
        await producer.batch_enqueue([{"n": 2}])
    got: list[Any] = []

    async def handle(message: Message[Any]) -> None:
        got.append(message.payload)

    await Consumer("jobs", url, namespace=namespace).process(handle, until_empty=True)
    assert got == [{"n": 2}]


async def test_a_foreign_entry_is_reported_once_and_put_among_the_dead_letters(valkey_server: Server, url: str, namespace: str) -> None:
    seen: list[events.Event] = []
    async with Producer("jobs", url, namespace=namespace) as producer:
        await producer.enqueue({"n": 1})
        valkey_server.command("XADD", f"{{{namespace}:jobs:0}}:0", "*", "color", "red", "size", "1")
        await producer.enqueue({"n": 2})
    got: list[Any] = []

    async def handle(message: Message[Any]) -> None:
        got.append(message.payload["n"])

    with anyio.fail_after(30):
        await Consumer("jobs", url, namespace=namespace, on_event=seen.append).process(handle, until_empty=True)
    assert got == [1, 2]
    assert len([event for event in seen if isinstance(event, events.EntryUnreadable)]) == 1
    assert valkey_server.command("XPENDING", f"{{{namespace}:jobs:0}}:0", "default_group")[0] == 0
    ((_, fields),) = valkey_server.command("XRANGE", f"{{{namespace}:jobs:0}}:g:default_group:dead", "-", "+")
    assert fields[:4] == [b"color", b"red", b"size", b"1"]


async def test_ten_thousand_pending_entries_are_taken_over_in_order_and_in_pages(valkey_server: Server, url: str, namespace: str) -> None:
    count = 10_000
    async with Producer("jobs", url, namespace=namespace) as producer:
        for begin in range(0, count, 1000):
            await producer.batch_enqueue([{"n": n} for n in range(begin, begin + 1000)])
    stream = f"{{{namespace}:jobs:0}}:0"
    valkey_server.command("XGROUP", "CREATE", stream, "default_group", "0")
    valkey_server.command("XREADGROUP", "GROUP", "default_group", "owner", "COUNT", count, "STREAMS", stream, ">")
    async with Producer("jobs", url, namespace=namespace) as producer:
        await producer.enqueue({"n": count})
    got: list[int] = []
    most_waiting = 0
    consumer: Consumer[Any] = Consumer("jobs", url, namespace=namespace, batch_size=100)

    async def handle(message: Message[Any]) -> None:
        nonlocal most_waiting
        got.append(message.payload["n"])
        most_waiting = max(most_waiting, sum(one.waiting for one in consumer.statistics().partitions))

    with anyio.fail_after(60):
        await consumer.process(handle, until_empty=True)
    assert got == list(range(count + 1))
    assert most_waiting <= 200


@pytest.fixture
def lonely_server(server_pool: ServerPool) -> Iterator[Server]:
    server = server_pool.new("valkey9")
    yield server
    server.close()


async def test_an_idle_consumer_costs_next_to_nothing(lonely_server: Server, namespace: str) -> None:
    """At most one command a second and connection over the heartbeats, and one look a ttl at what is due; under 1 % of a core."""
    url = lonely_server.url
    async with Producer("jobs", url, namespace=namespace, init_partitions=2) as producer:
        await producer.enqueue({"n": 1})
    consumer = Consumer("jobs", url, namespace=namespace)

    async def handle(_message: Message[Any]) -> None:
        pass

    async with anyio.create_task_group() as tasks:
        await tasks.start(consumer.process, handle)
        await anyio.sleep(1.0)
        before, began = commands(lonely_server), resource.getrusage(resource.RUSAGE_SELF)
        seconds = 6.0
        await anyio.sleep(seconds)
        spent, ended = commands(lonely_server) - before, resource.getrusage(resource.RUSAGE_SELF)
        tasks.cancel_scope.cancel()
    heartbeats = seconds / 3.0 + 1
    inside = 8  # what one heartbeat's script calls is counted as commands, too
    reads = 2 * (seconds / 5.0 + 1)
    looks = 2  # each partition's for what is due, once within a ttl, whatever the notifications say
    assert spent <= (heartbeats + looks) * inside + reads + 1
    cpu = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    assert cpu < 0.01 * seconds


def commands(server: Server) -> int:
    """Return how many commands the server has carried out."""
    text = server.command("INFO", "stats").decode()
    return int(text.split("total_commands_processed:")[1].split()[0])


async def test_a_custom_serializer_may_return_str_or_bytes(url: str, namespace: str) -> None:
    import msgspec

    serializers: list[Callable[[Any], str | bytes]] = [msgspec.msgpack.encode, lambda data: repr(data["n"])]
    for number, serializer in enumerate(serializers):
        topic = f"jobs{number}"
        async with Producer(topic, url, namespace=namespace, serializer=serializer) as producer:
            await producer.enqueue({"n": 7})
        got: list[Any] = []

        async def handle(message: Message[Any], got: list[Any] = got) -> None:
            got.append(message.payload)

        deserializer = msgspec.msgpack.decode if number == 0 else int
        await Consumer(topic, url, namespace=namespace, deserializer=deserializer).process(handle, until_empty=True)
        assert got == [{"n": 7} if number == 0 else 7]


async def test_the_server_restarts_and_the_consumer_goes_on(breakable_server: Server, namespace: str) -> None:
    url = breakable_server.url
    got: Counter[int] = Counter()

    async def handle(message: Message[Any]) -> None:
        got[message.payload["n"]] += 1

    producer = Producer("jobs", url, namespace=namespace, init_partitions=2)
    await producer.enqueue({"n": 0})
    consumer = Consumer("jobs", url, namespace=namespace, heartbeat_interval=0.3, heartbeat_ttl=3.0)
    async with anyio.create_task_group() as tasks:
        await tasks.start(consumer.process, handle)
        await until(lambda: got[0] == 1)
        breakable_server.restart()
        for n in range(1, 5):  # they can only be read over connections that are made to the new process
            await producer.enqueue({"n": n})
        await until(lambda: all(got[n] for n in range(5)), 15)
        tasks.cancel_scope.cancel()
    await producer.close()


async def until(condition: Any, seconds: float = 30.0) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.02)


async def test_process_batch_without_connect(url: str, namespace: str) -> None:
    async with Producer("notifications", url, namespace=namespace) as producer:
        await producer.batch_enqueue([{"type": "email"}, {"type": "sms"}])
    batches: list[list[str]] = []

    async def process_batch(messages: list[Message[Any]]) -> None:
        batches.append([message.payload["type"] for message in messages])

    consumer = Consumer(topic="notifications", redis_url=url, namespace=namespace, batch_size=10, heartbeat_interval=3.0)
    await consumer.process_batch(process_batch, until_empty=True)
    assert batches == [["email", "sms"]]
    assert functools.reduce(lambda total, batch: total + len(batch), batches, 0) == 2
