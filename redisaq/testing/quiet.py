"""Check whether a simulated group has come to rest: nothing is left to do, and its partitions are shared out.

Input: the store and the members. Output: one sentence for each condition that is not met yet; empty if everything is quiet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.terms import GroupName
from redisaq.core.membership import Document, decode_document
from redisaq.testing.member import SimulatedMember


def work_left(store: MemoryStore, groups: Sequence[GroupName]) -> list[str]:
    """Return a sentence for each partition that still holds work for a group."""
    left: list[str] = []
    for group in groups:
        topic = store.topics.get(group.topic)
        for partition in range(topic.partitions if topic is not None else 0):
            remaining = store.remaining(group, partition)
            if not remaining.empty:
                left.append(f"{group.topic}/{partition} still holds something for {group.group}: {remaining}")
    return left


def unsettled_groups(store: MemoryStore, groups: Sequence[GroupName], members: Sequence[SimulatedMember]) -> list[str]:
    """Return a sentence for each group that is unsettled.

    A group is settled if its partitions are shared out evenly among exactly the running members, and owned as its document says.
    """
    return [f"{group.topic}, {group.group}: {why}" for group in groups for why in _unsettled(store, group, members)]


def _unsettled(store: MemoryStore, group: GroupName, members: Sequence[SimulatedMember]) -> list[str]:
    document = document_of(store, group)
    topic = store.topics.get(group.topic)
    running = [member.consumer for member in members if member.group == group and member.live and member.consumer is not None]
    if not running or document is None or topic is None:
        return [] if not running else ["there is no document, or no topic"]
    owned: dict[int, str] = {}
    for consumer in running:
        incarnation = consumer.statistics().member
        for partition in consumer.assignment:
            if partition in owned:
                return [f"partition {partition} is owned by {owned[partition]} and {incarnation}"]
            owned[partition] = incarnation
    if owned != document.lease:
        return [f"owned is {owned}, the document says {document.lease}"]
    if len(owned) != topic.partitions:
        return [f"{len(owned)} of {topic.partitions} partitions are owned"]
    holders = [entry.incarnation for entry in document.members.values()]
    listed = {name for entry in document.members.values() for name in (entry.incarnation, *entry.successors)}
    if listed != {consumer.statistics().member for consumer in running}:
        return [f"the document lists {sorted(listed)}, which are not the members that run"]
    loads = Counter(owned.values())
    counts = [loads[holder] for holder in holders]
    return [f"the shares are {counts}"] if max(counts) - min(counts) > 1 else []


def document_of(store: MemoryStore, group: GroupName) -> Document | None:
    """Return the group's document; None if there is none."""
    state = store.members(group).state
    return None if state is None else decode_document(state.document)
