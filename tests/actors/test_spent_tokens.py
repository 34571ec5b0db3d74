"""A loss uses up the token: clients that number things by tokens must not see the same one again when the partition is taken again."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import anyio
import pytest

from redisaq import Message, events
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.terms import GroupName
from redisaq.errors import LeaseLostError
from redisaq.testing import virtual_run
from tests.actors.group import Notebook, produce, quick

GROUP = GroupName("jobs", "default_group")


async def loses_the_token_beside_the_data(url: str) -> tuple[Notebook, list[tuple[int, int]]]:
    """Handle three messages; during each, the keys beside the data are lost while the lease in the document stays."""
    notebook = Notebook()
    await produce(url, 3)
    store = MemoryBroker(url.removeprefix("memory://"), "redisaq").store
    runs: list[tuple[int, int]] = []

    async def handle(message: Message[Any]) -> None:
        number = message.payload["n"]
        runs.append((number, message.token))
        if sum(one == number for one, _ in runs) == 1:
            await anyio.sleep(1)
            store.leases.pop((GROUP, 0))
            store.ring(("jobs", 0))  # its owner asks what is due, and is refused
            await anyio.sleep(20)

    await quick(url, on_event=notebook.note).process(handle, until_empty=True)
    return notebook, runs


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_partition_that_was_lost_is_taken_again_under_a_greater_token(backend: Literal["trio", "asyncio"]) -> None:
    """M6, T2: even if its lease is never interrupted."""
    for seed in range(3):
        notebook, runs = virtual_run(loses_the_token_beside_the_data, "memory://spent", seed=seed, backend=backend)
        acquired = [event.token for event in notebook.of(events.PartitionAcquired)]
        assert len(notebook.of(events.LeaseLost)) == len(acquired) - 1 == 3
        assert all(earlier < later for earlier, later in itertools.pairwise(acquired))
        assert [number for number, _ in runs] == [0, 0, 1, 1, 2, 2]
        assert len(set(runs)) == 6
        assert len(notebook.of(events.MemberJoined)) == 1


async def cannot_keep_its_partition(url: str) -> list[float]:
    """Refuse the reader of each owner, ten times; return when each was refused."""
    refused: list[float] = []
    open_reader = MemoryBroker.open_reader

    async def refuse(broker: MemoryBroker, *arguments: Any, **more: Any) -> Any:
        if len(refused) < 10:
            refused.append(anyio.current_time())
            raise LeaseLostError("another token stands")
        return await open_reader(broker, *arguments, **more)

    await produce(url, 1)
    notebook = Notebook()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryBroker, "open_reader", refuse)
        await quick(url).process(notebook.handle, until_empty=True)
    assert notebook.numbers == [0]
    return refused


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_partition_that_cannot_be_kept_is_not_taken_again_without_a_pause(backend: Literal["trio", "asyncio"]) -> None:
    refused = virtual_run(cannot_keep_its_partition, "memory://refused", backend=backend)
    assert min(later - earlier for earlier, later in itertools.pairwise(refused)) > 0.19
