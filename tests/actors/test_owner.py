"""One owner, step by step: how it takes its partition, gives it back and loses it, and what it reports (T1 to T5). In virtual time."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq import events
from redisaq.actors import Supervisor
from redisaq.brokers.steps.leases import Fence, Install, Installed, Release, SetDeliveries
from redisaq.brokers.terms import ReaderMark
from redisaq.consuming.owner import Ended
from redisaq.errors import ServerError
from tests.actors.group import TRIO_ALONE
from tests.actors.owning_world import TTL, Owning, entries

pytestmark = TRIO_ALONE
MARK = ReaderMark(99, "there", "run")


async def test_t1_it_installs_fences_claims_and_reads_and_gives_back_in_order() -> None:
    owning = Owning()
    owning.broker.instead = lambda step: Installed(True, 5, "other", (MARK,)) if isinstance(step, Install) else None
    owning.broker.prepare = lambda reader: reader.answers.append(entries(1, 3))
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        assert owning.steps() == ["install", "fence", "claim", "sight"]
        assert [(step.token, step.readers) for step in owning.broker.of(Fence)] == [(5, (MARK,))]
        assert owning.told == ["PartitionAcquired"]
        assert owning.taken == [0]
        assert [flight.entry for batch in owning.workers.got for flight in batch] == [b"1-0", b"2-0", b"3-0"]
        first = owning.begin(1)
        owning.broker.steps.clear()
        owning.owner.drain(30.0)
        await anyio.sleep(10.0)
        assert owning.steps() == [], "a handler runs"
        assert owning.reader.calls == ["finish", "close"]
        owning.owned.flights.cancelled(first)
        owning.owned.changed()
        await anyio.sleep(1.0)
        assert owning.steps() == ["set_deliveries", "sight", "release"]
        assert [step.counts for step in owning.broker.of(SetDeliveries)] == [{b"2-0": 0, b"3-0": 0}]
        assert owning.ended == [(10.001, Ended(0, 5, "me", released=True))]
        assert owning.told == ["PartitionAcquired", "PartitionRevoked"]
        assert owning.taken == [0, 0]


@pytest.mark.parametrize(("first", "again", "ends"), [(30.0, None, 30.0), (0.5, 0.5, 0.5), (30.0, 0.0, 0.25), (0.0, None, 0.0)])
async def test_handlers_have_the_time_that_was_granted_first_unless_there_is_none_any_more(
    first: float, again: float | None, ends: float
) -> None:
    owning = Owning()
    owning.broker.prepare = lambda reader: reader.answers.append(entries(1, 1))
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        owning.begin(1)
        began = owning.now
        owning.owner.drain(first)
        await anyio.sleep(0.25)
        assert not owning.owned.may_start
        if again is not None:
            owning.owner.drain(again)
        await anyio.sleep(40.0)
    assert [round(when - began, 3) for when, _ in owning.ended] == [ends]


async def test_one_that_is_wanted_back_before_anything_was_sent_has_nothing_to_take_back() -> None:
    owning = Owning()
    owning.owner.drain(5.0)
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        await anyio.sleep(1.0)
    assert owning.steps() == ["release"]
    assert [end for _, end in owning.ended] == [Ended(0, 5, "me", released=True)]
    assert owning.told == [], "it never had it"
    assert owning.taken == [0]


@pytest.mark.parametrize("stands", [True, False])
async def test_t3_one_that_is_wanted_back_while_it_takes_leaves_no_reader_of_its_predecessor(*, stands: bool) -> None:
    """Its Install has been sent and not answered: it asks again whether its token is beside the data."""
    owning = Owning()

    def instead(step: Any) -> Any:
        if isinstance(step, Install):
            if len(owning.broker.of(Install)) == 1:
                return anyio.sleep_forever()
            return Installed(stands, 5 if stands else 4, "me" if stands else "other", (MARK,))
        return None

    owning.broker.instead = instead
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        owning.owner.drain(5.0)
        await anyio.sleep(1.0)
    assert owning.steps() == ["install", "install", *["fence"] * stands, "release"]
    assert owning.broker.readers == []
    assert [end for _, end in owning.ended] == [Ended(0, 5, "me", released=True)]
    assert owning.told == []


@pytest.mark.parametrize(("raised", "ends"), [(None, True), (9, False)])
async def test_t2_one_whose_token_is_used_up_asks_for_a_greater_one_or_ends(raised: int | None, *, ends: bool) -> None:
    owning = Owning()
    owning.raised = raised
    owning.broker.instead = lambda step: Installed(False, 8, "other") if isinstance(step, Install) and step.token < 9 else None
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        assert owning.asked == [(0, 8)]
        assert [step.token for step in owning.broker.of(Install)] == ([5] if ends else [5, 9])
        assert owning.taken == [0], "nobody waits for it any longer"
        assert owning.broker.readers == [] or not ends
        assert [end for _, end in owning.ended] == ([Ended(0, 5, "me", released=False)] if ends else [])
        assert owning.told == [] if ends else owning.told == ["PartitionAcquired"]
        owning.owner.drain(0.0)
        await anyio.sleep(1.0)
    assert len(owning.ended) == 1


async def test_m8_nobody_waits_for_one_that_has_to_wait_for_a_foreign_holder() -> None:
    owning = Owning()
    owning.broker.instead = lambda step: Installed(False, 3, "other") if isinstance(step, Install) else None
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        assert owning.taken == [0]
        assert owning.broker.readers == []
        await anyio.sleep(1.0)
        assert [round(time - owning.began, 3) for time in owning.broker.times(Install)] == [0.0, 0.05, 0.15, 0.35, 0.75]
        owning.owner.drain(0.0)
        await anyio.sleep(1.0)


async def test_m5_one_whose_time_is_over_when_it_could_begin_does_not() -> None:
    """A process that was suspended while it closed its predecessor's readers."""
    owning = Owning()

    async def fence() -> bool:
        await anyio.lowlevel.checkpoint()
        owning.lease.deadline = anyio.current_time() - 1
        return True

    owning.broker.instead = lambda step: fence() if isinstance(step, Fence) else None
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        await anyio.sleep(1.0)
    assert owning.steps() == ["install", "fence"]
    assert [end for _, end in owning.ended] == [Ended(0, 5, "me", released=False)]
    assert (owning.told, owning.taken, owning.broker.readers) == ([], [0], [])


@pytest.mark.parametrize("way", ["lost", "expired"])
async def test_what_is_lost_is_reported_with_the_reason_and_what_was_unsettled(way: str) -> None:
    owning = Owning()
    owning.broker.prepare = lambda reader: reader.answers.append(entries(1, 3))
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        if way == "lost":
            owning.owned.lose("somebody has it")
        await anyio.sleep(TTL)
    reasons = {"lost": "somebody has it", "expired": "the lease ran out"}
    (event,) = owning.notebook.of(events.LeaseLost)
    assert (event.partition, event.token, event.reason, event.unsettled) == (0, 5, reasons[way], 3)
    assert [end for _, end in owning.ended] == [Ended(0, 5, "me", released=False)]
    assert owning.steps(Release) == []
    assert owning.ended[0][0] == (0.001 if way == "lost" else 50.0)


async def test_a_server_that_does_not_answer_holds_a_partition_up_for_six_seconds_at_most() -> None:
    """Five to settle and release, and one for the farewell; others have to wait for the lease then."""
    owning = Owning()
    owning.broker.instead = lambda step: anyio.sleep_forever() if isinstance(step, Release) else None
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        owning.owner.drain(30.0)
        await anyio.sleep(20.0)
    assert owning.ended == [(6.001, Ended(0, 5, "me", released=False))]
    assert owning.steps(Release) == ["release", "release"]
    (event,) = owning.notebook.of(events.LeaseLost)
    assert event.reason == "it could not be given back in time"


async def test_one_that_is_wanted_back_while_it_takes_waits_for_five_seconds_at_most() -> None:
    owning = Owning()
    owning.broker.instead = lambda step: anyio.sleep_forever() if isinstance(step, Install) else None
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        owning.owner.drain(30.0)
        await anyio.sleep(20.0)
    assert owning.ended == [(5.001, Ended(0, 5, "me", released=False))]
    assert owning.told == []


@pytest.mark.parametrize("given_up", [False, True])
async def test_one_that_is_cancelled_hands_its_partition_back_unless_its_consumer_has_given_up(*, given_up: bool) -> None:
    owning = Owning()
    owning.broker.prepare = lambda reader: reader.answers.append(entries(1, 3))
    with anyio.move_on_after(1.0):
        async with Supervisor() as supervisor:
            await owning.start(supervisor)
            owning.around.given_up = given_up
            owning.broker.steps.clear()
            await anyio.sleep_forever()
    assert owning.steps() == ([] if given_up else ["set_deliveries", "sight", "release"])
    assert [end for _, end in owning.ended] == [Ended(0, 5, "me", released=not given_up)]


async def test_s5_a_release_that_is_refused_under_its_token_loses_the_partition() -> None:
    owning = Owning()
    owning.broker.instead = lambda step: False if isinstance(step, Release) else None
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        owning.owner.drain(0.0)
        await anyio.sleep(10.0)
    (event,) = owning.notebook.of(events.LeaseLost)
    assert event.reason == "its release was refused: another token is current"
    assert [end for _, end in owning.ended] == [Ended(0, 5, "me", released=False)]
    assert owning.steps(Release) == ["release"]


async def test_a_server_that_refuses_the_counts_is_released_from_and_the_refusal_is_raised() -> None:
    owning = Owning()

    def instead(step: Any) -> Any:
        if isinstance(step, SetDeliveries):
            raise ServerError("NOPERM no counts")
        return None

    owning.broker.instead = instead
    owning.broker.prepare = lambda reader: reader.answers.append(entries(1, 3))
    with pytest.raises(ServerError, match="NOPERM"):
        await owning.run(1.0)
    assert [end for _, end in owning.ended] == [Ended(0, 5, "me", released=True)]
    assert owning.told == ["PartitionAcquired", "PartitionRevoked"]


@pytest.mark.parametrize(
    ("opened", "sure", "paused", "ordering", "passed"),
    [
        (0, True, False, "key", False),
        (1, True, False, "key", False),
        (2, True, False, "key", True),
        (3, True, False, "key", True),
        (2, False, False, "key", None),
        (2, True, True, "key", None),
        (1, False, False, "key", False),
        (0, True, False, "none", "no barrier"),
    ],
)
async def test_g4_what_came_by_a_growth_waits_unless_the_group_has_opened_it(
    *, opened: int, sure: bool, paused: bool, ordering: str, passed: Any
) -> None:
    """Where an administrator may have moved the group meanwhile, the server is asked."""
    owning, looks = Owning(history=(1, 2, 4), partition=3, ordering=ordering), list[str]()
    owning.around.look_at_growth = lambda: looks.append("look")
    owning.around.gate.move(closed=paused)
    owning.owner._wait_behind_barrier(opened, sure=sure)
    barrier = owning.owned.barrier
    if passed == "no barrier":
        assert barrier is None
        assert looks == []
    else:
        assert barrier is not None
        assert (barrier.passed, barrier.since) == (passed, owning.began)
        assert (owning.owned.gate.closed, looks) == (not passed, ["look"])


async def test_g4_what_was_there_from_the_beginning_waits_for_nothing() -> None:
    owning, looks = Owning(history=(1, 2, 4), partition=0), list[str]()
    owning.around.look_at_growth = lambda: looks.append("look")
    owning.owner._wait_behind_barrier(0, sure=True)
    assert (owning.owned.barrier, looks) == (None, [])


@pytest.mark.parametrize(("moved", "passed"), [(False, True), (True, None)])
async def test_g4_it_is_sure_of_what_the_group_has_opened_unless_that_was_paused_meanwhile(*, moved: bool, passed: bool | None) -> None:
    owning = Owning(history=(1, 2), partition=1)

    def instead(step: Any) -> Any:
        if isinstance(step, Install):
            owning.around.gate.moves += moved
            return Installed(True, 5, "", opened=1)
        return None

    owning.broker.instead = instead
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        assert owning.owned.barrier is not None
        assert owning.owned.barrier.passed is passed
        owning.owner.drain(0.0)
        await anyio.sleep(1.0)


async def test_m7_what_this_process_held_itself_is_not_foreign_to_it() -> None:
    owning = Owning()
    owning.lease.former = {"mine"}
    owning.lease.frozen_until = 1 << 60
    owning.broker.instead = lambda step: Installed(False, 4, "mine") if isinstance(step, Install) and not step.foreign else None
    async with Supervisor() as supervisor:
        await owning.start(supervisor)
        assert [step.foreign for step in owning.broker.of(Install)] == [False, True]
        assert owning.told == ["PartitionAcquired"]
        owning.owner.drain(0.0)
        await anyio.sleep(1.0)
