"""Topics, their streams, and appending to them (E5, G1)."""

from __future__ import annotations

import anyio
import pytest

from redisaq.brokers.growth import make_or_grow
from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.administration import DropTopic
from redisaq.brokers.steps.coordination import Heartbeat, make_groups
from redisaq.brokers.steps.growing import Announce
from redisaq.brokers.steps.leases import Claim, Install
from redisaq.brokers.steps.settling import ReadRemaining
from redisaq.brokers.steps.topics import FORMAT, MakeTopic, NoteHeldUp, ReadTopic, ReadTopics, Terms, TopicState
from redisaq.brokers.terms import GroupName
from redisaq.errors import ServerFull, UnknownFormatError
from tests.conformance.steps import append, deliver, pending, values
from tests.conformance.worlds import World

pytestmark = pytest.mark.anyio

NAMES = ["a name with spaces", "прывітанне-日本語-🦊", "colons:0:g:x", "*?[a]", "%s %d", '"quoted"', "x" * 200]


async def test_topics_are_sorted(a: Broker, b: Broker) -> None:
    assert await a.do(ReadTopics()) == []
    for topic in ("zebra", "ant", "Émile", "bee"):
        await a.do(MakeTopic(topic, 1))
    assert await b.do(ReadTopics()) == sorted(["zebra", "ant", "Émile", "bee"])


async def test_a_topic_that_is_not_there(a: Broker) -> None:
    assert await a.do(ReadTopic("orders")) is None


async def test_make_topic(a: Broker, b: Broker) -> None:
    assert await a.do(MakeTopic("orders", 3)) == TopicState(generation=0, partitions=3)
    assert await b.do(ReadTopic("orders")) == TopicState(generation=0, partitions=3)


async def test_make_topic_again_returns_what_stands(a: Broker, b: Broker) -> None:
    await a.do(MakeTopic("orders", 3))
    assert await b.do(MakeTopic("orders", 5)) == TopicState(generation=0, partitions=3)
    assert await b.do(MakeTopic("orders", 1)) == TopicState(generation=0, partitions=3)
    assert await a.do(ReadTopic("orders")) == TopicState(generation=0, partitions=3)


async def test_two_make_a_topic_at_once(a: Broker, b: Broker) -> None:
    answers: list[TopicState] = []

    async def make(broker: Broker, partitions: int) -> None:
        answers.append(await broker.do(MakeTopic("orders", partitions)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(make, a, 3)
        tasks.start_soon(make, b, 5)
    stands = await a.do(ReadTopic("orders"))
    assert answers == [stands, stands]


async def test_make_topic_makes_empty_streams(a: Broker, group: GroupName) -> None:
    await a.do(MakeTopic(group.topic, 2))
    assert not any(left.unread for left in await a.do_each([ReadRemaining(group, 0), ReadRemaining(group, 1)]))
    await append(a, group.topic, 0, b"1")
    await append(a, group.topic, 1, b"1")


async def test_make_topic_makes_missing_streams_again(world: World, a: Broker, group: GroupName) -> None:
    await a.do(MakeTopic(group.topic, 2))
    await append(a, group.topic, 0, b"1")
    world.forget_partition(group.topic, 1)
    await a.do(MakeTopic(group.topic, 2))
    await append(a, group.topic, 1, b"2")
    assert world.length(group.topic, 0) == 1, "the other stream was left alone"


@pytest.mark.parametrize("name", ["owner", "billing"])
async def test_make_topic_again_leaves_groups_alone(a: Broker, name: str) -> None:
    """Whatever their names: "owner" is what the brokers call the consumer that a group's reads name."""
    group = GroupName("orders", name)
    await a.do(MakeTopic(group.topic, 1))
    await make_groups(a, group, [0], latest=False)
    await a.do(Install(group, 0, 1, "A", foreign=False))
    await append(a, group.topic, 0, b"1")
    sent = await deliver(a, group, 0, 1, "A")
    await a.do(MakeTopic(group.topic, 1))
    assert await pending(a, group, 0, 1) == dict.fromkeys(sent, 1)


async def test_make_topic_after_everything_was_lost(world: World, a: Broker) -> None:
    await a.do(MakeTopic("orders", 2))
    world.flush()
    assert await a.do(ReadTopic("orders")) is None
    assert await a.do(MakeTopic("orders", 3)) == TopicState(generation=0, partitions=3)
    await append(a, "orders", 2, b"1")


async def test_make_topic_after_its_state_was_lost_keeps_the_entries(world: World, a: Broker) -> None:
    await a.do(MakeTopic("orders", 2))
    await append(a, "orders", 0, b"1")
    world.forget_topic("orders")
    assert await a.do(MakeTopic("orders", 2)) == TopicState(generation=0, partitions=2)
    assert world.length("orders", 0) == 1


async def test_grow_topic(a: Broker, b: Broker) -> None:
    await a.do(MakeTopic("orders", 2))
    grown = await make_or_grow(a, "orders", 5)
    assert grown.partitions == 5
    assert grown.generation == 1
    assert await b.do(ReadTopic("orders")) == grown
    await append(b, "orders", 4, b"1")


@pytest.mark.parametrize("partitions", [1, 2])
async def test_grow_topic_never_shrinks(a: Broker, partitions: int) -> None:
    await a.do(MakeTopic("orders", 2))
    assert await make_or_grow(a, "orders", partitions) == TopicState(generation=0, partitions=2)
    assert await a.do(ReadTopic("orders")) == TopicState(generation=0, partitions=2)


async def test_grow_topic_keeps_what_is_there(world: World, a: Broker) -> None:
    await a.do(MakeTopic("orders", 1))
    await append(a, "orders", 0, b"1", b"2")
    await make_or_grow(a, "orders", 2)
    assert world.length("orders", 0) == 2


async def test_many_growers_at_once(a: Broker, b: Broker) -> None:
    """G1: no growth is lost, and each raises the generation once at most."""
    await a.do(MakeTopic("orders", 1))
    async with anyio.create_task_group() as tasks:
        for partitions in range(2, 8):
            tasks.start_soon(make_or_grow, (a, b)[partitions % 2], "orders", partitions)
    state = await a.do(ReadTopic("orders"))
    assert state is not None
    assert state.partitions == 7
    assert 1 <= state.generation <= 6
    for partition in range(7):
        await append(a, "orders", partition, b"1")


async def test_a_topic_of_a_later_format_is_refused(world: World, a: Broker, group: GroupName) -> None:
    """Whatever is asked of it first: its keys may mean something else, so nothing is changed."""
    await a.do(MakeTopic(group.topic, 2))
    world.set_format(group.topic, FORMAT + 1)
    terms = Terms(send_timeout=99.0, acked=True)
    steps = (ReadTopic(group.topic), MakeTopic(group.topic, 3, terms), Announce(group.topic, 0, 3), Heartbeat(group, "A", 9.0, ""))
    for step in steps:
        with pytest.raises(UnknownFormatError, match=f"topic orders has format {FORMAT + 1}.*knows formats up to {FORMAT}"):
            await a.do(step)
    world.set_format(group.topic, 1)
    assert await a.do(ReadTopic(group.topic)) == TopicState(generation=0, partitions=2)


async def test_append_answers_ids_in_order(a: Broker, b: Broker) -> None:
    await a.do(MakeTopic("orders", 2))
    found = await append(a, "orders", 0, b"1", b"2") + await append(b, "orders", 0, b"3")
    numbers = [tuple(int(part) for part in entry_id.split(b"-")) for entry_id in found]
    assert numbers == sorted(set(numbers))


async def test_append_nothing(a: Broker) -> None:
    assert await a.append("orders", [], maxlen=None, approximate=True) == []


async def test_append_where_no_stream_is(world: World, a: Broker) -> None:
    """E5: nothing is made, the caller learns which."""
    entries = [(partition, [b"i", b"1"]) for partition in (0, 7, 1, 8)]
    assert await a.append("orders", entries, maxlen=None, approximate=False) == [None] * 4
    await a.do(MakeTopic("orders", 2))
    found = await a.append("orders", entries, maxlen=10, approximate=True)
    assert [entry_id is None for entry_id in found] == [False, True, False, True]
    assert await a.append("orders", entries[1:2], maxlen=None, approximate=False) == [None], "still not made"
    world.flush()
    assert await a.append("orders", entries, maxlen=None, approximate=False) == [None] * 4


async def test_append_keeps_fields_as_they_are(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    sent: list[list[bytes]] = [
        [b"i", b"1", b"d", b"{}"],
        [b"i", b"2", b"d", b"\x00\r\n$5\r\n\xff" * 10, b"k", b"key", b"h", b"%s"],
        [b"i", b"", b"i", b"twice"],
        [b"x" * 100_000, b"y" * 100_000],
    ]
    await a.append(group.topic, [(0, fields) for fields in sent], maxlen=None, approximate=False)
    reader = await b.open_reader(group, 0, owned, "A")
    entries = await reader.read(10, 0)
    assert [list(fields or ()) for _, fields in entries] == sent
    page = await a.do(Claim(group, 0, owned, after=b"", count=10))
    assert [list(entry.fields) for entry in page.entries] == sent


async def test_append_to_several_partitions_keeps_each_order(a: Broker, group: GroupName, owned: int) -> None:
    entries = [(number % 3, [b"i", b"%d" % number]) for number in range(300)]
    assert None not in await a.append(group.topic, entries, maxlen=None, approximate=False)
    for partition in range(3):
        await a.do(Install(group, partition, owned, "A", foreign=True))
        reader = await a.open_reader(group, partition, owned, "A")
        assert values(await reader.read(1000, 0)) == [b"%d" % number for number in range(300) if number % 3 == partition]


async def test_append_from_many_tasks(world: World, a: Broker, b: Broker) -> None:
    await a.do(MakeTopic("orders", 1))
    found: set[bytes] = set()

    async def send(broker: Broker, number: int) -> None:
        found.update(await append(broker, "orders", 0, b"%d" % number))

    async with anyio.create_task_group() as tasks:
        for number in range(200):
            tasks.start_soon(send, (a, b)[number % 2], number)
    assert len(found) == 200
    assert world.length("orders", 0) == 200


async def test_maxlen_trims_the_oldest(world: World, a: Broker, group: GroupName, owned: int) -> None:
    await append(a, group.topic, 0, b"1", b"2")
    await a.append(group.topic, [(0, [b"i", b"%d" % number]) for number in range(3, 8)], maxlen=3, approximate=False)
    assert world.length(group.topic, 0) == 3
    reader = await a.open_reader(group, 0, owned, "A")
    assert values(await reader.read(10, 0)) == [b"5", b"6", b"7"]


async def test_maxlen_holds_per_partition(world: World, a: Broker) -> None:
    await a.do(MakeTopic("orders", 2))
    await append(a, "orders", 1, b"1", b"2", b"3")
    await a.append("orders", [(0, [b"i", b"1"])] * 5, maxlen=2, approximate=False)
    assert (world.length("orders", 0), world.length("orders", 1)) == (2, 3)


async def test_approximate_maxlen_keeps_at_least_that_many(world: World, a: Broker) -> None:
    await a.do(MakeTopic("orders", 1))
    await a.append("orders", [(0, [b"i", b"1"])] * 2000, maxlen=100, approximate=True)
    assert 100 <= world.length("orders", 0) < 2000


async def test_a_full_server_refuses_to_append(world: World, a: Broker) -> None:
    await a.do(MakeTopic("orders", 1))
    with world.full():
        with pytest.raises(ServerFull) as caught:
            await a.append("orders", [(0, [b"i", b"1"]), (0, [b"i", b"2"])], maxlen=None, approximate=False)
        assert caught.value.code == "OOM"
        assert getattr(caught.value, "appended", ()) == [None, None]
    await append(a, "orders", 0, b"1")
    assert world.length("orders", 0) == 1


@pytest.mark.parametrize("name", NAMES)
async def test_names_are_kept_apart(a: Broker, b: Broker, name: str) -> None:
    """A topic's name and a group's may hold what keys are made of, and what patterns and formats mean something by."""
    groups = [GroupName(name, name), GroupName(name, "other"), GroupName("other", name)]
    for group in groups:
        await a.do(MakeTopic(group.topic, 2))
        await make_groups(a, group, [0, 1], latest=False)
        assert (await a.do(Install(group, 1, 7, name, foreign=False))).done
    await append(a, name, 1, b"1")
    assert [len(await deliver(b, group, 1, 7, name)) for group in groups] == [1, 1, 0]
    assert await b.do(ReadTopics()) == sorted({name, "other"})


async def test_a_producer_that_is_held_up_is_noted(a: Broker, b: Broker) -> None:
    await a.do(NoteHeldUp("orders", 0, 10))
    assert await b.do(ReadTopic("orders")) is None
    await a.do(MakeTopic("orders", 2))
    state = await b.do(ReadTopic("orders"))
    assert state is not None
    assert state.held_up is None
    for partition, most in ((1, 1000), (0, 5)):
        await a.do(NoteHeldUp("orders", partition, most))
        state = await b.do(ReadTopic("orders"))
        assert state is not None
        assert state.held_up is not None
        assert (state.held_up.partition, state.held_up.max_backlog) == (partition, most)
        now = (await a.do(Heartbeat(GroupName("orders", "billing"), "A", 1.0, ""))).now
        assert now - 60_000_000 < state.held_up.at <= now
    await a.do(DropTopic("orders"))
    await a.do(MakeTopic("orders", 2))
    state = await b.do(ReadTopic("orders"))
    assert state is not None
    assert state.held_up is None
