"""Steps on a group's document, its members, and the group in each stream, at a store; see steps.coordination."""

from __future__ import annotations

from redisaq.brokers.memory.registry import does
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.memory.topics import known_state
from redisaq.brokers.steps.coordination import Beat, Commit, Heartbeat, MakeGroup, ReadRunning, TellRunning, Wait, Watch
from redisaq.core.entry_ids import START
from redisaq.core.records import microseconds
from redisaq.core.running import Report
from redisaq.core.waiting import Room


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


@does(Wait)
def wait(store: MemoryStore, step: Wait) -> Room:
    """Let one wait that wants to join."""
    return store.members(step.group).wait(step, store.now())


@does(Watch)
def watch(store: MemoryStore, step: Watch) -> None:
    """Let heartbeats say for some time that the group is watched."""
    found = store.coordination.get(step.group)
    if found is not None and found.state is not None:
        found.watched_until = store.now() + microseconds(step.seconds)


@does(TellRunning)
def tell_running(store: MemoryStore, step: TellRunning) -> None:
    """Keep what a member has in handlers."""
    if not store.full:
        store.members(step.group).tell(step.incarnation, step.report, now=store.now(), until=store.now() + microseconds(step.ttl))


@does(ReadRunning)
def read_running(store: MemoryStore, step: ReadRunning) -> Report | None:
    """Return what a member has in handlers."""
    found = store.coordination.get(step.group)
    return None if found is None else found.told(step.incarnation, store.now())
