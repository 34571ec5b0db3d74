"""A memory broker that leaves some requests without an answer, as a silent connection does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio

from redisaq import Consumer
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.memory.clients import WaitingRead
from redisaq.errors import ConnectionFailed


class UnansweringBroker(MemoryBroker):
    """A memory broker some of whose requests get no answer.

    Attributes:
        asked: how often each step was asked for.
        unanswered: decides, of a step's name and its number, whether it has no answer.
        executed: what has no answer is carried out all the same.
        breaks: seconds after which the connection of an unanswered request breaks; None: never.
        asked_before_close: how much it had been asked for when it was first closed.
    """

    def __init__(self, name: str, namespace: str = "redisaq") -> None:
        super().__init__(name, namespace)
        self.asked: Counter[str] = Counter()
        self.unanswered: Callable[[str, int], bool] = lambda _name, _number: False
        self.executed = False
        self.breaks: float | None = None
        self.left_out = 0
        self._closed = anyio.Event()
        self.asked_before_close: int | None = None

    async def _operate(self, name: str, step: Callable[..., Any]) -> Any:
        self.asked[name] += 1
        if not self.unanswered(name, self.asked[name]):
            return await super()._operate(name, step)
        self.left_out += 1
        if self.executed:
            answer = await super()._operate(name, step)
            if isinstance(answer, WaitingRead):
                self.store.stop_waiting(answer)
        closed = self._closed
        with anyio.move_on_after(self.breaks if self.breaks is not None else float("inf")):
            await closed.wait()
        raise ConnectionFailed(self.store.url, "nothing was heard", maybe_executed=True)

    async def close(self) -> None:
        """Close the connections: what waits for an answer fails."""
        if self.asked_before_close is None:
            self.asked_before_close = self.asked.total()
        self._closed.set()
        self._closed = anyio.Event()
        await super().close()


def with_silence(consumer: Consumer[Any], url: str) -> UnansweringBroker:
    """Give the consumer such a broker, which answers everything until a test changes that."""
    broker = UnansweringBroker(url.removeprefix("memory://"))
    consumer._access.broker = broker
    return broker
