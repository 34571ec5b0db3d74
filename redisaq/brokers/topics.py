"""Makes a topic with as many partitions as its user asks for."""

from __future__ import annotations

from redisaq.brokers.base import Broker, TopicState
from redisaq.brokers.retention import Terms


async def make_or_grow(broker: Broker, topic: str, partitions: int, *, terms: Terms | None = None) -> TopicState:
    """Make the topic with so many partitions, or let it grow to them; one that has more keeps them.

    Args:
        broker: where.
        topic: its name.
        partitions: the least it is to have.
        terms: what a producer asks of the topic (E3).

    Returns:
        What the topic has then.
    """
    state = await broker.make_topic(topic, partitions, terms=terms)
    return await broker.grow_topic(topic, partitions) if state.partitions < partitions else state
