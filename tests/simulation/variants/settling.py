"""Variants of the rules about settling (S), each with the scenario that shows what goes wrong without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import anyio
from msgspec import structs

from redisaq import Message, RetryPolicy
from redisaq.brokers.memory.holdings import Lease
from redisaq.brokers.memory.shelf import Shelf
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps.settling import Acknowledge, Settled
from redisaq.core.in_flight import InFlight
from redisaq.core.records import Body, Resolution
from redisaq.testing import Report, Simulation
from tests.simulation.variants.breaking import Change, Function
from tests.simulation.variants.crowd import GROUP, QUICK, TOPIC, complain, owned, takes, topic, until
from tests.simulation.variants.variant import Variant
from tests.simulation.variants.wire import Wire

# -- S1 --------------------------------------------------------------------------------------------------------------------------------


def _any_token(original: Function) -> Function:
    def acknowledge(store: MemoryStore, step: Acknowledge) -> Settled:
        answer: Settled = original(store, structs.replace(step, token=store.lease(step.group, step.partition).token))
        return answer

    return acknowledge


async def acknowledged_too_late(sim: Simulation) -> None:
    """An acknowledgement comes when its member has crashed and another has the partition."""
    wire = Wire(sim)
    producer = await topic(sim, 1)
    sim.member("a", TOPIC, takes(0.1), **QUICK)
    await until(lambda: owned(sim, "a") == {0})
    wire.hold("a", "settle", 4.0)
    await producer.enqueue({})
    await until(lambda: bool(wire.befallen))
    await sim.crash("a")
    sim.member("b", TOPIC, takes(3.0), **QUICK)
    await sim.until_quiet()


S1_TOKEN = Variant(
    name="S1 token",
    without="an acknowledgement is accepted under any token",
    changes=[Change(Acknowledge, "", _any_token)],
    scenario=acknowledged_too_late,
    harm=r"settled in \S+ under \d+, while \d+ stands",
)


def _any_life(original: Function) -> Function:
    def take(shelf: Shelf, resolution: Resolution) -> bool:
        if resolution.body.entry_id in shelf.retry:
            del shelf.retry[resolution.body.entry_id]
            return True
        taken: bool = original(shelf, resolution)
        return taken

    return take


async def dies_again_after_redrive(sim: Simulation) -> None:
    """A "dead" whose answer was lost is on its way a second time when an admin redrives the message."""
    wire = Wire(sim)
    producer = await topic(sim, 1)

    async def fails(_message: Message[Any]) -> None:
        raise ValueError("always")

    policy = RetryPolicy(max_attempts=2, backoff=0.1, max_backoff=0.1)
    options: dict[str, Any] = {"heartbeat_interval": 2.0, "heartbeat_ttl": 12.0, "retry": policy}
    sim.member("a", TOPIC, fails, **options)
    await until(lambda: owned(sim, "a") == {0})
    wire.hold("a", "resolve", 3.0, skip=1)  # the first parks it; the second kills it, comes late, and is sent a second time meanwhile
    await producer.enqueue({})
    await until(lambda: len(sim.store.shelf(GROUP, 0).dead) == 1)
    await sim.leave("a")
    async with sim.admin() as admin:
        await admin.redrive(TOPIC, GROUP.group)
    await anyio.sleep(5.0)
    sim.member("b", TOPIC, takes(0.1), **options)
    await sim.until_quiet()


def dead_without_a_run(report: Report) -> list[str]:
    """Find messages that died a second time though no handler had run on them since."""
    found: list[str] = []
    died: dict[str, float] = {}
    for settle in report.settles:
        for entry_id in settle.entry_ids if settle.to == "dead" and settle.accepted else ():
            since = died.get(entry_id)
            if since is not None and not any(run.entry_id == entry_id and since <= run.started <= settle.time for run in report.deliveries):
                found.append(f"{entry_id} died at {since:.3f}, and again at {settle.time:.3f} without a run")
            died[entry_id] = settle.time
    return found


S1_LIFE = Variant(
    name="S1 life",
    without="a message of `retry` is settled whatever its life and attempt",
    changes=[Change(Shelf, "take", _any_life)],
    scenario=dies_again_after_redrive,
    harm="died at .* again at .* without a run",
    check=dead_without_a_run,
)

# -- S3 --------------------------------------------------------------------------------------------------------------------------------


def _taken_out_when_due(original: Function) -> Function:
    def due(shelf: Shelf, now: int, count: int) -> Any:
        bodies, following = original(shelf, now, count)
        for entry_id, _ in bodies:
            del shelf.retry[entry_id]
        return bodies, following

    return due


async def crashes_with_a_due_retry(sim: Simulation) -> None:
    """A member crashes with a message in hand that failed before."""
    producer = await topic(sim, 1)
    failed: set[str] = set()

    async def handle(message: Message[Any]) -> None:
        if message.msg_id not in failed:
            failed.add(message.msg_id)
            raise ValueError("once")
        await anyio.sleep(1.0)

    options: dict[str, Any] = QUICK | {"retry": RetryPolicy(backoff=0.1, max_backoff=0.1)}
    sim.member("a", TOPIC, handle, **options)
    await until(lambda: owned(sim, "a") == {0})
    await producer.batch_enqueue([{}] * 3)
    await anyio.sleep(0.6)
    await sim.crash("a")
    sim.member("b", TOPIC, handle, **options)
    await sim.until_quiet()


S3 = Variant(
    name="S3",
    without="a due retry is taken out of `retry` when it is fetched",
    changes=[Change(Shelf, "due", _taken_out_when_due)],
    scenario=crashes_with_a_due_retry,
    harm="is neither done nor dead|is nowhere",
)


def _knows_nothing(original: Function) -> Function:
    def due(flights: InFlight, bodies: Sequence[Body], now: int) -> Any:
        for body in bodies:
            flights.flights.pop(body.entry_id, None)
        return original(flights, bodies, now)

    return due


async def runs_long_after_a_failure(sim: Simulation) -> None:
    """Messages that failed once take long, while others fail and make the retry timer look again."""
    producer = await topic(sim, 1)
    failed: set[str] = set()
    running: set[str] = set()

    async def handle(message: Message[Any]) -> None:
        if message.msg_id in running:
            complain(sim, f"{message.msg_id} runs twice at once in one process")
        running.add(message.msg_id)
        try:
            if message.msg_id not in failed:
                failed.add(message.msg_id)
                raise ValueError("once")
            await anyio.sleep(1.0)
        finally:
            running.discard(message.msg_id)

    options: dict[str, Any] = QUICK | {"ordering": "none", "concurrency": 8}
    sim.member("a", TOPIC, handle, **options, retry=RetryPolicy(backoff=0.1, max_backoff=0.1))
    await until(lambda: owned(sim, "a") == {0})
    for _ in range(8):
        await producer.enqueue({})
        await anyio.sleep(0.2)
    await sim.until_quiet()


S3_KNOWN = Variant(
    name="S3 known",
    without="the record of what is in flight is not asked",
    changes=[Change(InFlight, "due", _knows_nothing)],
    scenario=runs_long_after_a_failure,
    harm="runs twice at once in one process",
)

# -- S5 --------------------------------------------------------------------------------------------------------------------------------


def _token_kept(_original: Function) -> Function:
    def spend(lease: Lease, _position: object, _delivered: object, _now: int) -> None:
        lease.moves += 1

    return spend


def _outcome_kept(_original: Function) -> Function:
    def moved(flights: InFlight, token: int, _position: bytes, _delivered: bytes) -> None:
        flights.standing = token

    return moved


async def _moved_back(sim: Simulation) -> None:
    async with sim.admin() as admin:
        await admin.pause(TOPIC, GROUP.group)
        await admin.seek(TOPIC, GROUP.group, "earliest")
        await admin.resume(TOPIC, GROUP.group)


async def acknowledged_from_before_the_seek(sim: Simulation) -> None:
    """An acknowledgement comes late, after it has been sent again, and after an admin has moved the group back."""
    wire = Wire(sim)
    producer = await topic(sim, 1)
    runs = 0

    async def handle(_message: Message[Any]) -> None:
        nonlocal runs
        runs += 1
        await anyio.sleep(0.1 if runs == 1 else 6.0)

    sim.member("a", TOPIC, handle, **QUICK)
    await until(lambda: owned(sim, "a") == {0})
    wire.hold("a", "settle", 3.0)
    await producer.enqueue({})
    await until(lambda: sum(settle.accepted for settle in sim.record.settles) == 1)
    await _moved_back(sim)
    await anyio.sleep(4.0)  # it runs again while the first acknowledgement arrives; then its member dies
    await sim.crash("a")
    sim.member("b", TOPIC, takes(0.1), **QUICK)
    await sim.until_quiet()


async def done_as_the_group_is_moved(sim: Simulation) -> None:
    """The acknowledgement of what was handled before an admin moves the group back is sent when it has been delivered again."""
    wire = Wire(sim)
    producer = await topic(sim, 1)
    runs = 0

    async def handle(_message: Message[Any]) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            wire.lose_reply("a", "settle")
        await anyio.sleep(0.1)

    sim.member("a", TOPIC, handle, **QUICK)
    await until(lambda: owned(sim, "a") == {0})
    wire.slow("a", 2.0, "settle")
    await producer.enqueue({})
    await until(lambda: sum(settle.accepted for settle in sim.record.settles) == 1)
    await _moved_back(sim)
    await anyio.sleep(1.0)
    await until(lambda: sum(settle.accepted for settle in sim.record.settles) == 2)
    await sim.crash("a")
    sim.member("b", TOPIC, takes(0.1), **QUICK)
    await sim.until_quiet()


def not_run_again(report: Report) -> list[str]:
    """Find messages that did not run to their ends twice."""
    ends = Counter(run.entry_id for run in report.deliveries if run.outcome == "returned")
    return [f"{entry_id} was moved back, and not run again" for entry_id, times in ends.items() if times < 2]


S5 = Variant(
    name="S5",
    without="a seek leaves the token as it is",
    changes=[Change(Lease, "spend", _token_kept)],
    scenario=acknowledged_from_before_the_seek,
    harm="was moved back, and not run again",
    check=not_run_again,
)

S5_OUTCOMES = Variant(
    name="S5 outcomes",
    without="what was done before a seek is settled under the new token",
    changes=[Change(InFlight, "moved", _outcome_kept)],
    scenario=done_as_the_group_is_moved,
    harm="was moved back, and not run again",
    check=not_run_again,
)
