"""Variants of the rules about taking a partition and giving it back (T), each with the scenario that shows what goes wrong without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
from msgspec import structs

from redisaq import Message, RetryPolicy
from redisaq.brokers.memory.holdings import Lease
from redisaq.brokers.memory.registry import carry_out
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps.leases import Claim, Fence, Installed, RemakeGroup, SetDeliveries
from redisaq.consuming.owner import PartitionOwner
from redisaq.testing import FaultPlan, Report, Simulation
from tests.simulation.variants.breaking import Change, Function
from tests.simulation.variants.crowd import GROUP, QUICK, TOPIC, complain, crowd, owned, takes, topic, until
from tests.simulation.variants.variant import Variant

# -- T2 --------------------------------------------------------------------------------------------------------------------------------


def _installs_whatever_comes(_original: Function) -> Function:
    def install(lease: Lease, token: int, incarnation: str, *, foreign: bool) -> Installed:
        del foreign
        before = lease.holder
        lease.token, lease.holder = token, incarnation
        return Installed(done=True, token=token, holder=before, readers=tuple(lease.readers))

    return install


T2 = Variant(
    name="T2",
    without="a token is installed whatever stands there",
    changes=[Change(Lease, "install", _installs_whatever_comes)],
    scenario=crowd(),
    harm=r"was installed in \S+ over",
    plan=FaultPlan(late_request=0.08, delay=(0.0, 0.1), crash=0.06, pause=0.06),
)

# -- T3 --------------------------------------------------------------------------------------------------------------------------------

BUSY = crowd(partitions=2, messages=300, every=0.05, seconds=0.02, batch_size=4, heartbeat_interval=0.3, heartbeat_ttl=1.0)
OVERTAKEN = r"which waits for its turn|for the first time after|still holds something"


def _kills_nobody(_original: Function) -> Function:
    def fence(store: MemoryStore, step: Fence) -> bool:
        lease = store.lease(step.group, step.partition)
        if lease.token == step.token:
            lease.readers = [mark for mark in lease.readers if mark not in step.readers]
        return True

    return fence


T3 = Variant(
    name="T3",
    without="the predecessor's reading connections are not killed",
    changes=[Change(Fence, "", _kills_nobody)],
    scenario=BUSY,
    harm=OVERTAKEN,
    plan=FaultPlan(crash=0.06, late_request=0.06, delay=(0.0, 0.02)),
)


def _kills_its_own_never(original: Function) -> Function:
    def fence(store: MemoryStore, step: Fence) -> bool:
        marks = list(store.lease(step.group, step.partition).readers)
        if len(step.readers) == 1 and marks and step.readers[0] == marks[-1]:  # the newest that is registered is the owner's own
            return True
        done: bool = original(store, step)
        return done

    return fence


T3_OWN = Variant(
    name="T3 own",
    without="a reader whose own read broke does not kill it",
    changes=[Change(Fence, "", _kills_its_own_never)],
    scenario=BUSY,
    harm=OVERTAKEN,
    plan=FaultPlan(late_request=0.04, delay=(0.0, 0.02)),
)

# -- T5 --------------------------------------------------------------------------------------------------------------------------------

ATTEMPTS = 3


def _claiming_counts(original: Function) -> Function:
    def claim(store: MemoryStore, step: Claim) -> Any:
        page = original(store, step)
        counts = {entry.entry_id: entry.deliveries + 1 for entry in page.entries}
        carry_out(store, SetDeliveries(step.group, step.partition, step.token, counts, raising=True))
        return original(store, step)

    return claim


def _ends(stays: Sequence[str]) -> Any:
    async def scenario(sim: Simulation) -> None:
        """The owner of a partition crashes, or leaves, again and again, while its first message takes long and the others wait."""
        producer = await topic(sim, 1)
        await producer.batch_enqueue([{}] * 8)
        options: dict[str, Any] = {
            "heartbeat_interval": 0.5,
            "heartbeat_ttl": 2.5,
            "retry": RetryPolicy(max_attempts=ATTEMPTS),
            "drain_timeout": 0.1,
        }
        for number, end in enumerate(stays):
            name = f"m{number}"
            sim.member(name, TOPIC, takes(0.05 if end == "stays" else 60.0), **options)
            await until(lambda name=name: owned(sim, name) == {0})  # type: ignore[misc] # a default binds it
            await anyio.sleep(1.0)
            if end == "crash":
                await sim.crash(name)
            elif end == "leave":
                await sim.leave(name)
        await sim.until_quiet()

    return scenario


def dead_unrun(report: Report) -> list[str]:
    """Find messages that died of too many attempts without so many runs."""
    found: list[str] = []
    for settle in report.settles:
        if settle.to == "dead" and settle.accepted:
            for entry_id in settle.entry_ids:
                runs = sum(run.entry_id == entry_id and run.started <= settle.time for run in report.deliveries)
                if runs < ATTEMPTS:
                    found.append(f"{entry_id} died after {runs} runs of {ATTEMPTS}")
    return found


T5 = Variant(
    name="T5",
    without="a claim raises the delivery counts",
    changes=[Change(Claim, "", _claiming_counts)],
    scenario=_ends(["crash"] * 4 + ["stays"]),
    harm="died after [01] runs",
    check=dead_unrun,
)

# -- T6 --------------------------------------------------------------------------------------------------------------------------------


def _made_at_the_highest(original: Function) -> Function:
    def remake_group(store: MemoryStore, step: RemakeGroup) -> None:
        stream = store.make_stream(*step.place)
        original(store, structs.replace(step, start=b"%d-%d" % stream.last_id))

    return remake_group


async def group_is_lost(sim: Simulation) -> None:
    """The group vanishes from a stream while its first message is being handled; the owner crashes later."""
    producer = await topic(sim, 1)
    slow: set[str] = set()

    async def handle(message: Message[Any]) -> None:
        if message.payload["n"] == 0 and message.msg_id not in slow:
            slow.add(message.msg_id)
            await anyio.sleep(60.0)

    options: dict[str, Any] = QUICK | {"ordering": "none", "concurrency": 4}
    sim.member("a", TOPIC, handle, **options)
    await until(lambda: owned(sim, "a") == {0})
    await producer.enqueue({"n": 0})
    await anyio.sleep(0.5)
    sim.store.forget_cursor(GROUP, 0)
    await producer.batch_enqueue([{"n": n} for n in range(1, 6)])
    await anyio.sleep(0.5)
    await sim.crash("a")
    sim.member("b", TOPIC, handle, **options)
    await sim.until_quiet()


T6 = Variant(
    name="T6",
    without="a lost group is made again behind the last entry",
    changes=[Change(RemakeGroup, "", _made_at_the_highest)],
    scenario=group_is_lost,
    harm="is neither done nor dead",
)

# -- T7 --------------------------------------------------------------------------------------------------------------------------------

PATIENCE = 5.0


def _drains_without_end(original: Function) -> Function:
    async def drain(owner: PartitionOwner, *args: Any, timeout: float, **options: Any) -> None:
        owner._limit = timeout = 1e9
        await original(owner, *args, timeout=timeout, **options)

    return drain


def _handed_over(handler: Any, **options: Any) -> Any:
    async def scenario(sim: Simulation) -> None:
        """A partition is wanted elsewhere while its owner is busy."""
        producer = await topic(sim, 2)
        options_: dict[str, Any] = QUICK | {"drain_timeout": 2.0} | options
        sim.member("a", TOPIC, handler, **options_)
        await until(lambda: owned(sim, "a") == {0, 1})
        await producer.batch_enqueue([{}] * 2)
        await anyio.sleep(0.5)
        sim.member("b", TOPIC, takes(0.01), **options_)
        began = anyio.current_time()
        while not owned(sim, "b") and anyio.current_time() < began + 120:
            await anyio.sleep(0.05)
        if (waited := anyio.current_time() - began) > PATIENCE:
            complain(sim, f"b waited {waited:.1f} s for a partition")
        await sim.until_quiet()

    return scenario


T7 = Variant(
    name="T7",
    without="draining has no bound",
    changes=[Change(PartitionOwner, "_drain", _drains_without_end)],
    scenario=_handed_over(takes(60.0)),
    harm="waited .* s for a partition",
)
