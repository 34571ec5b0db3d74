"""What makes enqueueing effectively once: anchors, the look at the tail, killing connections, deduplication marks, the backlog."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.administration import Seek
from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.leases import Install
from redisaq.brokers.steps.producing import AppendOnce, Find, Found, ReadAnchor, ReadBacklog, delay
from redisaq.brokers.steps.settling import ReadRemaining
from redisaq.brokers.steps.topics import MakeTopic, ReadTopic
from redisaq.brokers.terms import GroupName
from redisaq.errors import ConnectionFailed, ServerError
from tests.conformance.failures import HOUR, due, message, now, read
from tests.conformance.steps import append, deliver, values

if TYPE_CHECKING:
    from tests.conformance.worlds import World

pytestmark = pytest.mark.anyio


def shown(found: Found) -> tuple[tuple[bytes | None, ...], bool]:
    return found.present, found.complete


async def once(
    broker: Broker,
    msg_id: bytes,
    *,
    dedup_id: str = "invoice-9",
    window: float = 60.0,
    due: int | None = None,
    partition: int = 0,
    maxlen: int | None = None,
    topic: str = "orders",
) -> bytes | None:
    """Append once, or delay, a message of that id."""
    return await broker.do(
        AppendOnce(topic, partition, [b"i", msg_id], dedup_id=dedup_id, window=window, due=due, maxlen=maxlen, approximate=False)
    )


# -- anchors ----------------------------------------------------------------------------------------------------------------------


async def test_anchors_are_the_last_ids_ever(world: World, a: Broker, b: Broker) -> None:
    """E2."""
    await a.do(MakeTopic("orders", 3))
    assert await b.do_each([]) == []
    assert await b.do_each([ReadAnchor("orders", 0), ReadAnchor("orders", 1), ReadAnchor("orders", 2)]) == [b"0-0"] * 3
    *_, last = await append(a, "orders", 1, b"1", b"2")
    assert await b.do_each([ReadAnchor("orders", 2), ReadAnchor("orders", 1), ReadAnchor("orders", 1), ReadAnchor("orders", 0)]) == [
        b"0-0",
        last,
        last,
        b"0-0",
    ]
    world.delete("orders", 1, [last])
    assert await b.do_each([ReadAnchor("orders", 1)]) == [last], "deleting takes no id back"
    world.trim("orders", 1, 0)
    assert await b.do_each([ReadAnchor("orders", 1)]) == [last], "nor does trimming"


async def test_no_anchor_where_no_stream_is(world: World, a: Broker) -> None:
    await a.do(MakeTopic("orders", 2))
    (standing,) = await append(a, "orders", 0, b"1")
    world.forget_stream("orders", 1)
    assert await a.do_each([ReadAnchor("orders", 0), ReadAnchor("orders", 1), ReadAnchor("orders", 7)]) == [standing, None, None]
    assert await a.do_each([ReadAnchor("nothing", 0)]) == [None]


# -- find -------------------------------------------------------------------------------------------------------------------------


async def test_what_stands_after_the_anchor_is_found(a: Broker, b: Broker) -> None:
    await a.do(MakeTopic("orders", 2))
    first, second, third = await append(a, "orders", 0, b"1", b"2", b"3")
    await append(a, "orders", 1, b"4")
    assert shown(await b.do(Find("orders", 0, b"0-0", [b"3", b"x", b"1", b"2", b"4"]))) == ((third, None, first, second, None), True)
    assert shown(await b.do(Find("orders", 0, first, [b"1", b"2"]))) == ((None, second), True), "before the anchor nobody looks"
    assert shown(await b.do(Find("orders", 0, third, [b"3"]))) == ((None,), True)
    assert shown(await b.do(Find("orders", 0, first, []))) == ((), True)


async def test_a_long_tail_is_read_whole(a: Broker) -> None:
    await a.do(MakeTopic("orders", 1))
    (anchor,) = await append(a, "orders", 0, b"anchor")
    ids = await append(a, "orders", 0, *(b"%d" % number for number in range(1501)))
    found = await a.do(Find("orders", 0, anchor, [b"0", b"499", b"500", b"999", b"1000", b"1500", b"1501"]))
    assert shown(found) == ((ids[0], ids[499], ids[500], ids[999], ids[1000], ids[1500], None), True)
    assert found.rest is None


async def test_a_tail_is_looked_at_in_pieces(world: World, a: Broker) -> None:
    """E2: each piece has evidence of its own, since trimming may go on between two of them."""
    await a.do(MakeTopic("orders", 1))
    anchor, *ids = await append(a, "orders", 0, *(b"%d" % number for number in range(1203)))
    sought = [b"1", b"600", b"601", b"1202", b"x"]
    piece = await a.do(Find("orders", 0, anchor, sought, 600))
    assert (shown(piece), piece.rest) == (((ids[0], ids[599], None, None, None), True), ids[599])
    more = await a.do(Find("orders", 0, ids[599], sought, 600))
    assert (shown(more), more.rest) == (((None, None, ids[600], None, None), True), ids[1199])
    last = await a.do(Find("orders", 0, ids[1199], sought, 600))
    assert last == Found((None, None, None, ids[1201], None), complete=True, last=ids[1201])
    both = piece.followed_by(more).followed_by(last)
    assert both == Found((ids[0], ids[599], ids[600], ids[1201], None), complete=True, last=ids[1201])
    world.trim("orders", 0, 300)
    assert not piece.followed_by(await a.do(Find("orders", 0, ids[599], sought, 600))).complete


async def test_fields_of_others_are_no_message_ids(a: Broker) -> None:
    """An entry may carry any bytes, and a stream anybody's entries."""
    await a.do(MakeTopic("orders", 1))
    foreign = [[b"color", b"1"], [b"d", b"2", b"k", b"i"], [b"i", b"3", b"d", b"i", b"k", b"4"]]
    ids = await a.append("orders", [(0, fields) for fields in foreign], maxlen=None, approximate=False)
    assert shown(await a.do(Find("orders", 0, b"0-0", [b"1", b"2", b"3", b"4"]))) == ((None, None, ids[2], None), True)


async def test_trimmed_evidence_is_reported(world: World, a: Broker) -> None:
    """E2: a message that is not found may have been there."""
    await a.do(MakeTopic("orders", 1))
    first, second, third, fourth = await append(a, "orders", 0, b"1", b"2", b"3", b"4")
    world.trim("orders", 0, 3)
    assert shown(await a.do(Find("orders", 0, second, [b"4", b"x"]))) == ((fourth, None), True), "the anchor still stands"
    assert shown(await a.do(Find("orders", 0, first, [b"3", b"x"]))) == ((third, None), False)
    assert not (await a.do(Find("orders", 0, b"0-0", [b"1"]))).complete
    world.trim("orders", 0, 0)
    assert shown(await a.do(Find("orders", 0, second, [b"4"]))) == ((None,), False)
    assert not (await a.do(Find("orders", 0, fourth, [b"5"]))).complete, "an empty stream reaches back to nothing"


async def test_trimming_by_an_append_is_reported(a: Broker) -> None:
    await a.do(MakeTopic("orders", 1))
    (anchor,) = await append(a, "orders", 0, b"1")
    for number in range(2, 6):
        await a.append("orders", [(0, [b"i", b"%d" % number])], maxlen=3, approximate=False)
    found = await a.do(Find("orders", 0, anchor, [b"2", b"5"]))
    assert (found.present[0], found.complete) == (None, False)
    assert found.present[1] is not None


async def test_a_deleted_anchor_is_as_good_while_something_older_stands(world: World, a: Broker) -> None:
    await a.do(MakeTopic("orders", 1))
    first, second, third = await append(a, "orders", 0, b"1", b"2", b"3")
    world.delete("orders", 0, [second])
    assert shown(await a.do(Find("orders", 0, second, [b"2", b"3"]))) == ((None, third), True)
    world.delete("orders", 0, [first])
    assert shown(await a.do(Find("orders", 0, second, [b"3", b"x"]))) == ((third, None), False)


async def test_a_search_tells_the_last_id_that_there_ever_was(world: World, a: Broker) -> None:
    """C5: where that is not above the anchor, nothing came after the anchor."""
    await a.do(MakeTopic("orders", 1))
    assert (await a.do(Find("orders", 0, b"0-0", []))).last == b"0-0"
    *_, last = await append(a, "orders", 0, b"1", b"2")
    assert (await a.do(Find("orders", 0, b"0-0", [b"1"]))).last == last
    world.trim("orders", 0, 0)
    assert (await a.do(Find("orders", 0, last, [b"3"]))).last == last
    world.forget_stream("orders", 0)
    assert (await a.do(Find("orders", 0, last, [b"3"]))).last == b"0-0"


async def test_a_broker_tells_which_run_of_the_server_answers(a: Broker) -> None:
    """E2: so that an anchor is only used with the run that named it."""
    await a.do(MakeTopic("orders", 1))
    before = a.run_id
    assert before
    await a.do(ReadTopic("orders"))
    assert a.run_id == before


async def test_the_delayed_are_looked_through_first(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """E7: until they are in the stream they are nowhere else."""
    coming = await now(a, group) + HOUR
    (anchor,) = await append(a, "orders", 0, b"1")
    await delay(a, "orders", [message(b"later", coming), message(b"soon", 1)])
    asked = [b"later", b"soon", b"1"]
    assert shown(await b.do(Find("orders", 0, anchor, asked))) == ((b"", b"", None), True)
    assert shown(await b.do(Find("orders", 1, b"0-0", asked))) == ((None,) * 3, True)
    assert (await due(a, group, owned)).moved == 1
    found = await b.do(Find("orders", 0, anchor, asked))
    assert (found.present[0], found.present[2]) == (b"", None)
    assert found.present[1], "it has an entry id now"


async def test_with_a_stream_went_what_was_in_it(world: World, a: Broker) -> None:
    """E5: then it may be sent again; what is delayed is there all the same."""
    await a.do(MakeTopic("orders", 2))
    (anchor,) = await append(a, "orders", 0, b"1")
    await append(a, "orders", 0, b"2")
    await delay(a, "orders", [message(b"later", 5)])
    world.forget_stream("orders", 0)
    assert shown(await a.do(Find("orders", 0, anchor, [b"2", b"later"]))) == ((None, b""), True)
    assert shown(await a.do(Find("nothing", 0, b"0-0", [b"2"]))) == ((None,), True)
    await a.do(MakeTopic("orders", 2))
    assert shown(await a.do(Find("orders", 0, anchor, [b"2", b"later"]))) == ((None, b""), True)


# -- kill -------------------------------------------------------------------------------------------------------------------------


async def test_killing_ends_those_connections_only(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """E1."""
    await b.do(Install(group, 1, owned, "B", foreign=True))
    victim, other = await a.open_reader(group, 0, owned, "A"), await b.open_reader(group, 1, owned, "B")
    broke: list[ConnectionFailed] = []

    async def wait() -> None:
        with pytest.raises(ConnectionFailed) as caught:
            await victim.read(1, 60.0)
        broke.append(caught.value)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(0.05)
            assert await b.kill([victim.mark])
    assert broke
    await append(a, "orders", 1, b"1")
    assert values(await other.read(1, 0)) == [b"1"]
    assert await b.kill([victim.mark]), "who is gone is as good as killed"
    assert await b.kill([])
    await victim.close()
    await other.close()


async def test_a_connection_of_another_run_is_let_be(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """A server that has restarted gives the same ids to others."""
    reader = await a.open_reader(group, 0, owned, "A")
    mark = reader.mark
    for other in (msgspec.structs.replace(mark, run_id="of before"), msgspec.structs.replace(mark, address="10.1.2.3:4")):
        assert await b.kill([other])
    await append(a, "orders", 0, b"1")
    assert values(await reader.read(1, 0)) == [b"1"]
    await reader.close()


async def test_a_server_that_does_not_permit_killing(world: World, a: Broker, group: GroupName, owned: int) -> None:
    """T4: then the caller must not guess."""
    reader = await a.open_reader(group, 0, owned, "A")
    weak = world.weak_broker()
    await weak.connect()
    assert not await weak.kill([reader.mark])
    await append(a, "orders", 0, b"1")
    assert values(await reader.read(1, 0)) == [b"1"]
    await reader.close()
    await weak.close()


# -- append_once ------------------------------------------------------------------------------------------------------------------


async def test_the_first_one_stands(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """E7: a repeated call knows its own."""
    assert await once(a, b"1") == b"1"
    assert await once(a, b"1") == b"1"
    assert await once(b, b"2") == b"1"
    assert await once(b, b"3", dedup_id="invoice-10") == b"3"
    assert await once(a, b"4", partition=1) == b"4", "each partition has marks of its own"
    assert values(await read(a, group, 0, owned)) == [b"1", b"3"]


async def test_at_the_same_moment_one_stands(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    answers: list[bytes | None] = []

    async def call(broker: Broker, number: int) -> None:
        answers.append(await once(broker, b"%d" % number))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(call, (a, b)[number % 2], number)
    (standing,) = set(answers)
    assert len(answers) == 20
    assert values(await read(a, group, 0, owned)) == [standing]


async def test_after_the_window_it_is_new(a: Broker, group: GroupName, owned: int) -> None:
    assert await once(a, b"1", window=0.05) == b"1"
    await anyio.sleep(0.1)
    assert await once(a, b"2", window=60.0) == b"2"
    await anyio.sleep(0.1)
    assert await once(a, b"3", window=0.05) == b"2", "the first one's window counts"
    assert values(await read(a, group, 0, owned)) == [b"1", b"2"]


async def test_a_repeat_does_not_stretch_the_window(a: Broker) -> None:
    await a.do(MakeTopic("orders", 1))
    window = 0.1
    while True:
        began, used = anyio.current_time(), f"within {window}"
        assert await once(a, b"1", window=window, dedup_id=used) == b"1"
        await anyio.sleep(window / 2)
        answer = await once(a, b"2", window=60.0, dedup_id=used)
        if anyio.current_time() - began < window:
            break
        window *= 2  # the machine is busy: that may have been too late
    assert answer == b"1"
    await anyio.sleep(window)
    assert await once(a, b"3", dedup_id=used) == b"3"


async def test_a_delayed_one_stands_too(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    coming = await now(a, group) + HOUR
    assert await once(a, b"1", due=coming) == b"1"
    assert await once(b, b"2") == b"1", "though it is not in the stream yet"
    assert await once(a, b"1", due=coming + 5) == b"1"
    assert (await due(a, group, owned)).next_due == coming
    assert await once(a, b"3", due=7, dedup_id="invoice-10") == b"3"
    assert (await due(a, group, owned)).moved == 1
    assert await once(b, b"4", dedup_id="invoice-10") == b"3"
    assert values(await read(a, group, 0, owned)) == [b"3"]
    assert (await a.do_each([ReadRemaining(group, 0)]))[0].delayed == 1


async def test_delaying_once_rings(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """The owner sleeps until what it knows of is due."""
    doorbell = await a.listen_partition("orders", 0)
    heard = anyio.Event()

    async def listen() -> None:
        while True:
            await doorbell.wait()
            if (await due(a, group, owned)).moved:
                heard.set()
                return

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await anyio.sleep(0.1)  # its first ring may be the subscription's own
            assert await once(b, b"1", due=5) == b"1"
    assert heard.is_set()
    await doorbell.close()


@pytest.mark.parametrize("later", [False, True])
async def test_without_a_stream_no_mark_is_left(world: World, a: Broker, group: GroupName, owned: int, later: bool) -> None:
    """E5: else the next call would get the id of a message that nobody has."""
    when = 5 if later else None
    world.forget_stream("orders", 0)
    assert await once(a, b"1", due=when) is None
    assert await once(a, b"1", due=when, topic="nothing") is None
    await make_groups(a, group, [0], latest=False)
    assert await once(a, b"2", due=when) == b"2"
    assert (await due(a, group, owned)).moved == int(later)
    assert values(await read(a, group, 0, owned)) == [b"2"]


async def test_once_trims_as_an_append_does(world: World, a: Broker) -> None:
    await a.do(MakeTopic("orders", 1))
    for number in range(5):
        assert await once(a, b"%d" % number, dedup_id=f"d{number}", maxlen=2) == b"%d" % number
    assert world.length("orders", 0) == 2


@pytest.mark.parametrize("later", [False, True])
async def test_at_full_memory_no_mark_is_left(world: World, a: Broker, group: GroupName, owned: int, later: bool) -> None:
    """S2: refused whole; the answer still names the one that was first."""
    when = 5 if later else None
    assert await once(a, b"0", dedup_id="before") == b"0"
    with world.full():
        with pytest.raises(ServerError) as refused:
            await once(a, b"1", due=when)
        assert refused.value.code == "OOM"
        assert await once(a, b"9", dedup_id="before", due=when) == b"0"
    assert await once(a, b"2", due=when) == b"2"
    assert (await due(a, group, owned)).moved == int(later)
    assert values(await read(a, group, 0, owned)) == [b"0", b"2"]


# -- backlog ----------------------------------------------------------------------------------------------------------------------


async def test_the_backlog_is_the_slowest_group_s(a: Broker, b: Broker, group: GroupName) -> None:
    await a.do(MakeTopic("orders", 3))
    await append(a, "orders", 0, *(b"%d" % number for number in range(10)))
    assert await b.do_each([ReadBacklog("orders", 0), ReadBacklog("orders", 1), ReadBacklog("orders", 7)]) == [10, 0, 0]
    assert await b.do_each([]) == []
    other = GroupName("orders", "shipping")
    for name, token in ((group, 10), (other, 20)):
        await make_groups(a, name, [0], latest=False)
        await a.do(Install(name, 0, token, "A", foreign=True))
    await deliver(a, group, 0, 10, "A", count=7)
    assert await b.do_each([ReadBacklog("orders", 0)]) == [10]
    await deliver(a, other, 0, 20, "A", count=4)
    assert await b.do_each([ReadBacklog("orders", 0)]) == [6], "what is pending is not waiting"
    await deliver(a, other, 0, 20, "A")
    assert await b.do_each([ReadBacklog("orders", 0), ReadBacklog("orders", 0)]) == [3, 3]
    await append(a, "orders", 0, b"x")
    await deliver(a, group, 0, 10, "A")
    assert await b.do_each([ReadBacklog("orders", 0)]) == [1]


async def test_a_group_that_starts_at_the_end_has_no_backlog(a: Broker, group: GroupName) -> None:
    await a.do(MakeTopic("orders", 1))
    await append(a, "orders", 0, b"1", b"2")
    await make_groups(a, group, [0], latest=True)
    assert await a.do_each([ReadBacklog("orders", 0)]) == [0]
    await append(a, "orders", 0, b"3")
    assert await a.do_each([ReadBacklog("orders", 0)]) == [1]


@pytest.mark.parametrize("read_before", [0, 2, 5])
async def test_only_what_is_there_counts(world: World, a: Broker, group: GroupName, read_before: int) -> None:
    await a.do(MakeTopic("orders", 2))
    await make_groups(a, group, [0, 1], latest=False)
    for partition in (0, 1):
        await a.do(Install(group, partition, 10, "A", foreign=True))
        ids = await append(a, "orders", partition, *(b"%d" % number for number in range(10)))
        if read_before:
            await deliver(a, group, partition, 10, "A", count=read_before)
        if partition:
            world.delete("orders", 1, [ids[1], ids[6], ids[9]])
        else:
            world.trim("orders", 0, 6)
    deleted = sum(number >= read_before for number in (1, 6, 9))
    assert await a.do_each([ReadBacklog("orders", 0), ReadBacklog("orders", 1)]) == [min(6, 10 - read_before), 10 - read_before - deleted]


async def test_what_the_server_must_count_is_counted_in_pages(a: Broker, group: GroupName) -> None:
    """After a seek no server knows the lag."""
    await a.do(MakeTopic("orders", 1))
    await make_groups(a, group, [0], latest=False)
    sent = await append(a, "orders", 0, *[b"x"] * 1050)
    await a.do(Seek(group, 0, sent[49]))
    assert await a.do_each([ReadBacklog("orders", 0)]) == [1000]
    assert await a.do_each([ReadBacklog("orders", 0, enough=1000)]) == [1000]
    assert await a.do(ReadBacklog("orders", 0, enough=10)) in (11, 1000), "no more than needed, or all"
    assert await a.do(ReadBacklog("orders", 0, fits=1049)) == 1000
    assert await a.do(ReadBacklog("orders", 0, fits=1050)) in (1000, 1050), "as many as wait, or all that there are"
