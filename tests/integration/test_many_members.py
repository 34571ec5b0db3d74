"""Sixty real consumers that start at one instant, at a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from redisaq import Consumer, Message, Producer
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.terms import GroupName
from redisaq.core.membership import EMPTY, Document, read_document

if TYPE_CHECKING:
    from tests.servers import Server

MEMBERS = 60


def changes(server: Server) -> int:
    """Return how often the server was asked to ring a doorbell: here, only who changes the document does that."""
    _, _, said = server.command("INFO", "commandstats").decode().partition("cmdstat_spublish:calls=")
    return int(said.partition(",")[0] or 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_sixty_members_that_start_at_one_instant_join_by_a_few_changes(valkey_server: Server, namespace: str) -> None:
    """M11, M12: each by itself, they took 198."""
    async with Producer("jobs", valkey_server.url, namespace=namespace, init_partitions=MEMBERS):
        pass
    names = Keys(namespace).group(GroupName("jobs", "default_group"))
    consumers = [Consumer("jobs", valkey_server.url, namespace=namespace, heartbeat_ttl=60.0) for _ in range(MEMBERS)]

    async def handle(message: Message[object]) -> None:
        """Nothing is sent."""

    def document() -> Document:
        return read_document(valkey_server.command("HGET", names.state, "doc")) or EMPTY

    before = changes(valkey_server)
    async with anyio.create_task_group() as tasks:
        for consumer in consumers:
            tasks.start_soon(consumer.process, handle)
        with anyio.fail_after(60):
            while not (len((found := document()).lease) == len(found.members) == MEMBERS and found.lease == found.target):
                await anyio.sleep(0.05)
        took = changes(valkey_server) - before
        tasks.cancel_scope.cancel()
    assert 2 <= took <= 20
