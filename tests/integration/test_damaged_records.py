"""Each key that redisaq keeps, damaged in each way: it goes on, or one error names the key; others go on, and so does what starts again."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from redisaq import Consumer, Message, Producer, events
from redisaq.admin import Admin
from redisaq.brokers import open_broker
from redisaq.brokers.steps.leases import Install, Release
from redisaq.brokers.steps.settling import Resolve
from redisaq.brokers.steps.topics import MakeTopic
from redisaq.brokers.terms import GroupName
from redisaq.core.profile import Profile
from redisaq.core.records import Body, Resolution, encode_retry
from redisaq.core.waiting import Newcomer, encode_newcomer
from redisaq.errors import AmbiguousEnqueueError, ConsumerError, DamagedKeyError, RedisaqError
from tests.servers import Server

pytestmark = pytest.mark.anyio

GROUP = GroupName("jobs", "default_group")
JUNK = [b"", b"\xff\xfe\x00", b"nan", b"-5", b"9" * 40, b"1.5", b"0:0:\x92", b"12345678901234567890:x"]
SCORES = ["inf", "-inf", "-5", "1.5", "1e300"]

ONE_LOOP = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
"""For walks: what is read, and what is set aside, does not depend on the event loop; the tests below run on all of them."""


class Case:
    """One topic of two partitions, and a back door."""

    def __init__(self, server: Server, namespace: str) -> None:
        self.server = server
        self.namespace = namespace
        self.got: Counter[Any] = Counter()
        self.told: list[events.Event] = []

    def command(self, *words: Any) -> Any:
        return self.server.command(*words)

    def of_partition(self, name: str) -> str:
        return f"{{{self.namespace}:jobs:0}}:{name}"

    def of_topic(self, name: str) -> str:
        return f"{{{self.namespace}:jobs}}:{name}"

    def of_group(self, name: str) -> str:
        return self.of_topic(f"g:default_group:{name}")

    def share(self, name: str) -> str:
        return self.of_partition(f"g:default_group:{name}")

    @property
    def broker(self) -> Any:
        return open_broker(self.server.url, self.namespace)

    def consumer(self, **options: Any) -> Consumer[Any]:
        options = {"heartbeat_interval": 0.1, "heartbeat_ttl": 0.6, "batch_size": 4, "drain_timeout": 1.0, **options}
        return Consumer("jobs", self.server.url, namespace=self.namespace, on_event=self.told.append, **options)

    async def handle(self, message: Message[Any]) -> None:
        self.got[message.payload] += 1

    def reported(self) -> list[str]:
        return [event.reason for event in self.told if isinstance(event, events.EntryUnreadable)]


@pytest.fixture
async def case(valkey_server: Server, namespace: str) -> AsyncIterator[Case]:
    """What a group that has worked leaves: a document, a token, a retry, dead letters, delayed messages."""
    case = Case(valkey_server, namespace)
    broker = case.broker
    await broker.do(MakeTopic("jobs", 2))
    async with Producer("jobs", valkey_server.url, namespace=namespace) as producer:
        await producer.batch_enqueue([0, 1, 2, 3])
    with anyio.fail_after(30):
        await case.consumer().process(case.handle, until_empty=True)
    token = int(case.command("HGET", case.share("lease"), "token")) + 1
    await broker.do(Install(GROUP, 0, token, "before", foreign=True))
    (entry_id,) = await broker.append("jobs", [(0, [b"i", b"d-1", b"d", b'"dead"'])], maxlen=None, approximate=False)
    reader = await broker.open_reader(GROUP, 0, token, "before")
    await reader.read(1, 0)
    await reader.close()
    await broker.do(
        Resolve(GROUP, 0, token, [Resolution("stream", "dead", Body(entry_id, [b"i", b"d-1", b"d", b'"dead"']))], dead_maxlen=None)
    )
    await broker.do(Release(GROUP, 0, token))
    await broker.close()
    case.got.clear()
    case.told.clear()
    yield case
    if keys := case.command("KEYS", f"*{namespace}*"):
        case.command("DEL", *keys)


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.01)


async def look_at_all(case: Case, names: set[str]) -> None:
    """Take every view: it answers, or names one of these keys."""
    async with Admin(case.server.url, namespace=case.namespace) as admin:

        async def letters() -> list[Any]:
            return [letter async for letter in admin.dead_letters("jobs", "default_group")]

        steps: list[Callable[[], Any]] = [
            admin.topics,
            lambda: admin.topic("jobs"),
            lambda: admin.group("jobs", "default_group"),
            letters,
            lambda: admin.pause("jobs", "default_group"),
            lambda: admin.resume("jobs", "default_group"),
            lambda: admin.redrive("jobs", "default_group", ["no such id"]),
        ]
        for step in steps:
            try:
                await step()
            except DamagedKeyError as error:
                assert error.key in names, error  # noqa: PT017 -- which key it names is the point


async def send(case: Case, payload: Any, names: set[str], **more: Any) -> bool:
    """Enqueue to both partitions; True unless an error names one of these keys."""
    sent = True
    async with contextlib.AsyncExitStack() as stack:
        try:
            producer = await stack.enter_async_context(Producer("jobs", case.server.url, namespace=case.namespace, send_timeout=5.0))
            for key in ("a", "c"):  # one key of each partition
                await producer.enqueue(f"{payload}-{key}", key=key, **more)
        except DamagedKeyError as error:
            assert error.key in names, error  # noqa: PT017 -- as above
            sent = False
        except AmbiguousEnqueueError:
            sent = False
    return sent


KEYS: dict[str, Callable[[Case], str]] = {
    "topics": lambda case: f"{case.namespace}:topics",
    "meta": lambda case: case.of_topic("meta"),
    "members": lambda case: case.of_group("members"),
    "state": lambda case: case.of_group("state"),
    "deltas": lambda case: case.of_group("deltas"),
    "room": lambda case: case.of_group("room"),
    "stream": lambda case: case.of_partition("0"),
    "lease": lambda case: case.share("lease"),
    "retry": lambda case: case.share("retry"),
    "retry bodies": lambda case: case.share("retry:body"),
    "dead": lambda case: case.share("dead"),
    "delayed": lambda case: case.of_partition("delayed"),
    "delayed bodies": lambda case: case.of_partition("delayed:body"),
}


@ONE_LOOP
@pytest.mark.parametrize("which", KEYS)
@pytest.mark.parametrize("kind", ["string", "hash", "zset"])
async def test_a_key_of_the_wrong_type(case: Case, which: str, kind: str) -> None:
    """What meets it says which key it is; other groups go on where they do not need it."""
    key = KEYS[which](case)
    if case.command("TYPE", key) == kind.encode():
        pytest.skip("that is its type")
    fits = {"deltas": "hash", "room": "hash", "retry": "zset", "delayed": "zset", "retry bodies": "hash", "delayed bodies": "hash"}.get(
        which
    )
    if fits == kind:
        pytest.skip("that is its type")
    case.command("DEL", key)
    words = {"string": ("SET", key, "x"), "hash": ("HSET", key, "x", "1"), "zset": ("ZADD", key, 1, "x")}[kind]
    case.command(*words)
    await look_at_all(case, {key})
    await send(case, "more", {key})
    for _ in range(2):  # a restarted one, too
        with anyio.move_on_after(0.4):
            try:
                await case.consumer().process(case.handle)
            except ConsumerError as error:
                cause = error.__cause__
                assert isinstance(cause, DamagedKeyError), repr(cause)
                assert cause.key == key
            except DamagedKeyError as error:  # before it has begun
                assert error.key == key  # noqa: PT017 -- as above
    case.command("DEL", key)


def _field(key: Callable[[Case], str], field: str) -> Callable[[Case, bytes], None]:
    return lambda case, junk: case.command("HSET", key(case), field, junk)


def _retry(case: Case, junk: bytes) -> None:
    case.command("ZADD", case.share("retry"), 1, b"7-1")
    case.command("HSET", case.share("retry:body"), b"7-1", junk)
    case.command("ZADD", case.share("retry"), 1, junk or b"z")
    case.command("HSET", case.share("retry:body"), junk or b"z", encode_retry(Body(b"7-2", (b"i", b"x", b"d", b"1"))))


def _delayed(case: Case, junk: bytes) -> None:
    case.command("ZADD", case.of_partition("delayed"), 1, b"m-1")
    case.command("HSET", case.of_partition("delayed:body"), b"m-1", junk)


def _orphans(case: Case, junk: bytes) -> None:
    for name in (case.share("retry"), case.of_partition("delayed")):
        case.command("ZADD", name, 1, b"8-1" + junk)


def _bodies_alone(case: Case, junk: bytes) -> None:
    for name in (case.share("retry:body"), case.of_partition("delayed:body")):
        case.command("HSET", name, b"8-1", junk)


def _scores(case: Case, junk: bytes) -> None:
    score = SCORES[JUNK.index(junk) % len(SCORES)]
    case.command("ZADD", case.share("retry"), score, b"7-1")
    case.command("HSET", case.share("retry:body"), b"7-1", encode_retry(Body(b"7-1", (b"i", b"x", b"d", b'"again"'))))
    case.command("ZADD", case.of_partition("delayed"), score, b"m-1")
    case.command("HSET", case.of_partition("delayed:body"), b"m-1", b'1:i1:y1:d6:"late"')
    case.command("ZADD", case.of_group("members"), score, b"a member", score, junk)


def _reader(case: Case, junk: bytes) -> None:
    case.command("HSET", case.share("lease"), b"reader:" + junk, junk, b"reader:1:" + junk, junk, b"reader:" + junk + b":abc", junk)


def _room(case: Case, junk: bytes) -> None:
    room, now = case.of_group("room"), b"%d" % (int(case.command("TIME")[0]) * 1000)
    newcomers = [Newcomer("", Profile(ttl=9.0)), *(Newcomer("x", Profile(ttl=ttl)) for ttl in (math.inf, -1.0))]
    said = encode_newcomer(newcomers[JUNK.index(junk) % len(newcomers)])
    one = b"%b %b " % (now, now)
    case.command("HSET", room, b"", junk, b"a", junk, b"b", one + junk, b"x", one + said)
    case.command("PEXPIRE", room, 5000)


def _dead(case: Case, junk: bytes) -> None:
    case.command("XADD", case.share("dead"), "*", b"x", junk)
    if junk == JUNK[0]:
        case.command("XADD", case.share("dead"), f"{2**64 - 2}-0", b"i", junk)


def _entries(case: Case, junk: bytes) -> None:
    case.command("XADD", case.of_partition("0"), "*", b"i", junk, b"d", b'"odd"', b"t", junk)
    case.command("XADD", case.of_partition("0"), "*", b"i", junk, b"d", junk, b"k", junk)
    case.command("XADD", case.of_partition("0"), "*", *[b"x", junk] * 5000)


RECORDS: dict[str, tuple[Callable[[Case, bytes], None], str | None]] = {
    "document": (_field(KEYS["state"], "doc"), None),
    "version": (_field(KEYS["state"], "version"), None),
    "run_id": (_field(KEYS["state"], "run_id"), None),
    "born": (_field(KEYS["state"], "born"), None),
    "frozen_until": (_field(KEYS["state"], "frozen_until"), None),
    "burst": (_field(KEYS["state"], "burst"), None),
    "room": (_room, None),
    "changed": (_field(KEYS["state"], "changed"), None),
    "no version": (lambda case, _: case.command("HDEL", case.of_group("state"), "version"), None),
    "no document": (lambda case, _: case.command("HDEL", case.of_group("state"), "doc"), None),
    "token": (_field(KEYS["lease"], "token"), None),
    "holder": (_field(KEYS["lease"], "holder"), None),
    "redriven": (_field(KEYS["lease"], "redriven"), None),
    "lost": (_field(KEYS["lease"], "lost"), None),
    "readers": (_reader, None),
    "retry": (_retry, None),
    "delayed": (_delayed, None),
    "orphans": (_orphans, None),
    "bodies alone": (_bodies_alone, None),
    "scores": (_scores, None),
    "dead": (_dead, None),
    "entries": (_entries, None),
    "names": (lambda case, junk: case.command("SADD", f"{case.namespace}:topics", b"\xff" + junk), None),
    "groups": (lambda case, junk: case.command("XGROUP", "CREATE", case.of_partition("0"), b"\xff" + junk, "$"), None),
    "partitions": (_field(KEYS["meta"], "partitions"), "meta"),
    "generation": (_field(KEYS["meta"], "generation"), "meta"),
    "send_timeout": (_field(KEYS["meta"], "send_timeout"), "meta"),
    "no partitions": (lambda case, _: case.command("HDEL", case.of_topic("meta"), "partitions"), "meta"),
}


@ONE_LOOP
@pytest.mark.parametrize("name", RECORDS)
async def test_a_damaged_record(case: Case, name: str) -> None:
    """All of JUNK in turn, under a group that is then started again: it handles what is sent, or all who need it name the key."""
    damage, named = RECORDS[name]
    names = set[str]() if named is None else {KEYS[named](case)}
    for number, junk in enumerate(JUNK):
        damage(case, junk)
        await look_at_all(case, names)
        assert await send(case, f"n{number}", names) == (named is None)
        consumer = case.consumer()
        if named is not None:
            with pytest.raises(RedisaqError) as caught, anyio.fail_after(30):
                await consumer.process(case.handle)
            error = caught.value.__cause__ if isinstance(caught.value, ConsumerError) else caught.value
            assert isinstance(error, DamagedKeyError), repr(error)
            assert error.key in names
            continue
        async with anyio.create_task_group() as tasks:
            await tasks.start(consumer.process, case.handle)
            await until(lambda number=number: all(case.got[f"n{number}-{key}"] for key in "ac"))  # type: ignore[misc]
            await consumer.stop()
    if name in {"retry", "delayed", "orphans", "entries"}:
        assert case.reported()


async def test_under_a_running_group(case: Case) -> None:
    """The damage comes while members work: they go on, and so do those who come later."""
    consumers = [case.consumer(), case.consumer()]
    async with anyio.create_task_group() as tasks:
        for consumer in consumers:
            await tasks.start(consumer.process, case.handle)
        for number, junk in enumerate(JUNK):
            for name in ("document", "version", "token", "lost", "retry", "delayed", "entries", "scores"):
                RECORDS[name][0](case, junk)
            assert await send(case, f"r{number}", set())
            await until(lambda number=number: all(case.got[f"r{number}-{key}"] for key in "ac"))  # type: ignore[misc]
        for consumer in consumers:
            await consumer.stop()


@pytest.mark.parametrize("partitions", ["20000000", "0", "-1", "x", "65537"])
async def test_a_partition_count_that_cannot_be_ends_who_works(case: Case, partitions: str) -> None:
    """It is named, and left as it is; the group goes on when it has been set right."""

    async def work() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(case.consumer().process, case.handle)
            case.command("HSET", case.of_topic("meta"), "partitions", partitions)

    with anyio.fail_after(30), pytest.RaisesGroup(ConsumerError) as caught:
        await work()
    (error,) = caught.value.exceptions
    assert isinstance(error.__cause__, DamagedKeyError)
    assert error.__cause__.key == case.of_topic("meta")
    assert case.command("HGET", case.of_topic("meta"), "partitions") == partitions.encode()
    case.command("HSET", case.of_topic("meta"), "partitions", 2)
    assert await send(case, "after", set())
    with anyio.fail_after(30):
        await case.consumer().process(case.handle, until_empty=True)
    assert case.got["after-a"] == case.got["after-c"] == 1


async def test_a_mark_that_is_no_id(case: Case) -> None:
    """A deduplication mark says which message stands; whatever it says, it stands. One of another type is named."""
    async with Producer("jobs", case.server.url, namespace=case.namespace, init_partitions=2) as producer:
        await producer.enqueue("x", dedup_id="one", key="a")
        (mark,) = case.command("KEYS", f"*{case.namespace}*once:one")
        case.command("SET", mark, b"\xff\xfe")
        assert await producer.enqueue("x", dedup_id="one", key="a")
        case.command("DEL", mark)
        case.command("HSET", mark, "x", "1")
        with pytest.raises(DamagedKeyError) as caught:
            await producer.enqueue("x", dedup_id="one", key="a")
        assert caught.value.key == mark.decode()


async def test_a_damaged_retry_is_kept_as_it_was(case: Case) -> None:
    """It is among the dead letters, raw; a damaged delayed message is an entry that each group finds."""
    _retry(case, b"\xff junk")
    _delayed(case, b"\xff junk")
    consumer = case.consumer()
    async with anyio.create_task_group() as tasks:
        await tasks.start(consumer.process, case.handle)
        await until(lambda: len(case.reported()) == 3)
        await consumer.stop()
    async with Admin(case.server.url, namespace=case.namespace) as admin:
        letters = [letter async for letter in admin.dead_letters("jobs", "default_group")]
        assert [letter.data for letter in letters][:1] == [b'"dead"']
        kept = [letter for letter in letters if letter.data == b"\xff junk"]
        assert len(kept) == 2
        assert all(letter.unreadable for letter in kept)
        case.command("XADD", case.share("dead"), "*", "foreign", "1")
        assert await admin.redrive("jobs", "default_group") == 3  # the message, and the two raw ones of good ids
