"""Steps on a group's document, its members, and the group in each stream, at a store; see steps.coordination."""

from __future__ import annotations

from redisaq.brokers.memory.registry import does
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.memory.topics import known_state
from redisaq.brokers.steps import coordination as steps
from redisaq.core.entry_ids import START
from redisaq.core.records import microseconds
from redisaq.core.running import Report
from redisaq.core.waiting import Freed, Room


@does(steps.MakeGroup)
def make_group(store: MemoryStore, step: steps.MakeGroup) -> None:
    """Make the group in the stream if it is not there (G6)."""
    stream = store.make_stream(*step.place)
    stream.make_group(step.group.group, stream.last_id if step.latest else START, younger=step.younger)


@does(steps.Heartbeat)
def heartbeat(store: MemoryStore, step: steps.Heartbeat) -> steps.Beat:
    """Extend the incarnation's time if it is alive (M5, M7)."""
    topic = known_state(store, step.group.topic)
    return store.members(step.group).heartbeat(step, now=store.now(), run_id=store.run_id, topic=topic)


@does(steps.Commit)
def commit(store: MemoryStore, step: steps.Commit) -> bool:
    """Replace the document under its version (M2, M3)."""
    done = store.members(step.group).commit(step, now=store.now(), run_id=store.run_id)
    if done:
        store.ring(step.group)
    return done


@does(steps.Wait)
def wait(store: MemoryStore, step: steps.Wait) -> Room:
    """Let one wait that wants to join."""
    return store.members(step.group).wait(step, store.now())


@does(steps.GiveBack)
def give_back(store: MemoryStore, step: steps.GiveBack) -> Freed:
    """Note what nobody works on any more."""
    return store.members(step.group).freed.give_back(step, store.now())


@does(steps.Watch)
def watch(store: MemoryStore, step: steps.Watch) -> None:
    """Let heartbeats say for some time that the group is watched."""
    found = store.coordination.get(step.group)
    if found is not None and found.state is not None:
        found.watched_until = store.now() + microseconds(step.seconds)


@does(steps.TellRunning)
def tell_running(store: MemoryStore, step: steps.TellRunning) -> None:
    """Keep what a member has in handlers."""
    if not store.full:
        store.members(step.group).tell(step.incarnation, step.report, now=store.now(), until=store.now() + microseconds(step.ttl))


@does(steps.ReadRunning)
def read_running(store: MemoryStore, step: steps.ReadRunning) -> Report | None:
    """Return what a member has in handlers."""
    found = store.coordination.get(step.group)
    return None if found is None else found.told(step.incarnation, store.now())
