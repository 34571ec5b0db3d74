"""Where the tests of trimming play: in memory, in virtual time, and on real servers, where leases and calls have time enough."""

from __future__ import annotations

import itertools
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest

from redisaq import Admin, Consumer, Producer, events
from redisaq.testing import virtual_run
from tests.server_fixtures import ServerPool

LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
_turns: Iterator[int] = itertools.count()


class Place:
    """One topic in a namespace of its own.

    Attributes:
        unit: a moment, in seconds: the `send_timeout` of producers, for which entries are kept at least. A call takes less.
    """

    def __init__(self, url: str, namespace: str, unit: float) -> None:
        self.url = url
        self.namespace = namespace
        self.unit = unit
        self.events: list[events.Event] = []

    def producer(self, **more: Any) -> Producer:
        options: dict[str, Any] = {"retention": "acked", "send_timeout": self.unit, **more}
        return Producer("jobs", self.url, namespace=self.namespace, **options)

    def consumer(self, group: str = "main", **more: Any) -> Consumer[Any]:
        options: dict[str, Any] = {"heartbeat_interval": 0.1, "heartbeat_ttl": 10.0, "on_event": self.events.append, **more}
        return Consumer("jobs", self.url, namespace=self.namespace, group_name=group, **options)

    async def length(self) -> int:
        async with Admin(self.url, namespace=self.namespace) as admin:
            return (await admin.topic("jobs")).length

    async def until_length(self, most: int) -> None:
        with anyio.fail_after(60):
            while await self.length() > most:
                await anyio.sleep(0.05)

    def of(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


async def handle(message: object) -> None:
    """Do nothing."""


def on(*servers: str) -> Callable[[Callable[[Place], Awaitable[None]]], Callable[..., None]]:
    """Return a decorator: let a test run in memory on both backends, and on each of these servers, on an event loop whose turn it is.

    `REDISAQ_MATRIX=all` runs each server with each event loop.
    """

    def decorate(test: Callable[[Place], Awaitable[None]]) -> Callable[..., None]:
        everything = [(server, loop) for server in servers for loop in LOOPS]
        turn = next(_turns)
        in_turn = [(server, list(LOOPS)[(turn + n) % len(LOOPS)]) for n, server in enumerate(servers)]
        pairs = [("memory", "trio"), ("memory", "asyncio"), *(everything if os.environ.get("REDISAQ_MATRIX") == "all" else in_turn)]

        @pytest.mark.parametrize(("kind", "loop"), pairs)
        def run(kind: str, loop: str, namespace: str, server_pool: ServerPool) -> None:
            if kind == "memory":
                virtual_run(test, Place(f"memory://{namespace}", namespace, 0.1), backend="trio" if loop == "trio" else "asyncio")
                return
            if loop == "uvloop":
                pytest.importorskip("uvloop")
            name, options = LOOPS[loop]
            place = Place(server_pool.shared(kind).url, namespace, 1.5)
            anyio.run(test, place, backend=name, backend_options=options)

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return decorate
