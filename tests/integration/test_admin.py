"""Admin, as people use it: over a real server and the memory broker, with producers and consumers beside it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from redisaq import Message, Producer
from redisaq.admin import Admin, DeadKinds, DeadMessage
from redisaq.administering import dead as reading_dead
from redisaq.administering.changes import Change
from redisaq.brokers import open_broker
from redisaq.brokers.steps.administration import Note
from redisaq.brokers.steps.coordination import Heartbeat, make_groups
from redisaq.brokers.steps.topics import MakeTopic
from redisaq.brokers.terms import GroupName
from redisaq.core.history import Change as Noted
from redisaq.core.membership import Document, MemberEntry
from redisaq.errors import GroupBusyError, SettingsError, TopicMissingError
from redisaq.identity import VERSION
from tests.conformance.steps import commit_document
from tests.integration.admin_bench import Bench, fail
from tests.server_fixtures import KeyLeaks

pytestmark = pytest.mark.anyio


@pytest.fixture
async def admin(url: str, namespace: str) -> AsyncIterator[Admin]:
    """An Admin, connected, who deletes all topics when the test is over."""
    async with Admin(url, namespace=namespace) as admin:
        yield admin
        for topic in await admin.topics():
            await admin.delete_topic(topic)


@pytest.fixture
def bench(url: str, namespace: str) -> Bench:
    """Those of the test."""
    return Bench(url, namespace)


@pytest.fixture
async def member(url: str, namespace: str) -> AsyncIterator[str]:
    """A live member of "billing" that does nothing; leaves with the test."""
    broker, group = open_broker(url, namespace), GroupName("orders", "billing")
    document = Document(members={"one": MemberEntry("A", ("B",))}, partitions=2, target={0: "one"}, lease={1: "A"}, token={1: 7})
    await broker.do(MakeTopic("orders", 2))
    await make_groups(broker, group, [0, 1], latest=False)
    version = await commit_document(broker, group, "A", 60.0, known_version="", document=document, joins=True)
    assert version
    yield "A"
    version = (await broker.do(Heartbeat(group, "A", 60.0, ""))).version
    if version:
        assert await commit_document(broker, group, "A", 60.0, known_version=version, document=Document(), leaves=True)
    await broker.close()


async def dead(admin: Admin, **more: Any) -> list[DeadMessage]:
    """Return all dead letters."""
    return [one async for one in admin.dead_letters("orders", "billing", **more)]


# -- looking -------------------------------------------------------------------------------------------------------------------------


async def test_topics(admin: Admin, bench: Bench) -> None:
    assert await admin.topics() == []
    await bench.produce(6, delay=60.0)
    await bench.produce(4)
    assert await admin.topics() == ["orders"]
    info = await admin.topic("orders")
    assert (info.topic, info.generation, info.length, info.delayed, info.groups) == ("orders", 0, 4, 6, ())
    assert [one.partition for one in info.partitions] == [0, 1]
    await bench.produce(0, partitions=3)
    assert len((await admin.topic("orders")).partitions) == 3


async def test_what_is_missing(admin: Admin, bench: Bench) -> None:
    await bench.produce(1)
    for call in (admin.topic("nothing"), admin.group("nothing", "billing"), admin.delete_topic("nothing")):
        with pytest.raises(TopicMissingError, match="nothing"):
            await call
    for asking in (
        admin.group("orders", "nobody"),
        admin.redrive("orders", "nobody"),
        admin.purge("orders", "nobody"),
        admin.seek("orders", "nobody", "latest"),
        admin.pause("orders", "nobody"),
        admin.resume("orders", "nobody"),
        admin.delete_group("orders", "nobody"),
    ):
        with pytest.raises(TopicMissingError, match="nobody"):
            await asking
    with pytest.raises(TopicMissingError, match="nobody"):
        await anext(admin.dead_letters("orders", "nobody"))
    with pytest.raises(TopicMissingError):
        await anext(admin.dead_letters("orders", "nobody", newest=True))


@pytest.mark.parametrize("name", ["", "a{b}", "x" * 300])
async def test_bad_names(admin: Admin, url: str, name: str) -> None:
    with pytest.raises(SettingsError):
        await admin.topic(name)
    with pytest.raises(SettingsError):
        await admin.group("orders", name)
    with pytest.raises(SettingsError):
        admin.dead_letters("orders", name)
    with pytest.raises(SettingsError):
        Admin(url, namespace=name)


async def test_a_group(admin: Admin, bench: Bench, member: str) -> None:
    await bench.produce(4)
    info = await admin.group("orders", "billing")
    assert (info.topic, info.group, info.paused) == ("orders", "billing", False)
    assert [(one.name, one.incarnation, one.partitions, one.waiting) for one in info.members] == [
        ("one", member, (1,), False),
        ("one", "B", (), True),
    ]
    first = info.members[0]
    assert (first.client, first.host, first.pid, first.version, first.since, first.heartbeat_age) == ("", "", 0, "", None, None)
    left = first.expires_in
    assert left is not None
    assert 0 < left <= 60.001
    assert info.members[1].expires_in is None
    assert [(one.owner, one.owner_name) for one in info.partitions] == [("", ""), (member, "one")]
    assert [one.length for one in info.partitions] == [one.unread for one in info.partitions]
    assert (info.unread, info.pending, info.retry, info.dead, info.delayed) == (4, 0, 0, 0, 0)


async def test_the_history_of_a_group(url: str, namespace: str, bench: Bench) -> None:
    """Who came, went, was taken for dead with which partitions; and what administrators did, by whom."""
    broker, group = open_broker(url, namespace), GroupName("orders", "billing")
    async with Admin(url, namespace=namespace, client="mara@ops-1") as admin:
        await broker.do(MakeTopic("orders", 2))
        document = Document(members={"one": MemberEntry("A")}, partitions=2, target={1: "one"}, lease={1: "A"}, token={1: 7})
        await make_groups(broker, group, [0, 1], latest=False)
        assert await commit_document(broker, group, "A", 0.1, known_version="", document=document, joins=True)
        await bench.produce(4)
        await bench.drain(failing=(0, 1), client="host-2:7")
        await admin.pause("orders", "billing")
        await admin.resume("orders", "billing")
        assert await admin.redrive("orders", "billing", ["nothing"]) == 0
        assert await admin.redrive("orders", "billing") == 2
        await admin.seek("orders", "billing", to="latest")
        entries = await admin.history("orders", "billing")
        found = [(one.what, one.name, one.by, one.partitions, one.count, one.to) for one in reversed(entries)]
        came, *rest = [one for one in found if one[0] in ("joined", "taken for dead")]
        assert came == ("joined", "host-2:7", "", (), None, "")
        assert ("taken for dead", "one", "host-2:7", ((1, 1),), 1, "") in rest
        (dead,) = [one for one in entries if one.what == "taken for dead"]
        (joined,) = [one for one in entries if one.what == "joined"]
        assert [(one.member, one.partitions) for one in dead.takers] == [(joined.member, ((1, 1),))]
        assert found[-5:] == [
            ("left", "host-2:7", "", (), None, ""),
            ("paused", "", "mara@ops-1", (), None, ""),
            ("resumed", "", "mara@ops-1", (), None, ""),
            ("redriven", "", "mara@ops-1", (), 2, ""),
            ("sought", "", "mara@ops-1", ((0, 1),), 2, "latest"),
        ]
        assert [one.what for one in await admin.history("orders", "billing", count=1, before=entries[0].entry_id)] == ["redriven"]
        with pytest.raises(SettingsError, match="entry_id"):
            await admin.history("orders", "billing", before="yesterday")
        await admin.delete_topic("orders")
    await broker.close()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_all_dead_letters_are_counted_by_kind(admin: Admin, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few at a time, those that there were in the beginning; and it reports how far it has come."""
    monkeypatch.setattr(reading_dead, "COUNTED_AT_ONCE", 3)
    with pytest.raises(TopicMissingError):
        await anext(admin.dead_kinds("orders", "nobody"))
    await bench.produce(21)
    await bench.drain(failing=tuple(range(20)))
    counting = admin.dead_kinds("orders", "billing")
    first = await anext(counting)
    assert (first.counted, first.total, first.complete, sum(one.count for one in first.kinds)) == (6, 20, False, 6)
    await bench.produce(5, start=100)
    await bench.drain(failing=tuple(range(100, 105)))  # these arrive meanwhile
    found = [one async for one in counting]
    last = found[-1]
    assert [one.complete for one in found] == [False] * (len(found) - 1) + [True]
    (kind,) = last.kinds
    letters = [one async for one in admin.dead_letters("orders", "billing") if not one.error.startswith("no 10")]
    assert (last.counted, last.total, kind.count, kind.error_type, kind.where[:14]) == (20, 20, 20, "ValueError", "admin_bench.py")
    assert (kind.first, kind.last) == (min(one.died_at for one in letters), max(one.died_at for one in letters))
    newest = await admin.dead_letter("orders", "billing", kind.partition, kind.dead_id)
    assert newest is not None
    assert newest.error == kind.error
    assert kind.kind in {one.kind for one in await admin.dead_summaries("orders", "billing", partitions=[0, 1])}
    await admin.purge("orders", "billing")
    (nothing,) = [one async for one in admin.dead_kinds("orders", "billing")]
    assert nothing == DeadKinds((), 0, 0, complete=True)


class KilledError(BaseException):
    """The end of a process."""


CHANGES: dict[str, tuple[Callable[[Admin, str], Awaitable[object]], str, str | None]] = {
    "seek": (lambda admin, _: admin.seek("orders", "billing", "latest"), "seek begun", "sought"),
    "redrive": (lambda admin, _: admin.redrive("orders", "billing"), "redrive begun", "redriven"),
    "purge": (lambda admin, one: admin.purge("orders", "billing", [one]), "purge begun", "purged"),
    "retry_now": (lambda admin, _: admin.retry_now("orders", "billing"), "retry begun", "retried now"),
    "cancel": (lambda admin, one: admin.cancel("orders", one, "billing"), "cancellation begun", "cancelled"),
    "cancel delayed": (
        lambda admin, one: admin.cancel("orders", one),
        "cancellation of a delayed message begun",
        "cancelled while delayed",
    ),
    "grow": (lambda admin, _: admin.grow("orders", 3), "growth begun", "grown"),
    "delete_group": (lambda admin, _: admin.delete_group("orders", "billing"), "deletion begun", None),
    "delete_topic": (lambda admin, _: admin.delete_topic("orders"), "deletion of the topic begun", None),
}
"""Changes of a group with one dead letter, one retry and one delayed message: how each is made, what is noted before and at the end."""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("name", CHANGES)
async def test_what_was_begun_stays_in_the_history_if_its_process_dies(
    admin: Admin, bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies after each number of steps that change something. Repeated, the change ends, and says since when and by whom."""
    change, begun, done = CHANGES[name]
    (msg_id,) = await bench.produce(1, partitions=2)
    await bench.drain(failing=(0,))
    if name in ("retry_now", "cancel"):
        await admin.redrive("orders", "billing")
        await fail(bench, 3600.0)
    if name == "cancel delayed":
        (msg_id,) = await bench.produce(1, delay=3600.0)
    before = len(await admin.history("orders", "billing"))
    made, allowed, make = 0, 0, Change.make

    async def dying(self: Change, step: Coroutine[Any, Any, Any]) -> Any:
        nonlocal made
        if made == allowed and self.intent is not None:
            await self.intent.begin()
            step.close()
            raise KilledError
        made += 1
        return await make(self, step)

    monkeypatch.setattr(Change, "make", dying)
    async with Admin(bench.url, namespace=bench.namespace, client="mara@ops-1") as mara:
        with pytest.raises(KilledError):
            await change(mara, msg_id)
        latest = (await admin.history("orders", "billing"))[0]
        assert (latest.what, latest.by, latest.unfinished, latest.began) == (begun, "mara@ops-1", True, None)
        made, allowed = 0, 1
        with contextlib.suppress(KilledError):
            await change(mara, msg_id)
            assert done is not None, "a deletion has several steps"
        notes = await admin.history("orders", "billing")
        assert [one for one in notes if one.what == begun], "what died before is still there"
        allowed = 1 << 20
        if done is None:
            await change(mara, msg_id)
            assert await admin.history("orders", "billing") == []
            return
        if notes[0].what == begun:
            await change(mara, msg_id)
            notes = await admin.history("orders", "billing")
    assert (notes[0].what, notes[0].by, notes[0].unfinished) == (done, "mara@ops-1", False)
    assert notes[0].began is not None
    assert notes[0].began <= notes[0].at
    assert notes[0].msg_id == (msg_id if name in ("purge", "cancel", "cancel delayed") else "")
    assert len([one for one in notes if one.what == done]) == 1
    assert len(notes) > before


async def test_what_changes_nothing_leaves_no_note(admin: Admin, bench: Bench) -> None:
    """What is refused, or finds nothing to do."""
    await bench.produce(1)
    await bench.drain()
    before = await admin.history("orders", "billing")
    assert await admin.redrive("orders", "billing") == await admin.purge("orders", "billing") == 0
    assert await admin.purge("orders", "billing", ["nothing"]) == await admin.retry_now("orders", "billing") == 0
    assert not await admin.cancel("orders", "nothing", "billing")
    assert not await admin.cancel("orders", "nothing")
    assert await admin.grow("orders", 2) == 2
    with pytest.raises(SettingsError):
        await admin.seek("orders", "billing", {7: "1-0"})
    assert await admin.history("orders", "billing") == before


async def test_many_calls_are_one_change_of_the_history(admin: Admin, bench: Bench) -> None:
    """Also if the block ends early."""
    await bench.produce(6)
    await bench.drain(failing=(0, 1, 2, 3, 4, 5))
    letters = [one async for one in admin.dead_letters("orders", "billing")]
    async with admin.redriving("orders", "billing") as redrive:
        assert [await redrive([letter]) for letter in letters[:3]] == [1, 1, 1]
    with anyio.CancelScope() as scope:
        async with admin.purging("orders", "billing") as purge:
            assert await purge(letters) == 3
            assert (await admin.history("orders", "billing"))[0].what == "purge begun"
            scope.cancel()
            await anyio.sleep_forever()
    async with admin.purging("orders", "billing") as purge:
        assert await purge() == 0
    assert [(one.what, one.count) for one in await admin.history("orders", "billing", count=2)] == [("purged", 3), ("redriven", 3)]


async def test_a_call_that_breaks_is_not_hidden(admin: Admin, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has deleted letters, and nobody knows how many."""
    await bench.produce(2)
    await bench.drain(failing=(0, 1))
    make = Change.make

    async def breaking(self: Change, step: Coroutine[Any, Any, Any]) -> Any:
        await make(self, step)
        raise KilledError

    monkeypatch.setattr(Change, "make", breaking)
    with pytest.raises(KilledError):
        async with admin.purging("orders", "billing") as purge:
            await purge()
    (latest,) = await admin.history("orders", "billing", count=1)
    assert (latest.what, latest.unfinished) == ("purge begun", True)


async def test_looking_at_some_partitions(admin: Admin, bench: Bench, member: str) -> None:
    await bench.produce(5)
    topic = await admin.topic("orders", partitions=[1])
    assert ([one.partition for one in topic.partitions], topic.partition_count, topic.groups) == ([1], 2, ("billing",))
    assert sum(one.added for one in (await admin.topic("orders")).partitions) == 5
    group = await admin.group("orders", "billing", partitions=[1])
    assert [(one.partition, one.owner_name) for one in group.partitions] == [(1, "one")]
    members_only = await admin.group("orders", "billing", partitions=())
    assert (members_only.partitions, len(members_only.members)) == ((), 2)
    (first, second) = await admin.partitions("orders", "billing", [1, 0])
    assert (first.partition, second.partition, first.added + second.added) == (1, 0, 5)
    (beyond,) = (await admin.group("orders", "billing", partitions=[2])).partitions
    assert (beyond.partition, beyond.length) == (2, 0)
    with pytest.raises(SettingsError, match="partition"):
        await admin.group("orders", "billing", partitions=[-1])
    del member


async def test_ages_are_by_the_clock_of_the_server(admin: Admin, bench: Bench) -> None:
    (before,) = await bench.produce(1, partitions=1)
    assert before
    await bench.drain(failing=(0,))
    await bench.produce(1, partitions=1, start=1)
    info = await admin.group("orders", "billing")
    (partition,) = info.partitions
    assert (partition.died, partition.added, partition.oldest_pending, partition.retry_due) == (1, 2, None, None)
    assert partition.oldest_unread is not None
    assert 0 <= partition.oldest_unread < 60
    assert partition.oldest == partition.oldest_unread
    assert partition.now <= info.now


async def test_a_group_at_work(admin: Admin, bench: Bench) -> None:
    """One handler runs; the answer tells whose it is."""
    await bench.produce(3, partitions=1)
    running, finish = anyio.Event(), anyio.Event()

    async def handle(message: Message[Any]) -> None:
        del message
        running.set()
        await finish.wait()

    async with bench.consumer(consumer_name="one", client="anna") as consumer, anyio.create_task_group() as tasks:

        async def run() -> None:
            await consumer.process(handle, until_empty=True)

        tasks.start_soon(run)
        with anyio.fail_after(30):
            await running.wait()
        info = await admin.group("orders", "billing")
        (partition,), (one,) = info.partitions, info.members
        assert (one.name, partition.owner_name, partition.owner) == ("one", "one", one.incarnation)
        assert (one.client, one.host, one.pid, one.version, one.ttl) == ("anna", socket.gethostname(), os.getpid(), VERSION, 12.0)
        assert one.since is not None
        assert abs(datetime.now(UTC) - one.since) < timedelta(minutes=1)
        assert one.heartbeat_age is not None
        assert 0 <= one.heartbeat_age < 12
        assert {0: partition.token} == consumer.assignment
        assert (partition.pending + partition.unread, partition.max_deliveries) == (3, 1)
        assert partition.pending == sum(partition.deliveries.values()) >= 1
        for call in (admin.delete_topic("orders"), admin.delete_group("orders", "billing"), admin.seek("orders", "billing", "latest")):
            with pytest.raises(GroupBusyError, match="live member") as refused:
                await call
            assert refused.value.members == (one.incarnation,)
        finish.set()
    info = await admin.group("orders", "billing")
    assert (info.pending, info.unread, info.members) == (0, 0, ())


# -- dead letters --------------------------------------------------------------------------------------------------------------------


async def test_dead_letters(admin: Admin, bench: Bench) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    ids = await bench.produce(3, partitions=1, partition_key="n", headers={"who": "me"})
    assert await bench.drain(failing=(1,)) == [0, 2]
    (one,) = await dead(admin)
    assert (one.topic, one.group, one.partition, one.msg_id, one.key, one.headers) == ("orders", "billing", 0, ids[1], "1", {"who": "me"})
    assert (one.payload, one.data, one.unreadable) == ({"n": 1}, b'{"n":1}', "")
    assert (one.error_type, one.error, one.attempts, one.life) == ("ValueError", "no 1", 1, 0)
    assert "ValueError: no 1" in one.traceback
    assert one.first_failed is not None
    assert one.last_failed is not None
    assert before <= one.first_failed <= one.last_failed <= one.died_at + timedelta(seconds=1)
    assert one.member
    assert one.entry_id
    (one,) = await dead(admin, deserializer=bytes.upper)
    assert one.payload == b'{"N":1}'
    (one,) = await dead(admin, deserializer=int)
    assert (one.payload, one.data, one.msg_id, one.key, one.headers) == (None, b'{"n":1}', ids[1], "1", {"who": "me"})
    assert one.unreadable.startswith("ValueError")
    assert (await admin.group("orders", "billing")).dead == 1


async def test_pages_of_dead_letters(admin: Admin, bench: Bench) -> None:
    """More than one page holds, and the iteration is in the order of dying."""
    await bench.produce(250, partitions=2)
    assert await bench.drain(failing=tuple(range(250))) == []
    letters = await dead(admin)
    assert sorted(one.payload["n"] for one in letters) == list(range(250))
    for partition in (0, 1):
        of_one = [one.died_at for one in letters if one.partition == partition]
        assert len(of_one) > 100
        assert of_one == sorted(of_one)
    newest = await dead(admin, newest=True)
    assert [one.died_at for one in newest] == sorted((one.died_at for one in letters), reverse=True)
    assert {(one.partition, one.dead_id) for one in newest} == {(one.partition, one.dead_id) for one in letters}
    for partition in (0, 1):
        assert [one for one in newest if one.partition == partition] == [one for one in letters if one.partition == partition][::-1]
    first = admin.dead_letters("orders", "billing", newest=True)
    assert await anext(first) == newest[0]
    assert await admin.purge("orders", "billing", newest[1:240]) == 239
    assert 0 < len([one async for one in first]) <= 249, "what is purged meanwhile may be known already"
    assert [one.dead_id for one in await dead(admin, newest=True)] == [newest[0].dead_id, *(one.dead_id for one in newest[240:])]
    assert await admin.redrive("orders", "billing") == 11
    assert await dead(admin, newest=True) == []


async def test_redriving_pages_of_dead_letters(admin: Admin, bench: Bench) -> None:
    await bench.produce(250, partitions=2)
    assert await bench.drain(failing=tuple(range(250))) == []
    assert await admin.redrive("orders", "billing") == 250
    assert (await admin.group("orders", "billing")).retry == 250
    assert await bench.drain() == list(range(250))
    assert await admin.redrive("orders", "billing") == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_pages_of_dead_letters_over_all_partitions(admin: Admin, bench: Bench) -> None:
    await bench.produce(9, partitions=2)
    await bench.drain(failing=tuple(range(9)))
    newest = [one.dead_id async for one in admin.dead_letters("orders", "billing", newest=True)]
    found: list[str] = []
    page = await admin.dead_page("orders", "billing", partitions=[0, 1, 5], count=2)
    while True:
        found += [one.dead_id for one in page.letters]
        assert page.looked == len(page.letters)
        if not page.older:
            break
        page = await admin.dead_page("orders", "billing", partitions=[0, 1, 5], count=2, before=page.older)
    assert found == newest
    (kind,) = {one.kind for one in page.letters}
    page = await admin.dead_page("orders", "billing", partitions=[0, 1], kind=kind, limit=3)
    assert (page.looked, page.older) == (len(page.letters), page.letters[-1].dead_id)
    page = await admin.dead_page("orders", "billing", partitions=[0, 1], kind="another", limit=3)
    assert (page.letters, 3 <= page.looked < 9, page.older) == ((), True, newest[page.looked - 1])
    assert (await admin.dead_page("orders", "nobody", partitions=[0])).letters == ()
    wrong: list[dict[str, Any]] = [{"before": "no id"}, {"count": 0}, {"limit": 0}]
    for one in wrong:
        with pytest.raises(SettingsError):
            await admin.dead_page("orders", "billing", partitions=[0], **one)


async def test_summaries_and_single_dead_letters(admin: Admin, bench: Bench) -> None:
    await bench.produce(6, partitions=2)
    await bench.drain(failing=tuple(range(6)))
    letters = {(one.partition, one.dead_id): one for one in await dead(admin)}
    found = await admin.dead_summaries("orders", "billing", partitions=[0, 1, 2])
    assert [one.died_at for one in found] == sorted((one.died_at for one in letters.values()), reverse=True)
    assert {(one.partition, one.dead_id): (one.msg_id, one.error_type, one.attempts) for one in found} == {
        place: (one.msg_id, one.error_type, one.attempts) for place, one in letters.items()
    }
    assert len({one.kind for one in found}) == 1
    assert found[0].where.endswith(" in handle")
    newest = await admin.dead_summaries("orders", "billing", partitions=[1], count=1)
    assert [one.partition for one in newest] == [1]
    letter = await admin.dead_letter("orders", "billing", 1, newest[0].dead_id)
    assert letter == letters[1, newest[0].dead_id]
    assert await admin.dead_letter("orders", "billing", 0, "1-1") is None
    assert await admin.redrive("orders", "billing", newest) == 1
    assert await admin.dead_letter("orders", "billing", 1, newest[0].dead_id) is None
    with pytest.raises(SettingsError):
        await admin.dead_letter("orders", "billing", 0, "no id")


async def test_redriving_some(admin: Admin, bench: Bench) -> None:
    ids = await bench.produce(220)
    await bench.drain(failing=tuple(range(220)))
    letters = {one.msg_id: one for one in await dead(admin)}
    assert await admin.redrive("orders", "billing", [ids[3], ids[219], "unknown", letters[ids[7]], letters[ids[8]]]) == 4
    assert await bench.drain(failing=(8,)) == [3, 7, 219]
    again = {one.msg_id: one for one in await dead(admin)}
    assert (len(again), again[ids[8]].life, again[ids[8]].attempts) == (217, 1, 1)
    assert await admin.redrive("orders", "billing", [letters[ids[8]]]) == 0, "that one is not there any more"
    assert await admin.redrive("orders", "billing", []) == 0
    assert await admin.purge("orders", "billing", [ids[8], letters[ids[9]]]) == 2
    assert await admin.purge("orders", "billing", []) == 0
    assert await admin.purge("orders", "billing") == 215
    assert await dead(admin) == []
    assert await bench.drain() == []


async def test_what_is_redriven_comes_in_the_order_of_dying_however_it_was_named(admin: Admin, bench: Bench) -> None:
    """Over more than one page, and with dead letters beside ids."""
    ids = await bench.produce(250, partitions=1)
    await bench.drain(failing=tuple(range(250)))
    letters = await dead(admin)
    seen: list[int] = []
    mixed: list[str | DeadMessage] = [letters[8], ids[9], ids[1], letters[2], letters[8]]

    async def handle(message: Message[Any]) -> None:
        seen.append(message.payload["n"])

    for named, expected in ((letters[:109:-1], list(range(110, 250))), (mixed, [1, 2, 8, 9])):
        assert await admin.redrive("orders", "billing", named) == len(expected)
        async with bench.consumer() as consumer:
            with anyio.fail_after(30):
                await consumer.process(handle, until_empty=True)
        assert seen == expected
        seen.clear()


async def test_bad_ids(admin: Admin, bench: Bench) -> None:
    ids = await bench.produce(1)
    await bench.drain(failing=(0,))
    (one,) = await dead(admin)
    assert await bench.drain() == []
    await bench.open_group("audit")
    bad: list[Any] = [ids[0], [3], [""]]
    for call in (admin.redrive, admin.purge):
        for value in bad:
            with pytest.raises(SettingsError):
                await call("orders", "billing", value)
        with pytest.raises(SettingsError, match="billing"):
            await call("orders", "audit", [one])
    assert len(await dead(admin)) == 1


# -- seeking -------------------------------------------------------------------------------------------------------------------------


async def test_seeking(admin: Admin, bench: Bench) -> None:
    await bench.produce(5)
    assert await bench.drain() == [0, 1, 2, 3, 4]
    await admin.seek("orders", "billing", "earliest")
    assert (await admin.group("orders", "billing")).unread == 5
    assert await bench.drain() == [0, 1, 2, 3, 4]
    await bench.produce(5, start=5)
    await admin.seek("orders", "billing", "latest")
    assert await bench.drain() == []


async def test_seeking_to_a_time_and_to_entries(admin: Admin, bench: Bench, url: str, namespace: str) -> None:
    del url, namespace
    await bench.produce(3, partitions=1)
    entries: list[Message[Any]] = []
    async with bench.consumer() as consumer:
        await consumer.process(entries.append, until_empty=True)
    await admin.seek("orders", "billing", {0: entries[1].entry_id})
    assert await bench.drain() == [1, 2], "the entry itself is the next"
    enqueued = entries[0].enqueued_at
    assert enqueued is not None
    await admin.seek("orders", "billing", enqueued)
    assert await bench.drain() == [0, 1, 2], "all of that millisecond and later"
    await admin.seek("orders", "billing", datetime.now(UTC) + timedelta(days=1))
    await bench.produce(1, partitions=1, start=9)
    assert await bench.drain() == [9], "the future is the end"
    await admin.seek("orders", "billing", datetime(1969, 1, 1, tzinfo=UTC))
    assert len(await bench.drain()) == 4


async def test_what_a_seek_would_do(admin: Admin, bench: Bench) -> None:
    await bench.produce(6)
    await bench.drain()
    await bench.produce(4, start=6)
    entries = [await admin.peek("orders", number, 100) for number in (0, 1)]
    middle = {number: found[len(found) // 2].entry_id for number, found in enumerate(entries)}

    async def preview(to: Any, **options: Any) -> tuple[int, int, int]:
        found = await admin.preview_seek("orders", "billing", to, **options)
        return sum(one.again for one in found), sum(one.skipped for one in found), sum(one.waiting for one in found)

    assert await preview("earliest") == (6, 0, 10)
    assert await preview("latest") == (0, 4, 0)
    assert await preview(datetime(2100, 1, 1, tzinfo=UTC)) == (0, 4, 0)
    assert await preview(datetime(2000, 1, 1, tzinfo=UTC)) == (6, 0, 10)
    (again, skipped, waiting) = await preview(middle)
    assert (await admin.preview_seek("orders", "billing", {0: middle[0]}))[0].partition == 0
    assert not all(one.complete for one in await admin.preview_seek("orders", "billing", datetime(2000, 1, 1, tzinfo=UTC), limit=3))
    assert (await admin.group("orders", "billing")).unread == 4
    await admin.seek("orders", "billing", middle)
    assert ((await admin.group("orders", "billing")).unread, 4 + again - skipped) == (waiting, waiting)
    with pytest.raises(SettingsError):
        await admin.preview_seek("orders", "billing", "nowhere")  # type: ignore[arg-type] # that is the test


async def test_seeking_nowhere(admin: Admin, bench: Bench) -> None:
    await bench.produce(1)
    await bench.open_group("billing")
    bad: list[Any] = ["", "first", 7, datetime(2026, 1, 1), {2: "0-0"}, {"0": "0-0"}, {0: "x"}, {0: "-1-0"}, {0: f"{1 << 64}-0"}, {0: 5}]  # noqa: DTZ001
    for to in bad:
        with pytest.raises(SettingsError):
            await admin.seek("orders", "billing", to)
    assert (await admin.group("orders", "billing")).unread == 1


async def test_seeking_in_a_paused_group(admin: Admin, bench: Bench, member: str) -> None:
    await bench.produce(2)
    with pytest.raises(GroupBusyError) as refused:
        await admin.seek("orders", "billing", "latest")
    assert refused.value.members == (member,)
    assert (await admin.group("orders", "billing")).unread == 2
    await admin.pause("orders", "billing")
    await admin.seek("orders", "billing", "latest")
    info = await admin.group("orders", "billing")
    assert (info.paused, info.unread) == (True, 0)
    await admin.resume("orders", "billing")
    assert not (await admin.group("orders", "billing")).paused


# -- deleting ------------------------------------------------------------------------------------------------------------------------


async def test_a_group_is_deleted_with_its_own(admin: Admin, bench: Bench, key_leaks: KeyLeaks) -> None:
    await bench.produce(4)
    await bench.drain(failing=(1,))
    await bench.open_group("audit")
    await admin.delete_group("orders", "billing")
    assert [name for name in key_leaks.left() if ":g:" in name] == []
    with pytest.raises(TopicMissingError):
        await admin.group("orders", "billing")
    info = await admin.topic("orders")
    assert (info.length, info.groups) == (4, ("audit",))
    assert await bench.drain() == [0, 1, 2, 3], "a new group of that name begins at the beginning"


async def test_what_an_older_administrator_left_of_a_group_is_deleted(admin: Admin, bench: Bench, key_leaks: KeyLeaks) -> None:
    """It knew of no history."""
    await bench.produce(1)
    broker = open_broker(bench.url, bench.namespace)
    await broker.do(Note(GroupName("orders", "billing"), Noted("paused")))
    assert await admin.history("orders", "billing")
    with pytest.raises(TopicMissingError):
        await admin.delete_group("orders", "billing")
    assert [name for name in key_leaks.left() if ":g:" in name] == []
    assert await admin.history("orders", "billing") == []
    await broker.close()


async def test_a_topic_is_deleted_and_nothing_is_left(admin: Admin, bench: Bench, key_leaks: KeyLeaks) -> None:
    await bench.produce(4)
    await bench.produce(2, delay=60.0)
    async with Producer("orders", bench.url, namespace=bench.namespace) as producer:
        await producer.enqueue({"n": 9}, dedup_id="mine")
    running = anyio.Event()

    async def handle(message: Message[Any]) -> None:
        if message.payload["n"] == 1:
            raise ValueError
        running.set()

    async with anyio.create_task_group() as tasks, bench.consumer() as consumer:
        tasks.start_soon(consumer.process, handle)
        with anyio.fail_after(30):
            await running.wait()
            while (await admin.group("orders", "billing")).dead < 1:
                await anyio.sleep(0.01)
        await consumer.stop()
    await admin.delete_topic("orders")
    assert await admin.topics() == []
    assert key_leaks.left() == []


async def test_force(admin: Admin, bench: Bench, member: str, key_leaks: KeyLeaks) -> None:
    await bench.produce(1)
    for call in (admin.delete_group("orders", "billing"), admin.delete_topic("orders")):
        with pytest.raises(GroupBusyError) as refused:
            await call
        assert refused.value.members == (member,)
    assert (await admin.group("orders", "billing")).members[0].incarnation == member, "nothing was deleted"
    await admin.delete_group("orders", "billing", force=True)
    with pytest.raises(TopicMissingError):
        await admin.group("orders", "billing")
    await admin.delete_topic("orders", force=True)
    assert key_leaks.left() == []


async def test_closing(url: str, namespace: str) -> None:
    admin = Admin(url, namespace=namespace)
    assert await admin.topics() == [], "the first call connects"
    await admin.close()
    await admin.close()
