"""Steps on a group's document, its members, and the group in each stream, at a store; see steps.coordination."""

from __future__ import annotations

from redisaq.brokers.memory.registry import does
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.memory.topics import known_state
from redisaq.brokers.steps.coordination import Beat, Commit, Heartbeat, MakeGroup
from redisaq.core.entry_ids import START


@does(MakeGroup)
def make_group(store: MemoryStore, step: MakeGroup) -> None:
    """Make the group in the stream if it is not there (G6)."""
    stream = store.make_stream(*step.place)
    stream.make_group(step.group.group, stream.last_id if step.latest else START, younger=step.younger)


@does(Heartbeat)
def heartbeat(store: MemoryStore, step: Heartbeat) -> Beat:
    """Extend the incarnation's time if it is alive (M5, M7)."""
    topic = known_state(store, step.group.topic)
    return store.members(step.group).heartbeat(step, now=store.now(), run_id=store.run_id, topic=topic)


@does(Commit)
def commit(store: MemoryStore, step: Commit) -> bool:
    """Replace the document under its version (M2, M3)."""
    done = store.members(step.group).commit(step, now=store.now(), run_id=store.run_id)
    if done:
        store.ring(step.group)
    return done
