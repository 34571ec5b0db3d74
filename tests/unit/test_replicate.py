"""A growth waits for a replica of each server where streams were cut (G7): how it finds these servers, and how long it waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from redisaq.brokers.redis.commands import keys_of
from redisaq.brokers.redis.growing import replicate
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.producing import written_last
from redisaq.brokers.steps.growing import Replicate
from redisaq.errors import ServerError
from redisaq.link import Caller

pytestmark = pytest.mark.anyio

KEYS = Keys("ns")


class Node:
    """One server of a cluster, and its reading connections."""

    url = "redis://node"

    def __init__(self, keeps: Sequence[int], *, replicas: int = 1, confirms: Sequence[int] = (1,)) -> None:
        self._cuts = {KEYS.cuts("orders", partition) for partition in keeps}
        self._replicas = replicas
        self._confirms = list(confirms)
        self.opened = 0
        self.waits: list[int] = []
        self.written: list[bytes] = []

    async def call(self, *commands: Any) -> list[Any]:
        (command,) = commands
        if command[0] == b"INFO":
            return [b"# Replication\r\nrole:master\r\nconnected_slaves:%d\r\n" % self._replicas]
        (key,) = keys_of(command)
        assert command[:4] == (*written_last(KEYS, "orders", 0)[:3], key)
        if key not in self._cuts:
            return [ServerError("MOVED 1 127.0.0.1:7000")]
        self.written.append(key)
        return [b"OK"]

    async def open_reading(self, _key: bytes) -> Node:
        self.opened += 1
        return self

    async def read(self, command: Any, block: float) -> int:
        name, enough, milliseconds = command
        assert (name, enough) == (b"WAIT", 1), "one replica is enough"
        assert milliseconds == round(block * 1000) <= 1000
        self.waits.append(milliseconds)
        return self._confirms.pop(0) if len(self._confirms) > 1 else self._confirms[0]

    def abort(self) -> None:
        """Do nothing."""


class Servers:
    """The way to them."""

    def __init__(self, *nodes: Node) -> None:
        self._nodes = nodes

    async def nodes(self) -> Sequence[Node]:
        return self._nodes


async def ask(*nodes: Node, within: float = 60.0) -> bool:
    return await replicate(Replicate("orders", 64, within), cast("Caller", Servers(*nodes)), KEYS)


async def test_one_connection_to_each_server_that_was_cut() -> None:
    """However many partitions there are; one that keeps no stream has nothing to wait for, and one without replicas nobody."""
    first, second, other, alone = Node([0, 2, 63]), Node([1, 60]), Node([]), Node([7], replicas=0)
    assert await ask(first, second, other, alone)
    assert [node.opened for node in (first, second, other, alone)] == [1, 1, 1, 0]
    assert [len(node.waits) for node in (first, second, other, alone)] == [1, 1, 0, 0]
    assert first.written == [KEYS.cuts("orders", 0)]
    assert second.written == [KEYS.cuts("orders", 1)]


async def test_it_waits_again_until_a_replica_has_it_or_the_time_is_up() -> None:
    slow, never = Node([0], confirms=(0, 0, 1)), Node([1], confirms=(0,))
    assert await ask(slow)
    assert slow.waits == [1000, 1000, 1000]
    assert not await ask(never, within=0.0)
    assert never.waits == [1]
    assert not await ask(Node([0]), Node([1], confirms=(0,)), within=0.0), "all servers count"
