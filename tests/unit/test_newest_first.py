"""Dead letters of many partitions, newest death first: in order, in few round trips, and with few of them in memory."""

from __future__ import annotations

from random import Random
from typing import Any, cast

import anyio
import pytest
from msgspec import Struct

from redisaq.administering.asking import AT_ONCE
from redisaq.administering.dead import NewestFirst
from redisaq.core.entry_ids import parse_id


class Letter(Struct):
    dead_id: bytes


class Server:
    """Answers as a server with these letters, by partition, oldest first; and counts the writes."""

    def __init__(self, letters: dict[int, list[Letter]]) -> None:
        self.letters = letters
        self.writes = 0

    async def do_each(self, steps: list[tuple[int, bytes, int]]) -> list[list[Letter]]:
        self.writes += 1
        assert len(steps) <= AT_ONCE, "all within the time of one call"
        await anyio.lowlevel.checkpoint()
        return [self._page(*step) for step in steps]

    def _page(self, number: int, below: bytes, count: int) -> list[Letter]:
        older = [one for one in self.letters[number] if not below or parse_id(one.dead_id) < parse_id(below)]
        return older[::-1][:count]


@pytest.mark.parametrize(("partitions", "per_partition"), [(1000, 3), (1, 3000), (30, 100), (3000, 1)])
@pytest.mark.parametrize(("shape", "most_writes"), [("in turns", 31), ("by chance", 60), ("all of one first", 1010)])
def test_they_come_in_order_in_few_round_trips(partitions: int, per_partition: int, shape: str, most_writes: int) -> None:
    """A round trip for each would be 3,000 of them."""
    owners = [number for _ in range(per_partition) for number in range(partitions)]
    if shape == "by chance":
        Random(7).shuffle(owners)
    elif shape == "all of one first":
        owners.sort()
    letters: dict[int, list[Letter]] = {number: [] for number in range(partitions)}
    for time, number in enumerate(owners):
        letters[number].append(Letter(b"%d-0" % (time + 1)))
    server = Server(letters)

    async def numbers() -> range:
        return range(partitions)

    async def read() -> None:
        reader: NewestFirst[Letter] = NewestFirst(cast("Any", server), numbers, lambda *step: cast("Any", step))
        found: list[tuple[int, bytes]] = []
        while (one := await reader.advance()) is not None:
            found.append((one[0], one[1].dead_id))
            assert sum(map(len, reader._kept.values())) <= AT_ONCE + 2 * partitions
        assert found == [(number, b"%d-0" % (time + 1)) for time, number in reversed(list(enumerate(owners)))]

    anyio.run(read)
    assert server.writes <= most_writes
