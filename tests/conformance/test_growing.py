"""A topic grows: its streams are cut and renamed, and what belongs elsewhere is refused, looked for, waited for, or taken over (G, E6)."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import anyio
import msgspec
import pytest

from redisaq.brokers.growth import complete_announced, make_or_grow, publish_again, redrive, settle_growth
from redisaq.brokers.steps import Broker, Step
from redisaq.brokers.steps.administration import END, START, DropGroup, Seek, ViewPartition
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.growing import (
    Adopt,
    Announce,
    CloseBarrier,
    DropAdopted,
    DropTakenIn,
    NameStream,
    OpenBarrier,
    Passed,
    Publish,
    ReadBarrier,
    ReadPassed,
    ReadSeal,
    Replicate,
    ReplicateRun,
    SetSwept,
    TakeIn,
)
from redisaq.brokers.steps.leases import Claim, Install, Release, RemakeGroup
from redisaq.brokers.steps.messages import ListDelayed
from redisaq.brokers.steps.producing import SEALED, AppendOnce, Delay, Delayed, Find, ReadAnchor, ReadBacklog, ReadMark
from redisaq.brokers.steps.retention import ReadKeeping, Trim
from redisaq.brokers.steps.retrying import DeadLetterEntry, ReadDead, Redrive, TakeDue
from redisaq.brokers.steps.settling import Acknowledge, Resolve
from redisaq.brokers.steps.topics import RENAMED, MakeTopic, ReadTopic, TopicState
from redisaq.brokers.terms import GroupName
from redisaq.core.partitioner import partition_for
from redisaq.core.records import Body, Resolution
from redisaq.errors import ServerError
from tests.conformance.failures import HOUR, due, now, resolve
from tests.conformance.steps import append, deliver, ids, values
from tests.conformance.test_delays import hush, silent
from tests.conformance.worlds import MemoryWorld, RedisWorld, World

pytestmark = pytest.mark.anyio

SMALL, LARGE = (2,), (2, 5)


async def _old_append(broker: Broker, topic: str, partition: int, cuts: int = 0) -> bytes | None:
    """Append as a producer does that knows the topic as it was."""
    (entry,) = await broker.append(topic, [(partition, [b"i", b"late"])], maxlen=None, approximate=False, cuts=cuts)
    return entry


async def test_a_cut_stream_refuses_what_was_placed_before(a: Broker, b: Broker) -> None:
    await a.do(MakeTopic("orders", 2))
    (entry,) = await append(a, "orders", 0, b"1")
    assert await b.do(NameStream("orders", 0, LARGE)) == LARGE
    assert await _old_append(a, "orders", 0) is None, "also from now on"
    assert await _old_append(a, "orders", 1) is not None, "this one is not cut yet"
    assert await _old_append(b, "orders", 0, cuts=1) is not None
    assert await b.do(ReadSeal("orders", 0, 0)) == LARGE
    assert await b.do(ReadSeal("orders", 1, 0)) == ()
    assert (await a.do(Find("orders", 0, entry, [b"late"]))).present != (None,), "E6: it is looked for where it was sent"


async def test_the_steps_in_order(a: Broker, b: Broker) -> None:
    await a.do(MakeTopic("orders", 2))
    announced = await a.do(Announce("orders", 0, 5))
    assert announced == TopicState(0, 2, pending=5)
    assert await b.do(Announce("orders", 0, 9)) == announced, "the first counts"
    assert await b.do(Announce("orders", 1, 9)) == announced, "of another generation"
    for partition in (2, 3, 4, 0, 1):
        assert await a.do(NameStream("orders", partition, LARGE)) == LARGE
    assert await a.do(Replicate("orders", 2, 1.0))
    published = await a.do(Publish("orders", 0, LARGE))
    assert published is not None
    assert published.grown
    assert published == TopicState(1, 5, format=RENAMED, history=LARGE, grown=published.grown)
    assert await b.do(ReadTopic("orders")) == published
    assert await b.do(Publish("orders", 0, (2, 9))) == published, "a late grower harms nothing"
    assert await b.do(NameStream("orders", 0, (2, 9))) == LARGE
    assert await b.do(Announce("orders", 0, 9)) == published


async def test_no_such_topic_grows(a: Broker) -> None:
    assert await a.do(Announce("orders", 0, 5)) is None
    assert await a.do(Publish("orders", 0, LARGE)) is None
    assert await settle_growth(a, "orders") is None


@pytest.mark.parametrize("done", range(6))
async def test_who_meets_a_seal_completes_the_growth(a: Broker, b: Broker, done: int) -> None:
    """G3, however far the grower came; before the first cut, nobody meets one."""
    await a.do(MakeTopic("orders", 2))
    await append(a, "orders", 1, b"1")
    await a.do(Announce("orders", 0, 5))
    for partition in (2, 3, 4, 0, 1)[:done]:
        await a.do(NameStream("orders", partition, LARGE))
    state = await settle_growth(b, "orders")
    assert state is not None
    if done <= 3:
        assert state.pending == 5
        await complete_announced(b, "orders", state)
        state = await b.do(ReadTopic("orders"))
    assert state is not None
    assert (state.partitions, state.history, state.pending) == (5, LARGE, None)
    for partition in range(5):
        await append(a, "orders", partition, b"2")
    again = await make_or_grow(a, "orders", 5)
    assert again == state


async def test_the_greatest_count_in_a_seal_is_published(a: Broker, b: Broker) -> None:
    """Two growers whose announcements were lost have cut a stream each."""
    await a.do(MakeTopic("orders", 2))
    await a.do(NameStream("orders", 0, LARGE))
    await b.do(NameStream("orders", 1, (2, 8)))
    assert (await make_or_grow(a, "orders", 3)).history == (2, 8)
    await append(b, "orders", 7, b"1")


async def test_another_number_that_was_announced_comes_first(a: Broker) -> None:
    await a.do(MakeTopic("orders", 2))
    await a.do(Announce("orders", 0, 3))
    state = await make_or_grow(a, "orders", 5)
    assert (state.generation, state.history) == (2, (2, 3, 5))
    assert (await make_or_grow(a, "orders", 4)) == state


async def test_who_finds_the_older_name_makes_a_lost_cut(world: World, a: Broker, b: Broker, group: GroupName) -> None:
    """A failover lost the renaming of one stream, but not the count: nothing of it is lost, and no empty stream takes its place."""
    await a.do(MakeTopic(group.topic, 1))
    await make_groups(a, group, [0], latest=False)
    await append(a, group.topic, 0, b"1")
    # The count without the cut:
    await a.do(Publish(group.topic, 0, (1, 2)))
    assert await _old_append(a, group.topic, 0, cuts=1) is None, "there is no stream of that name yet"
    await a.do(RemakeGroup(group, 0, b""))
    await a.do(Install(group, 0, 1, "A", foreign=True))
    assert len(await deliver(a, group, 0, 1, "A")) == 1
    assert world.length(group.topic, 0) == 1
    await make_groups(b, group, [1], latest=False)
    assert (await b.do(ReadPassed(group, 0, 1))).done is False, "pending"


async def test_nothing_is_renamed_onto_messages(world: World, a: Broker) -> None:
    """G2: a failover lost a cut, and something made the stream again: that is replaced if it is empty."""
    if not isinstance(world, RedisWorld):
        return
    await make_or_grow(a, "orders", 1)
    await append(a, "orders", 0, b"1")
    await make_or_grow(a, "orders", 2)
    old, present = (world.key("orders", 0, name) for name in "01")
    world.command("RENAME", present, old)
    world.command("XGROUP", "CREATE", present, "somebody", "$", "MKSTREAM")
    assert await a.do(NameStream("orders", 0, (1, 2))) == (1, 2)
    assert world.length("orders", 0) == 1
    world.command("DEL", old)
    world.command("XADD", old, "*", "i", "2")
    with pytest.raises(ServerError, match=f"the keys {re.escape(old)} and {re.escape(present)} are both streams of one partition"):
        await a.do(NameStream("orders", 0, (1, 2)))
    assert world.length("orders", 0) == 1


async def test_a_meta_that_was_lost_is_made_again_as_it_was(world: World, a: Broker) -> None:
    """No name is used twice, since its maker remembers the history."""
    known = await make_or_grow(a, "orders", 2)
    known = await make_or_grow(a, "orders", 5)
    world.forget_topic("orders")
    made = await a.do(MakeTopic("orders", 2, known=known))
    assert (made.generation, made.partitions, made.history) == (1, 5, LARGE)
    await append(a, "orders", 4, b"1")


@pytest.mark.parametrize(("left", "history"), [((2,), (2, 5, 8)), ((2, 5), (2, 5, 8)), ((2, 6), (2, 6, 8)), ((2, 5, 9), (2, 5, 9))])
async def test_what_a_server_has_forgotten_is_published_again(
    world: World, a: Broker, b: Broker, left: tuple[int, ...], history: tuple[int, ...]
) -> None:
    """G9: a failover forgot two growths, or one, or another grower has made other ones since."""
    for count in (2, 5):
        await make_or_grow(a, "orders", count)
    known = await make_or_grow(a, "orders", 8)
    world.forget_topic("orders")
    for partition in range(8):
        world.forget_partition("orders", partition)
    forgetful = msgspec.structs.replace(known, generation=len(left) - 1, partitions=left[-1], history=left if len(left) > 1 else ())
    assert (await b.do(MakeTopic("orders", 2, known=forgetful))).history == forgetful.history
    state = await publish_again(a, "orders", known)
    assert state is not None
    assert (state.history, state.partitions, state.generation) == (history, history[-1], 2)
    assert await publish_again(b, "orders", known) == state
    for partition in range(8):
        assert await _old_append(b, "orders", partition, cuts=2) is not None
        assert await _old_append(b, "orders", partition, cuts=1) is None


async def test_a_seal_of_a_partition_that_the_meta_has_forgotten_completes_the_growth(world: World, a: Broker, group: GroupName) -> None:
    """G3, G9: an owner goes on at a new partition, and the server has forgotten the cuts and the count."""
    known = await make_or_grow(a, group.topic, 2)
    await make_or_grow(a, group.topic, 5)
    world.forget_topic(group.topic)
    for partition in range(2):
        world.forget_partition(group.topic, partition)
    await a.do(MakeTopic(group.topic, 2, known=known))
    if isinstance(world, MemoryWorld):
        await settle_growth(a, group.topic, 4)  # what a step at a server does that meets the seal
    await a.do(RemakeGroup(group, 4, b""))
    state = await a.do(ReadTopic(group.topic))
    assert state is not None
    assert state.history == LARGE


@pytest.mark.parametrize(("count", "history"), [(1, (2, 5, 6)), (5, (2, 5, 6)), (6, (2, 5, 6)), (8, (2, 5, 6, 8))])
async def test_a_meta_that_nobody_remembers_follows_the_seals(
    world: World, a: Broker, b: Broker, count: int, history: tuple[int, ...]
) -> None:
    await make_or_grow(a, "orders", 2)
    await make_or_grow(a, "orders", 5)
    await make_or_grow(a, "orders", 6)
    world.forget_topic("orders")
    await b.do(MakeTopic("orders", count))
    with anyio.fail_after(10):
        state = await settle_growth(b, "orders")
    assert state is not None
    assert (state.history, state.partitions) == (history, history[-1])
    for partition in range(state.partitions):
        await append(b, "orders", partition, b"1")


async def test_new_streams_after_a_loss_stand_under_the_present_name(world: World, a: Broker, group: GroupName) -> None:
    known = await make_or_grow(a, group.topic, 2)
    known = await make_or_grow(a, group.topic, 5)
    world.forget_partition(group.topic, 0)
    await a.do(MakeTopic(group.topic, 2, known=known))
    assert await _old_append(a, group.topic, 0) is None, "the older name is sealed, too"
    await make_groups(a, group, [0], latest=False)
    assert (await a.do(ReadPassed(group, 0, 1))).done, "its cut is at its beginning"


async def test_consumers_of_an_old_stream_go_on(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """Entries, group, pending entries and positions are where they were; steps, and readers, find the new name."""
    sent = await append(a, group.topic, 0, b"1", b"2", b"3")
    reader = await a.open_reader(group, 0, owned, "A")
    first = await reader.read(1, 0)
    await make_or_grow(b, group.topic, 5)
    found = list(first)
    for _ in range(3):
        found += await reader.read(10, 0)
    assert ids(found) == sent
    await reader.close()
    assert (await a.do(Acknowledge(group, 0, owned, [sent[0]]))).done
    page = await a.do(Claim(group, 0, owned, after=b"", count=10))
    assert values(page.entries) == [b"2", b"3"]
    await append(b, group.topic, 0, b"4")
    other = await a.open_reader(group, 0, owned, "A")
    assert values(await other.read(10, 0)) == [b"4"]


async def test_many_steps_at_once_find_the_new_name(world: World, a: Broker, b: Broker) -> None:
    await a.do(MakeTopic("orders", 3))
    for partition in range(3):
        await append(a, "orders", partition, b"1")
    await b.do(NameStream("orders", 1, (3, 4)))  # and the grower dies
    anchors = await a.do_each([ReadAnchor("orders", partition) for partition in range(3)])
    assert all(anchor not in (None, b"0-0") for anchor in anchors)
    state = await b.do(ReadTopic("orders"))
    assert state is not None
    assert state.history == (() if isinstance(world, MemoryWorld) else (3, 4)), "where streams have names, the step has completed it"


async def test_passed(a: Broker, group: GroupName, owned: int) -> None:
    """G5: delivered up to the cut, nothing pending there, nothing to be tried again; what comes later does not count."""
    assert await a.do(ReadPassed(group, 0, 1)) == Passed(done=False, waiting=0, oldest=b""), "it is not cut yet"
    one, two, three = await append(a, group.topic, 0, b"1", b"2", b"3")
    await make_or_grow(a, group.topic, 5)
    await append(a, group.topic, 0, b"later")
    assert await a.do(ReadPassed(group, 0, 1, 10)) == Passed(done=False, waiting=3, oldest=one)
    await deliver(a, group, 0, owned, "A", count=3)
    assert await a.do(ReadPassed(group, 0, 1, 10)) == Passed(done=False, waiting=3, oldest=one)
    assert await a.do(ReadPassed(group, 0, 1)) == Passed(done=False, waiting=1, oldest=one)
    await a.do(Acknowledge(group, 0, owned, [one, two]))
    kept = Resolution("stream", "retry", Body(three, (b"i", b"3"), attempt=1), due=1 << 60)
    await a.do(Resolve(group, 0, owned, [kept], dead_maxlen=None))
    assert await a.do(ReadPassed(group, 0, 1, 10)) == Passed(done=False, waiting=1, oldest=three)
    assert await a.do(ReadPassed(group, 0, 1, known=three)) == Passed(done=False, waiting=1, oldest=three)
    done = Resolution("retry", "done", Body(three, (b"i", b"3"), attempt=1))
    await a.do(Resolve(group, 0, owned, [done], dead_maxlen=None))
    assert (await a.do(ReadPassed(group, 0, 1, known=three))).done
    stranger = GroupName(group.topic, "stranger")
    assert (await a.do(ReadPassed(stranger, 0, 1))).done is False, "a group that is not there has worked off nothing"
    await make_groups(a, stranger, [0], latest=True)
    assert (await a.do(ReadPassed(stranger, 0, 1))).done, "G6: it begins behind the cut"


async def test_a_retry_from_before_the_cut_is_found_behind_many_later_ones(a: Broker, group: GroupName, owned: int) -> None:
    """G5: they are looked through in pages, those that are due last first."""
    (first,) = await append(a, group.topic, 0, b"first")
    await make_or_grow(a, group.topic, 5)
    await append(a, group.topic, 0, *[b"%d" % number for number in range(500)])
    coming = await now(a, group) + HOUR
    found = await deliver(a, group, 0, owned, "A")
    kept = [Resolution("stream", "retry", Body(one, (b"i", b"1"), attempt=1), due=coming + place) for place, one in enumerate(found)]
    assert await resolve(a, group, owned, *kept) == [True] * 501
    assert await a.do(ReadPassed(group, 0, 1)) == Passed(done=False, waiting=1, oldest=first)
    assert (await a.do(ReadPassed(group, 0, 1, 10))) == Passed(done=False, waiting=1, oldest=first)


async def test_of_retries_from_before_the_cut_no_more_are_counted_than_was_asked_for(a: Broker, group: GroupName, owned: int) -> None:
    first, *_ = await append(a, group.topic, 0, b"1", b"2", b"3")
    await make_or_grow(a, group.topic, 5)
    found = await deliver(a, group, 0, owned, "A")
    kept = [Resolution("stream", "retry", Body(one, (b"i", b"1"), attempt=1), due=9 - place) for place, one in enumerate(found)]
    assert await resolve(a, group, owned, *kept) == [True] * 3
    assert (await a.do(ReadPassed(group, 0, 1, 2))).waiting == 2
    assert await a.do(ReadPassed(group, 0, 1, 3)) == Passed(done=False, waiting=3, oldest=first)


async def test_an_announcement_that_is_over_makes_room_for_the_next(world: World, a: Broker) -> None:
    """G1: a version that announces nothing has published as many."""
    await a.do(MakeTopic("orders", 2))
    await a.do(Announce("orders", 0, 5))
    if isinstance(world, RedisWorld):
        world.command("HSET", world.topic_key("orders", "meta"), "partitions", 5)
        assert await a.do(Announce("orders", 0, 5)) == await a.do(ReadTopic("orders"))
        announced = await a.do(Announce("orders", 0, 9))
        assert announced is not None
        assert (announced.partitions, announced.pending) == (5, 9)


async def test_a_later_cut_stands_for_one_that_was_lost(a: Broker, group: GroupName, owned: int) -> None:
    await append(a, group.topic, 0, b"1")
    for partition in range(5):
        await a.do(NameStream(group.topic, partition, (3, 4, 5)))
    await a.do(Publish(group.topic, 0, (3, 4, 5)))
    assert (await a.do(ReadPassed(group, 0, 1))).done is False
    (entry,) = await deliver(a, group, 0, owned, "A")
    await a.do(Acknowledge(group, 0, owned, [entry]))
    assert (await a.do(ReadPassed(group, 0, 1))).done
    assert (await a.do(ReadPassed(group, 0, 2))).done


async def test_the_barrier(a: Broker, group: GroupName, owned: int) -> None:
    """G4: what was opened stays open for the next owner, until a seek, or the end of the group."""
    assert await a.do(OpenBarrier(group, 0, owned, 2))
    assert not await a.do(OpenBarrier(group, 0, owned + 1, 3))
    assert await a.do(ReadBarrier(group, 0)) == 2
    await a.do(Release(group, 0, owned))
    assert (await a.do(Install(group, 0, owned + 1, "B", foreign=False))).opened == 2
    assert (await a.do(Install(group, 0, owned, "A", foreign=False))).opened == 2, "a refused one says so, too"
    await a.do(CloseBarrier(group, 0))
    assert await a.do(ReadBarrier(group, 0)) == 0
    assert await a.do(OpenBarrier(group, 0, owned + 1, 1))
    await a.do(DropGroup(group, 0))
    assert await a.do(ReadBarrier(group, 0)) == 0


async def test_room_and_trimming_after_a_cut(world: World, a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """Steps of a client that knows the old name find the new one; what is refused trims nothing; a cut that is trimmed away still holds."""
    sent = await append(a, group.topic, 0, *[b"%d" % number for number in range(6)])
    await make_or_grow(b, group.topic, 5)
    assert await a.do(ReadBacklog(group.topic, 0, enough=10)) == 6

    async def one_more(broker: Broker, cuts: int) -> bytes | None:
        (entry,) = await broker.append(group.topic, [(0, [b"i", b"7"])], maxlen=2, approximate=False, cuts=cuts)
        return entry

    assert await one_more(a, 0) is None
    assert world.length(group.topic, 0) == 6
    keeping = msgspec.structs.replace(await a.do(ReadKeeping(group)), kept_for=0.0)
    trim = Trim(group.topic, 0, msgspec.structs.replace(keeping, now=keeping.now + 60_000_000), [group.group])
    assert (await a.do(trim)).removed == 0, "nothing is settled"
    await deliver(a, group, 0, owned, "A", count=3)
    await a.do(Acknowledge(group, 0, owned, sent[:3]))
    await anyio.sleep(0.003)  # an entry of this very millisecond is young
    assert (await a.do(trim)).removed == 2, "the last delivered one stays"
    assert (await a.do(ReadPassed(group, 0, 1, 10))) == Passed(done=False, waiting=3, oldest=sent[3])
    assert await one_more(b, 1) is not None
    assert await one_more(b, 1) is not None
    assert world.length(group.topic, 0) == 2
    assert (await a.do(ReadPassed(group, 0, 1))).done, "all up to the cut is gone"


async def test_seek_finds_the_new_name(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    await append(a, group.topic, 0, b"1", b"2")
    await deliver(a, group, 0, owned, "A")
    await make_or_grow(b, group.topic, 5)
    for position, count in ((START, 2), (END, 0)):
        await a.do(Seek(group, 0, position))
        spent = await a.do(Install(group, 0, owned, "A", foreign=False))  # S5
        assert (await a.do(Install(group, 0, spent.token, "A", foreign=False))).done
        assert len(await deliver(a, group, 0, spent.token, "A")) == count


async def test_delayed_messages_wait_for_a_sweep(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """G8: after a growth nothing moves unseen; what belongs elsewhere is adopted once, however often that is said."""
    late = [Delayed(0, b"%d" % number, 1, [b"i", b"%d" % number]) for number in range(3)]
    assert await a.do(Delay(group.topic, 0, late))
    await make_or_grow(b, group.topic, 5)
    assert await a.do(Delay(group.topic, 0, late)) is False, "placed before the growth"
    due = await a.do(TakeDue(group, 0, owned, count=10))
    assert (due.unswept, due.moved) == (True, 0)
    page = await a.do(ListDelayed(group.topic, 0, None, 10))
    rows = [(row.id, row.score, row.body or b"") for row in page.rows]
    for _ in range(2):
        there = await a.do(Adopt(group.topic, 4, 0, rows, 1))
        assert there is not None
        await make_groups(a, group, [4], latest=False)
        assert await a.do(SetSwept(group.topic, 4, 1, there))
        await a.do(Install(group, 4, 1, "A", foreign=True))
        moved = await a.do(TakeDue(group, 4, 1, count=10))
        assert moved.moved in (3, 0)
    assert len(await deliver(a, group, 4, 1, "A")) == 3
    run = await a.do(Adopt(group.topic, 0, 0, (), 1))
    assert run is not None
    assert await a.do(Adopt(group.topic, 0, 0, (), 0)) is None
    assert not await a.do(SetSwept(group.topic, 0, 1, "another"))
    assert (await a.do(TakeDue(group, 0, owned, count=10))).unswept
    assert await a.do(SetSwept(group.topic, 0, 1, run))
    due = await a.do(TakeDue(group, 0, owned, count=10))
    assert (due.unswept, due.moved) == (False, 3)


async def test_adopted_messages_ring_if_one_is_due_before_all_others(
    world: World, a: Broker, b: Broker, group: GroupName, owned: int
) -> None:
    """G8: the owner sleeps until what is due first. What was adopted before changes nothing, and its mark expires."""
    coming = await now(a, group) + HOUR
    bell = await a.listen_partition(group.topic, 0)
    await hush(bell)
    for name, when, rings in ((b"1", coming, True), (b"2", coming + 1, False), (b"1", coming - 2, False), (b"3", coming - 1, True)):
        assert await b.do(Adopt(group.topic, 0, 1, [(name, b"%d" % when, b"body")], 0))
        if rings:
            with anyio.fail_after(30):
                await bell.wait()
        assert await silent(bell), (name, when)
    assert (await due(a, group, owned)).next_due == coming - 1
    if isinstance(world, RedisWorld):
        assert 0 < world.command("PTTL", world.key(group.topic, 0, "adopted")) <= 7 * 86_400_000


async def test_dead_letters_from_elsewhere_come_in_order_and_each_once(
    world: World, a: Broker, b: Broker, group: GroupName, owned: int
) -> None:
    """G8: due now, behind those of earlier calls whatever the clock says, as redriven ones are. The owner hears of them."""
    bodies = [Body(b"%d-%d" % (number, 1 << 40), (b"i", b"%d" % number)) for number in (3, 1, 2, 4)]
    letters = [(b"%d-0" % number, body) for number, body in enumerate(bodies)]
    bell = await a.listen_partition(group.topic, 0)
    await hush(bell)
    assert await b.do(TakeIn(group, 0, 1, letters[:2], 0))
    if isinstance(world, RedisWorld):
        assert 0 < world.command("PTTL", world.key(group.topic, 0, "adopted")) <= 7 * 86_400_000
    with anyio.fail_after(30):
        await bell.wait()
    assert (await due(a, group, owned)).retries == (*bodies[:2],)

    def set_last(when: int) -> None:
        if isinstance(world, RedisWorld):
            world.command("HSET", world.key(group.topic, 0, f"g:{group.group}:lease"), "redriven", when)
        elif isinstance(world, MemoryWorld):
            world.store.shelf(group, 0).redriven = when

    ahead = await now(a, group) + HOUR // 2
    set_last(ahead)
    await hush(bell)
    assert await b.do(TakeIn(group, 0, 1, letters[:1], 0))
    assert await silent(bell)
    assert await b.do(TakeIn(group, 0, 1, letters[:3], 0))
    found = await due(a, group, owned)
    assert (found.retries, found.next_due) == ((*bodies[:2],), ahead + 1)
    assert (await b.do(ViewPartition(group, 0))).redriven == 3
    if isinstance(world, RedisWorld):
        set_last(ahead + HOUR)  # redisaq did not write that
        assert await b.do(TakeIn(group, 0, 1, letters[3:], 0))
        assert (await due(a, group, owned)).retries == (*bodies[:2], bodies[3])


async def test_what_was_placed_before_one_more_growth_is_not_taken_over(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """G8: the sweep, or redrive, places it again."""
    (one,) = await append(a, group.topic, 0, b"1")
    state = await make_or_grow(a, group.topic, 5)
    (one,) = await deliver(a, group, 0, owned, "A")
    await a.do(Resolve(group, 0, owned, [Resolution("stream", "dead", Body(one, (b"i", b"1", b"k", b"c")))], dead_maxlen=None))
    await make_or_grow(b, group.topic, 64)
    assert await a.do(Adopt(group.topic, 4, 0, [(b"m", b"1", b"")], state.cuts)) is None
    assert await a.do(TakeIn(group, 4, 0, [(b"1-0", Body(b"7-%d" % (1 << 40), (b"i", b"m")))], state.cuts)) is None
    assert (await a.do(ListDelayed(group.topic, 4, None, 10))).rows == ()
    place, former = partition_for(b"c", 64), partition_for(b"c", 5)
    assert len({place, former, 0}) == 3
    assert await redrive(a, group, 0, None, 10, state=state) == 1
    await a.do(Install(group, place, 1, "A", foreign=True))
    assert len((await a.do(TakeDue(group, place, 1, count=10))).retries) == 1


async def _dead_letter(broker: Broker, group: GroupName, owned: int, key: bytes) -> None:
    """Let a message with this key die in partition 0."""
    await append(broker, group.topic, 0, b"1")
    (one,) = await deliver(broker, group, 0, owned, "A")
    letter = Resolution("stream", "dead", Body(one, (b"i", b"1", b"k", key)))
    await broker.do(Resolve(group, 0, owned, [letter], dead_maxlen=None))


async def test_what_moves_is_dropped_by_the_run_that_has_it_elsewhere_and_by_no_other(
    a: Broker, b: Broker, group: GroupName, owned: int
) -> None:
    """G8: another one may have forgotten that it took it in."""
    await _dead_letter(a, group, owned, b"c")
    assert await a.do(Delay(group.topic, 0, [Delayed(0, b"%d" % number, 1 << 50, [b"i", b"%d" % number]) for number in range(3)]))
    state = await make_or_grow(b, group.topic, 64)
    rows = [(row.id, row.score, row.body or b"") for row in (await a.do(ListDelayed(group.topic, 0, None, 10))).rows]
    (letter,) = await a.do(ReadDead(group, 0, b"", 10))
    taken_in = TakeIn(group, 0, 4, [(b"1-0", Body(b"7-%d" % (1 << 40), (b"i", b"m")))], state.cuts)
    run = await a.do(Adopt(group.topic, 0, 4, rows[:1], state.cuts))
    assert run == await b.do(taken_in), "one server"
    assert run is not None
    assert await b.do(DropAdopted(group.topic, 0, [b"0"], "another")) is None
    assert await b.do(DropTakenIn(group, 0, [letter.dead_id], "another")) is None
    assert len((await a.do(ListDelayed(group.topic, 0, None, 10))).rows) == 3
    assert await b.do(DropAdopted(group.topic, 0, [b"0", b"9"], run)) == 1
    assert await b.do(DropAdopted(group.topic, 0, [b"0", b"1"], "")) == 1
    assert [row.id for row in (await a.do(ListDelayed(group.topic, 0, None, 10))).rows] == [b"2"]
    assert await b.do(DropTakenIn(group, 0, [letter.dead_id, b"1-1"], run)) == 1
    assert await b.do(DropTakenIn(group, 0, [letter.dead_id], "")) == 0
    assert await b.do(ReplicateRun(group.topic, 0, run, 0.1))
    assert not await b.do(ReplicateRun(group.topic, 0, "another", 0.1))


class Dies(Exception):
    """The process ends."""


class Dying:
    """A broker of a process that ends before or after a step: before the first, after it, before the second, ..."""

    def __init__(self, broker: Broker, moment: int) -> None:
        """End at this moment, counted from 1."""
        self._broker = broker
        self._left = moment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def _live(self) -> None:
        self._left -= 1
        if not self._left:
            raise Dies

    async def do(self, step: Step[Any]) -> Any:
        """Do one step, or end."""
        self._live()
        answer = await self._broker.do(step)
        self._live()
        return answer


async def test_a_redrive_that_ends_before_or_after_any_step_is_repeated(a: Broker, group: GroupName, owned: int) -> None:
    """G8: the next caller completes it. What was already put elsewhere is there once."""
    state = await make_or_grow(a, group.topic, 64)
    place, moment = partition_for(b"c", 64), 0
    await a.do(Install(group, place, 1, "A", foreign=True))
    while True:
        moment += 1
        await _dead_letter(a, group, owned, b"c")
        with contextlib.suppress(Dies):
            dying: Any = Dying(a, moment)
            assert await redrive(dying, group, 0, None, 10, state=state) == 1
            break
        assert await redrive(a, group, 0, None, 10, state=state) <= 1
        assert await a.do(ReadDead(group, 0, b"", 10)) == []
        (retry,) = (await a.do(TakeDue(group, place, 1, count=10))).retries
        await a.do(Resolve(group, place, 1, [Resolution("retry", "done", retry)], dead_maxlen=None))
    assert moment > 6, "it reads, puts and drops"


async def test_who_redrives_late_finds_what_others_have_redriven_before_one_more_growth(
    a: Broker, b: Broker, group: GroupName, owned: int
) -> None:
    """G8: what is placed again is read again, since its mark is where it belonged before."""
    await _dead_letter(a, group, owned, b"c")
    state = await make_or_grow(a, group.topic, 5)
    assert await redrive(a, group, 0, None, 10, state=state) == 1
    (letter,) = [Body(b"7-7", (b"i", b"1", b"k", b"c"), life=1)]
    await make_or_grow(b, group.topic, 64)

    class Late:
        """One that had read the letter before, and stopped then."""

        def __getattr__(self, name: str) -> Any:
            return getattr(a, name)

        async def do(self, step: Step[Any]) -> Any:
            return [DeadLetterEntry(b"1-1", letter)] if isinstance(step, ReadDead) else await a.do(step)

    late: Any = Late()
    assert await redrive(late, group, 0, None, 1, state=state) == 0
    place = partition_for(b"c", 64)
    await a.do(Install(group, place, 1, "A", foreign=True))
    assert (await a.do(TakeDue(group, place, 1, count=10))).retries == ()


async def test_what_was_redriven_from_elsewhere_is_waited_for(a: Broker, group: GroupName, owned: int) -> None:
    """G5: its key may have moved on by the next growth, so two of that key would run at once."""
    await make_or_grow(a, group.topic, 5)
    await make_groups(a, group, [3], latest=False)
    elsewhere = Body(b"7-%d" % (1 << 40), (b"i", b"m"))
    assert await a.do(TakeIn(group, 3, 0, [(b"1-0", elsewhere)], 1))
    await make_or_grow(a, group.topic, 8)
    assert await a.do(ReadPassed(group, 3, 2)) == Passed(done=False, waiting=1, oldest=elsewhere.entry_id)


@pytest.mark.parametrize("before", [1, 5])
async def test_what_would_have_stayed_is_redriven_to_where_it_belongs_by_now(
    a: Broker, b: Broker, group: GroupName, owned: int, before: int
) -> None:
    """G8: the topic grows for the first time, or once more, between a look at it and the redriving."""
    key = next(b"%d" % number for number in range(100) if partition_for(b"%d" % number, 5) == 0 != partition_for(b"%d" % number, 64))
    (one,) = await append(a, group.topic, 0, b"1")
    await deliver(a, group, 0, owned, "A")
    await a.do(Resolve(group, 0, owned, [Resolution("stream", "dead", Body(one, (b"i", b"1", b"k", key)))], dead_maxlen=None))
    state = await make_or_grow(a, group.topic, before)
    await make_or_grow(b, group.topic, 64)
    (letter,) = await a.do(ReadDead(group, 0, b"", 10))
    assert await a.do(Redrive(group, 0, [(letter.dead_id, letter.body)], state.cuts)) is None
    assert await redrive(a, group, 0, None, 10, state=state) == 1
    place = partition_for(key, 64)
    await a.do(Install(group, place, 1, "A", foreign=True))
    assert len((await a.do(TakeDue(group, place, 1, count=10))).retries) == 1
    assert await a.do(ReadDead(group, 0, b"", 10)) == []


async def test_a_mark_at_the_old_place(a: Broker, b: Broker) -> None:
    """E7 over a growth: the mark answers for the message that set it; the place takes no other one."""
    await a.do(MakeTopic("orders", 2))

    def once(name: bytes, cuts: int = 0, due: int | None = None) -> AppendOnce:
        return AppendOnce("orders", 0, [b"i", name], "x" + name.decode(), 60.0, due, None, approximate=False, cuts=cuts)

    assert await a.do(once(b"1")) == b"1"
    assert await a.do(once(b"2", due=1 << 60)) == b"2"
    await make_or_grow(b, "orders", 5)
    assert await a.do(once(b"1")) == b"1"
    assert await a.do(once(b"3")) == SEALED
    assert await a.do(once(b"4", due=1 << 60)) == SEALED
    assert await a.do(once(b"3", cuts=1)) == b"3"
    assert await a.do(ReadMark("orders", 0, "x1")) == b"1"
    assert await a.do(ReadMark("orders", 0, "x4")) is None


async def test_each_seal_tells_what_the_topic_grew_to_just_then(a: Broker) -> None:
    await a.do(MakeTopic("orders", 2))
    await a.do(NameStream("orders", 0, (2, 5, 9)))
    assert [await a.do(ReadSeal("orders", 0, cuts)) for cuts in range(3)] == [(2, 5), (2, 5, 9), ()]
