"""Reading ahead: the server is asked for the next entries while the caller works on the last; each is still seen once, in order."""

from __future__ import annotations

import random

import anyio
import pytest

from redisaq.brokers.steps import Broker
from redisaq.brokers.terms import GroupName
from redisaq.core.records import Entry
from tests.conformance.steps import append, pending, values

pytestmark = pytest.mark.anyio

NUMBERS = [b"%d" % number for number in range(25)]


async def test_each_entry_once_in_order(a: Broker, group: GroupName, owned: int) -> None:
    await append(a, group.topic, 0, *NUMBERS)
    reader = await a.open_reader(group, 0, owned, "A")
    seen: list[list[bytes]] = []
    for _ in range(6):
        seen.append(values(await reader.read(5, 0)))
        reader.ask_ahead(5)
        reader.ask_ahead(5)
    assert [len(part) for part in seen] == [5, 5, 5, 5, 5, 0]
    assert [value for part in seen for value in part] == NUMBERS
    await append(a, group.topic, 0, b"later")
    assert values(await reader.read(5, 1.0)) == [b"later"]
    assert reader.settled


async def test_what_was_read_ahead_is_a_leftover_in_the_end(a: Broker, group: GroupName, owned: int) -> None:
    """Whatever the server has delivered is with the caller, who hands it back; and the reader needs no kill (T3)."""
    sent = await append(a, group.topic, 0, *NUMBERS)
    reader = await a.open_reader(group, 0, owned, "A")
    entries = [*await reader.read(5, 0)]
    reader.ask_ahead(5)
    await reader.finish()
    entries += reader.take_leftover()
    assert reader.settled
    assert list(await pending(a, group, 0, owned)) == [entry_id for entry_id, _ in entries]
    assert [entry_id for entry_id, _ in entries] == sent[: len(entries)]
    await reader.finish()
    assert list(reader.take_leftover()) == [], "once"
    assert values(await reader.read(25, 0)) == NUMBERS[len(entries) :]


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_lost_to_cancellation(a: Broker, b: Broker, group: GroupName, owned: int, seed: int) -> None:
    """Reads are cancelled at random while entries come in, and now and then the reader is finished and replaced."""
    rnd = random.Random(seed)
    count = 200
    seen: list[Entry] = []

    async def produce() -> None:
        for number in range(0, count, 5):
            await append(b, group.topic, 0, *(b"%d" % one for one in range(number, number + 5)))
            await anyio.sleep(rnd.choice((0, 0, 0.001)))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(produce)
            reader = await a.open_reader(group, 0, owned, "A")
            while len(seen) < count:
                with anyio.move_on_after(rnd.choice((0, 0, 0.0005, 0.002, 0.005))):
                    seen += await reader.read(4, 0.5)
                    if rnd.random() < 0.8:
                        reader.ask_ahead(4)
                seen += reader.take_leftover()
                if rnd.random() < 0.2:
                    await reader.finish()
                    seen += reader.take_leftover()
                    assert reader.settled
                    await reader.close()
                    reader = await a.open_reader(group, 0, owned, "A")
    assert values(seen) == [b"%d" % number for number in range(count)]
    assert list(await pending(a, group, 0, owned)) == [entry_id for entry_id, _ in seen]
