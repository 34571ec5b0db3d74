"""A partition that is owned: several may wait for the same change of its record, and all are woken."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import anyio
import pytest

from redisaq.consuming.gate import Gate
from redisaq.consuming.owned import OwnedPartition
from redisaq.core.in_flight import MOST_ENDING, Claim, Flight, InFlight, Read, Remake
from redisaq.core.records import Body, Failure, Resolution
from tests.unit.owning import FIELDS, owned_partition, read

pytestmark = pytest.mark.anyio


async def test_all_who_wait_for_room_are_woken() -> None:
    owned = owned_partition(4)
    some = read(owned, 1, 4)
    woken: list[int] = []

    async def wait(number: int) -> None:
        await owned.wait_for_room(2)
        woken.append(number)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
            for message in some[:2]:
                owned.flights.start(message)
                owned.changed()
    assert sorted(woken) == [0, 1, 2]


async def test_who_waits_for_room_is_woken_when_there_is_some() -> None:
    """Not at each handler that begins: that would be a hop for each message."""
    owned = owned_partition(4)
    woken: list[int] = []

    async def wait(count: int) -> None:
        await owned.wait_for_room(count)
        woken.append(count)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            some = read(owned, 1, 4)
            for count in (2, 1, 4):
                tasks.start_soon(wait, count)
                await anyio.wait_all_tasks_blocked()
            for message, expected in zip(some, ([1], [1, 2], [1, 2], [1, 2, 4]), strict=True):
                owned.flights.start(message)
                if owned.flights.waiting <= owned.room_at:  # as the hot path asks
                    owned.changed()
                await anyio.wait_all_tasks_blocked()
                assert woken == expected


@pytest.mark.parametrize("end", [InFlight.returned, InFlight.cancelled])
async def test_all_who_wait_for_the_end_of_handlers_are_woken(end: Callable[[InFlight, Flight], None]) -> None:
    owned = owned_partition(4)
    (message,) = read(owned, 1, 1)
    owned.flights.start(message)
    woken = list[int]()

    async def wait(number: int) -> None:
        await owned.wait_finished()
        woken.append(number)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
            owned.changed()
            await anyio.wait_all_tasks_blocked()
            assert woken == [], "a handler runs"
            end(owned.flights, message)
            owned.changed()
    assert sorted(woken) == [0, 1, 2]


async def test_what_was_not_found_is_settled_once_the_group_has_come_past_it() -> None:
    """T6: a group that was made again, and has answered, may still be below it; then it may be lost once more."""
    flights = owned_partition(4).flights
    assert flights.claimed(flights.next_read(0), (), None, 0) == []  # type: ignore[arg-type] # at first, what is pending is claimed
    flights.unfound |= {b"1-0", b"3-0"}
    assert flights.group_lost().evidence == b"1-0"
    for position, evidence in ((b"", b"1-0"), (b"2-0", b"3-0"), (b"10-0", b"10-0")):
        flights.position = flights._reached = position
        flights.answered(flights.next_read(0))  # type: ignore[arg-type] # it is a Read
        assert flights.group_lost().evidence == evidence
    flights.doubtful |= {b"9-0", b"10-0"}
    assert flights.group_lost().evidence == b"9-0"


@pytest.mark.parametrize("delivered_before", [False, True])
async def test_all_at_once_is_as_one_by_one(delivered_before: bool) -> None:
    """A batch is recorded at a fraction of the cost: with the same record after each step, the bell, and who waits woken."""

    async def states(*, together: bool) -> list[object]:
        rung: list[object] = []
        owned = owned_partition(4, ring=rung.append)
        messages = read(owned, 1, 4)
        if delivered_before:
            messages[3].state, messages[3].count = "counted", 2
        seen: list[object] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(owned.wait_for_room, 4)
            await anyio.wait_all_tasks_blocked()
            if together:
                owned.flights.start_all(messages)
            else:
                for message in messages:
                    owned.flights.start(message)
            owned.changed()
        seen.append(([message.state for message in messages], owned.flights.running))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(owned.wait_finished)
            await anyio.wait_all_tasks_blocked()
            if together:
                owned.flights.returned_all(messages)
            else:
                for message in messages:
                    owned.flights.returned(message)
            owned.changed()
        seen.append(([message.state for message in messages], owned.flights.handled, owned.dirty, len(rung), owned.flights.take_acks()))
        return seen

    with anyio.fail_after(30):
        assert await states(together=True) == await states(together=False)


def done_with(flights: InFlight, some: list[Flight]) -> None:
    if (counting := flights.prepare(some)) is not None:
        flights.counted(counting)
    for message in some:
        flights.start(message)
        flights.returned(message)
    flights.take_acks()
    flights.acked()


async def test_a_group_that_is_lost_with_nothing_in_flight_begins_where_it_was() -> None:
    """T6: what was claimed counts as what was read; and so does a second loss."""
    owned = owned_partition(4)
    flights = owned.flights
    claim = flights.next_read(0)
    assert isinstance(claim, Claim)
    done_with(flights, flights.claimed(claim, [(b"3-0", FIELDS, 1)], None, 0))
    ask = flights.next_read(0)
    assert isinstance(ask, Read)
    flights.answered(ask)
    assert flights.group_lost() == Remake(b"3-0", b"3-0")
    done_with(flights, read(owned, 5, 6))
    for _ in range(2):
        assert flights.group_lost() == Remake(b"6-0", b"6-0")
        flights.group_made()
    flights.connected("a")
    flights.connected("another")
    assert flights.group_lost() == Remake(b"", b""), "another server has perhaps never had what was settled"


async def test_what_has_ended_and_is_not_settled_is_bounded() -> None:
    flights = owned_partition(10 * MOST_ENDING, page=10 * MOST_ENDING).flights
    for message in flights.delivered([(b"%d-0" % number, FIELDS) for number in range(1, MOST_ENDING + 1)], 0):
        assert flights.has_room(1)
        flights.start(message)
        flights.failed(message, ValueError(), 0, Random(0))
    assert not flights.has_room(1)
    assert len(flights.take_endings()) == MOST_ENDING
    assert not flights.has_room(1), "they are on their way"
    flights.settled([True] * MOST_ENDING)
    assert flights.has_room(1)


async def test_an_entry_that_cannot_be_read_dies_now_and_as_it_is() -> None:
    flights = owned_partition(4).flights
    assert flights.delivered([(b"1-0", (b"x", b"1"))], 7_000_000) == []
    (ending,) = flights.take_endings()
    assert ending.resolution.body.failure is not None
    reason = ending.resolution.body.failure.error
    assert reason == ending.reason != ""
    failure = Failure("Unreadable", reason, "", 0, 7000, 7000, "me")
    assert ending.resolution == Resolution("stream", "dead", Body(b"1-0", (b"x", b"1"), failure=failure))


async def test_all_who_wait_for_what_is_settled_are_woken_when_it_is_or_is_lost() -> None:
    """Also where what is to be settled was never rung for, and where nothing is left at all."""
    for way in ("settled", "lost"):
        rung, woken = list[object](), list[int]()
        owned = owned_partition(4, ring=rung.append)
        (message,) = read(owned, 1, 1)
        with anyio.fail_after(30):
            await owned.wait_settled()
        assert rung == []
        owned.flights.start(message)
        owned.flights.returned(message)

        async def wait(number: int, owned: OwnedPartition = owned, woken: list[int] = woken) -> None:
            await owned.wait_settled()
            woken.append(number)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(wait, number)
                await anyio.wait_all_tasks_blocked()
                assert (rung, woken) == ([owned], [])
                owned.flights.take_acks()
                owned.changed()
                await anyio.wait_all_tasks_blocked()
                assert woken == [], "it is on its way"
                if way == "lost":
                    owned.lose("somebody has it")
                else:
                    owned.flights.acked()
                    owned.changed()
        assert sorted(woken) == [0, 1, 2]


async def test_what_is_lost_ends_what_works_on_it_and_is_lost_once() -> None:
    owned = owned_partition(4)
    with owned.scope() as works, owned.until_drain() as waits, owned.until_drain(Gate()) as waits_there:
        owned.begin_drain()
        assert (works.cancel_called, waits.cancel_called, waits_there.cancel_called) == (False, True, True)
        owned.lose("somebody has it")
        owned.lose("and somebody else")
        assert works.cancel_called
    assert owned.lost == "somebody has it"
    with owned.scope() as late, owned.until_drain() as drained, owned.until_drain(Gate()) as drained_there:
        assert (late.cancel_called, drained.cancel_called, drained_there.cancel_called) == (True, True, True)
