"""A predecessor frozen while it reads must not get the next entry: T4 ends what waits in the server, T3 what comes late."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import anyio
import pytest

from redisaq import Producer
from tests.chaos.crew import Crew, until
from tests.chaos.holding_proxy import HoldingProxy

if TYPE_CHECKING:
    from tests.servers import Server


@pytest.fixture
def crew(server: Server, namespace: str) -> Iterator[Crew]:
    crew = Crew(server.url, "jobs", namespace, interval=0.3, ttl=2.4)
    yield crew
    crew.close()


def blocked_reads(server: Server) -> int:
    """Return how many clients wait inside the server for an entry."""
    text: bytes = server.command("INFO", "clients")
    return int(text.split(b"blocked_clients:")[1].split()[0])


def pending(server: Server, crew: Crew) -> int:
    """Return how many entries are delivered and not acknowledged."""
    return int(server.command("XPENDING", f"{{{crew.base.namespace}:jobs:0}}:0", "default_group")[0])


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_order_holds_over_a_client_frozen_in_a_read(server: Server, crew: Crew, backend: str) -> None:
    async def main() -> None:
        async with Producer(crew.base.topic, crew.base.url, namespace=crew.base.namespace) as producer:
            first = await producer.batch_enqueue([{"n": n} for n in range(3)])
            frozen = crew.start("frozen", backend, step=0.001)
            await until(lambda: set(first) <= crew.done(), 30, "the first messages handled")
            await until(lambda: blocked_reads(server) >= 1, 30, "a read that waits")
            frozen.process.send_signal(signal.SIGSTOP)
            successor = crew.start("successor", backend, step=0.001)
            await until(lambda: bool(successor.said("PartitionAcquired")), 30, "a takeover")
            ids = [await producer.enqueue({"n": n}) for n in range(20)]
            await until(lambda: set(ids) <= crew.done(), 30, "every message with the successor")
            assert [line.msg_id for line in successor.said("start")] == ids
            frozen.process.send_signal(signal.SIGCONT)
            await until(lambda: len(frozen.said("joined")) == 2, 30, "the frozen one back as a new member")
            for name in ("frozen", "successor"):
                await crew.leave(name)
        assert pending(server, crew) == 0

    anyio.run(main)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_order_holds_over_a_read_that_arrives_late(server: Server, crew: Crew, backend: str) -> None:
    """T3: the read has been sent, and reaches the server after the takeover. Its connection has been killed by then."""
    proxy = HoldingProxy(server.port)

    async def main() -> None:
        async with Producer(crew.base.topic, crew.base.url, namespace=crew.base.namespace) as producer:
            first = await producer.batch_enqueue([{"n": n} for n in range(3)])
            frozen = crew.start("frozen", backend, step=0.001, url=f"redis://127.0.0.1:{proxy.port}/0")
            await until(lambda: set(first) <= crew.done(), 30, "the first messages handled")
            await until(lambda: pending(server, crew) == 0, 30, "their acknowledgements")
            proxy.hold()
            held = await producer.enqueue({"n": 3})  # ends the read that waits; its acknowledgement is held, too
            await until(lambda: b"XREADGROUP" in proxy.held(), 30, "a read on its way")
            frozen.process.send_signal(signal.SIGSTOP)
            successor = crew.start("successor", backend, step=0.001)
            await until(lambda: bool(successor.said("PartitionAcquired")), 30, "a takeover")
            proxy.release()
            ids = [held] + [await producer.enqueue({"n": n}) for n in range(20)]
            await until(lambda: {line.msg_id for line in successor.said("done")} == set(ids), 30, "every message with the successor")
            assert [line.msg_id for line in successor.said("start")] == ids
            frozen.process.send_signal(signal.SIGCONT)
            await until(lambda: len(frozen.said("joined")) == 2, 30, "the frozen one back as a new member")
            for name in ("frozen", "successor"):
                await crew.leave(name)

    try:
        anyio.run(main)
    finally:
        proxy.close()
