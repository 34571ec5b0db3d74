"""One reader, read by read: how long it waits, when it asks ahead and looks for losses, what it does after a break. In virtual time."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq import events
from redisaq.actors import Supervisor
from redisaq.brokers.steps.coordination import Beat
from redisaq.brokers.steps.leases import Claim, Fence, Page, PendingEntry, RemakeGroup
from redisaq.brokers.steps.retention import Sight, Sighting
from redisaq.brokers.steps.settling import Resolve, Resolved
from redisaq.errors import ConnectionFailed, GroupGoneError, LeaseLostError
from tests.actors.group import TRIO_ALONE
from tests.actors.owning_world import Owning, Reading, entries

pytestmark = TRIO_ALONE


def gives(*answers: Any) -> Any:
    """Return what prepares the first reader to give these answers; the next ones give nothing."""
    left = list(answers)

    def prepare(reader: Reading) -> None:
        reader.answers, left[:] = list(left), []

    return prepare


async def test_t4_a_read_waits_for_five_seconds_at_most_and_ends_before_the_lease_does() -> None:
    owning = Owning(page=4)
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        await anyio.sleep(49.9)
        # The lease has 50 s. The last read ends a twentieth of a second before that.
        assert owning.reader.reads == [(4, 5.0)] * 9 + [(4, 4.95)]
        await anyio.sleep(10.0)
        assert len(owning.reader.reads) == 10, "so little time is left that a renewal must come first"


async def test_t4_a_lease_that_is_renewed_at_the_last_moment_is_read_on_under() -> None:
    owning = Owning(page=4)
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        await anyio.sleep(49.98)
        owning.lease.renew(owning.began + 49.98, Beat(alive=True, now=10**15))
        await anyio.sleep(0.1)
        assert owning.reader.reads[10:] == [(4, 5.0)]
        owning.owner.drain(0.0)
        await anyio.sleep(1.0)


async def test_it_asks_ahead_where_a_page_was_full_and_there_is_room_for_two() -> None:
    owning = Owning(page=2, window=8)
    owning.broker.prepare = gives(entries(1, 2), entries(3, 4), entries(5, 5))
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        assert owning.reader.ahead == [2, 2]
        assert [count for count, _ in owning.reader.reads] == [2, 2, 2, 2]
        assert [len(batch) for batch in owning.workers.got] == [2, 2, 1]
        owning.owner.drain(0.0)
        await anyio.sleep(1.0)


async def test_it_looks_for_losses_every_other_second_while_it_reads_and_counts_what_it_read() -> None:
    owning = Owning(page=2, window=100)
    owning.broker.instead = lambda step: Sighting(b"1-0", 7) if isinstance(step, Sight) else None
    async with Supervisor() as supervisor:
        await owning.start(supervisor)

        for number, pause in ((0, 5.0), (1, 1.2), (2, 3.8), (3, 1.0)):  # the second look waits until it is due, the others are
            if number:
                owning.reader.give(entries(number, number))
            await anyio.sleep(pause)
        sights = [(round(time - owning.began, 1), step.since, step.read) for time, step in owning.broker.steps if isinstance(step, Sight)]
        assert sights == [(0.0, None, 0), (5.0, Sighting(b"1-0", 7), 1), (7.0, Sighting(b"1-0", 7), 1), (10.0, Sighting(b"1-0", 7), 1)]
        owning.owner.drain(0.0)
        await anyio.sleep(1.0)


async def test_t3_after_a_break_it_kills_the_connection_and_claims_what_it_may_have_brought() -> None:
    owning = Owning()
    owning.broker.prepare = gives(entries(1, 2), ConnectionFailed("redis://x", "broke"))

    def instead(step: Any) -> Any:
        if isinstance(step, Claim) and step.after:
            return Page((PendingEntry(b"3-0", entries(3, 3)[0][1], 1),), (b"4-0", b"5-0"), None)
        return None

    owning.broker.instead = instead
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        await anyio.sleep(1.0)
        first, second = owning.broker.readers
        assert owning.steps() == ["install", "fence", "claim", "sight", "fence", "claim", "sight"]
        assert [(step.token, step.readers) for step in owning.broker.of(Fence)] == [(5, ()), (5, [first.mark])]
        assert [(step.token, step.after, step.count) for step in owning.broker.of(Claim)] == [(5, b"", 4), (5, b"2-0", 4)]
        assert [(step.since, step.read) for step in owning.broker.of(Sight)] == [(None, 0), (None, 2)], "it cannot be compared"
        assert [[flight.entry for flight in batch] for batch in owning.workers.got] == [[b"1-0", b"2-0"], [b"3-0"]]
        assert (first.calls, second.calls) == (["finish", "close", "close"], [])
        (event,) = owning.notebook.of(events.EntriesTrimmed)
        assert (event.entry_ids, event.count, event.partition) == (("4-0", "5-0"), 2, 0)
        assert owning.owned.flights.trimmed == 2
        owning.broker.steps.clear()
        owning.owner.drain(0.0)
        await anyio.sleep(1.0)
        assert owning.steps(Fence) == [], "what was killed is not killed again"


async def test_t3_a_kill_that_breaks_is_repeated_until_it_is_answered() -> None:
    owning = Owning()
    owning.broker.prepare = gives(ConnectionFailed("redis://x", "broke"))

    def instead(step: Any) -> Any:
        if isinstance(step, Fence) and step.readers and len(owning.broker.of(Fence)) < 4:
            raise ConnectionFailed("redis://x", "broke again")
        return None

    owning.broker.instead = instead
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        await anyio.sleep(5.0)
        first, second = owning.broker.readers
        assert [step.readers for step in owning.broker.of(Fence)] == [(), *[[first.mark]] * 3]
        assert second.reads
        owning.owner.drain(0.0)
        await anyio.sleep(1.0)


async def test_t3_what_a_read_brought_when_it_was_stopped_is_handed_on_after_a_break_and_back_at_the_end() -> None:
    owning = Owning()

    def prepare(reader: Reading) -> None:
        if len(owning.broker.readers) == 1:
            reader.answers, reader.leftover = [entries(1, 1), ConnectionFailed("redis://x", "broke")], entries(2, 3)

    owning.broker.prepare = prepare
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        await anyio.sleep(1.0)
        assert [[flight.entry for flight in batch] for batch in owning.workers.got] == [[b"1-0"], [b"2-0", b"3-0"]]
        assert [step.read for step in owning.broker.of(Sight)] == [0, 3]
        owning.broker.steps.clear()
        owning.reader.leftover = entries(4, 4)
        owning.owner.drain(0.0)
        await anyio.sleep(1.0)
        (step,) = (step for _, step in owning.broker.steps if step.name == "set_deliveries")
        assert step.counts == {b"1-0": 0, b"2-0": 0, b"3-0": 0, b"4-0": 0}  # type: ignore[attr-defined]
        assert [step.read for step in owning.broker.of(Sight)] == [1]


@pytest.mark.parametrize("settled", [True, False])
async def test_t3_a_read_without_its_answer_is_killed_before_the_release(*, settled: bool) -> None:
    owning = Owning()
    owning.broker.prepare = gives(entries(1, 1))
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        owning.reader.settled = settled
        owning.broker.steps.clear()
        owning.owner.drain(0.0)
        await anyio.sleep(1.0)
    assert owning.steps() == ["set_deliveries", "sight" if settled else "fence", "release"]
    if not settled:
        assert [step.readers for step in owning.broker.of(Fence)] == [[owning.reader.mark]]


async def test_t4_a_kill_that_is_not_permitted_is_reported_once() -> None:
    owning = Owning()
    owning.broker.instead = lambda step: None if not isinstance(step, Fence) else not step.readers
    owning.broker.prepare = gives(ConnectionFailed("redis://x", "broke"))
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        await anyio.sleep(1.0)
        owning.reader.settled = False
        owning.owner.drain(0.0)
        await anyio.sleep(1.0)
    assert owning.told.count("KillNotPermitted") == 1


async def test_t6_a_group_that_is_gone_is_made_again_and_that_is_reported() -> None:
    owning = Owning()
    owning.broker.prepare = gives(entries(1, 2), GroupGoneError("gone"), entries(2, 3))
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        assert [(step.last_id, step.start) for step in owning.broker.of(RemakeGroup)] == [(b"1-0", b"0-18446744073709551615")]
        assert owning.told == ["PartitionAcquired", "GroupLost"]
        assert [(step.since, step.read) for step in owning.broker.of(Sight)] == [(None, 0), (None, 2)]
        owning.owner.drain(0.0)
        await anyio.sleep(1.0)


async def test_while_its_group_is_paused_it_reads_nothing_and_then_looks_again() -> None:
    owning = Owning()
    owning.broker.prepare = gives(entries(1, 1))
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        reads = len(owning.reader.reads)
        owning.reader.leftover = entries(2, 2)
        owning.owned.gate.move(closed=True)
        await anyio.sleep(20.0)
        assert len(owning.reader.reads) == reads
        assert [[flight.entry for flight in batch] for batch in owning.workers.got] == [[b"1-0"], [b"2-0"]], "it had been read"
        owning.owned.gate.move(closed=False)
        await anyio.sleep(1.0)
        assert len(owning.reader.reads) == reads + 1
        assert [(step.since, step.read) for step in owning.broker.of(Sight)] == [(None, 0), (None, 2)], "an administrator may have moved it"
        owning.owner.drain(0.0)
        await anyio.sleep(1.0)


@pytest.mark.parametrize("spent", [False, True])
async def test_a_claim_under_another_token_ends_it_unless_that_is_still_its_own(*, spent: bool) -> None:
    owning = Owning()

    def instead(step: Any) -> Any:
        if isinstance(step, Claim) and len(owning.broker.of(Claim)) == 1:
            raise LeaseLostError("another token is current")
        return Resolved(False, 5, spent=spent) if isinstance(step, Resolve) else None

    owning.broker.instead = instead
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        await anyio.sleep(1.0)
        assert owning.owned.lost == ("" if spent else "another token is current")
        assert len(owning.broker.of(Claim)) == 1 + spent
        owning.owner.drain(0.0)
        await anyio.sleep(1.0)


async def test_without_room_it_waits_until_there_is_some() -> None:
    owning = Owning(page=2, window=6)
    owning.broker.prepare = gives(entries(1, 2), entries(3, 4), entries(5, 6))
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        await anyio.sleep(20.0)
        assert [len(batch) for batch in owning.workers.got] == [2, 2]
        owning.begin(1)
        await anyio.sleep(1.0)
        assert len(owning.workers.got) == 2
        owning.begin(2)
        await anyio.sleep(1.0)
        assert len(owning.workers.got) == 3
        owning.owner.drain(0.0)
        await anyio.sleep(5.0)


async def test_what_cannot_be_read_is_settled_at_once_wherever_it_comes_from() -> None:
    owning, rung = Owning(), list[int]()
    owning.owned._ring = lambda owned: rung.append(len(owned.flights.ending))
    owning.broker.instead = lambda step: Page((PendingEntry(b"1-0", (b"x", b"1"), 1),), (), None) if isinstance(step, Claim) else None
    owning.broker.prepare = gives([(b"2-0", (b"x", b"1"))])
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        assert rung == [1]
        owning.owned.dirty = False
        owning.reader.give([(b"3-0", (b"x", b"1"))])
        await anyio.sleep(5.0)
        assert rung == [1, 3]
        owning.owned.lose("the end of this test")
        await anyio.sleep(1.0)
