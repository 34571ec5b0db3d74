"""A memory broker that lets a test act before and after single steps: what happens elsewhere in just that moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from redisaq import Consumer
from redisaq.brokers.memory import MemoryBroker, MemoryStore
from redisaq.brokers.memory.registry import carry_out
from redisaq.brokers.steps.growing import NameStream, Publish


async def _nothing(_name: str) -> None:
    """Do nothing."""


class HookedBroker(MemoryBroker):
    """A memory broker with two hooks around each step.

    Attributes:
        before: called with a step's name before it is carried out; what it raises is what the step raises.
        after: called with a step's name once it has been carried out; what it raises takes the place of the answer.
    """

    def __init__(self, name: str, namespace: str = "redisaq") -> None:
        super().__init__(name, namespace)
        self.before: Callable[[str], Awaitable[None]] = _nothing
        self.after: Callable[[str], Awaitable[None]] = _nothing

    async def _operate(self, name: str, step: Callable[..., Any]) -> Any:
        await self.before(name)
        answer = await super()._operate(name, step)
        await self.after(name)
        return answer


def hooked(consumer: Consumer[Any], url: str) -> HookedBroker:
    """Give the consumer such a broker; it does nothing of its own until a test asks for it."""
    broker = HookedBroker(url.removeprefix("memory://"))
    consumer._access.broker = broker
    return broker


def grow_at(store: MemoryStore, topic: str, partitions: int) -> None:
    """Let the topic have grown, in no time."""
    state = store.topics[topic]
    history = (*state.counts, partitions)
    for partition in range(partitions):
        carry_out(store, NameStream(topic, partition, history))
    carry_out(store, Publish(topic, state.generation, history))
