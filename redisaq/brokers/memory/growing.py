"""Steps with which a topic grows, and with which its new partitions wait for the older ones, at a store; see steps.growing.

Streams keep their keys here. What a server tells by their names is a number (`Naming`).
"""

from __future__ import annotations

from msgspec.structs import replace

from redisaq.brokers.memory.registry import does
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.memory.topics import known_state
from redisaq.brokers.steps import growing as steps
from redisaq.brokers.steps.topics import RENAMED, TopicState
from redisaq.core.entry_ids import format_id, parse_id


@does(steps.Announce)
def announce(store: MemoryStore, step: steps.Announce) -> TopicState | None:
    """Note the number that is to come (G1)."""
    state = known_state(store, step.topic)
    if state is not None and state.generation == step.generation and state.pending is None and state.partitions < step.partitions:
        store.topics[step.topic] = state = replace(state, pending=step.partitions)
    return state


@does(steps.NameStream)
def name_stream(store: MemoryStore, step: steps.NameStream) -> tuple[int, ...]:
    """Cut the stream, or make it (G2)."""
    store.make_stream(step.topic, step.partition, step.history)
    return store.naming(step.place).seals.get(len(step.history) - 2, step.history)


@does(steps.ReadSeal)
def read_seal(store: MemoryStore, step: steps.ReadSeal) -> tuple[int, ...]:
    """Return the history in a seal."""
    return store.naming(step.place).seals.get(step.cuts, ())


@does(steps.Replicate)
def replicate(store: MemoryStore, step: steps.Replicate) -> bool:
    """Do nothing: a store waits for no replica."""
    del store, step
    return True


@does(steps.Publish)
def publish(store: MemoryStore, step: steps.Publish) -> TopicState | None:
    """Publish the count (G1)."""
    state, history = known_state(store, step.topic), step.history
    if state is not None and state.generation == step.generation and state.partitions <= history[-1]:
        state = replace(
            state,
            generation=state.generation + 1,
            partitions=history[-1],
            history=history,
            format=RENAMED,
            pending=None,
            grown=store.now() // 1000,
        )
        store.topics[step.topic] = state
        store.ring(step.topic)
    return state


@does(steps.ReadPassed)
def read_passed(store: MemoryStore, step: steps.ReadPassed) -> steps.Passed:
    """Tell whether the partition is worked off up to the cut (G5)."""
    stream, naming = store.streams.get(step.place), store.naming(step.place)
    if stream is None or naming.number < step.growth:  # it is not cut yet
        return steps.Passed(done=False)
    cuts = [naming.cuts[number] for number in range(step.growth, naming.number + 1) if number in naming.cuts]
    if not cuts:
        store.names.setdefault(step.place, naming).cuts[naming.number] = stream.last_id
        cuts = [stream.last_id]
    cursor = stream.groups.get(step.group.group)
    shelf = store.shelves.get((step.group, step.partition))
    ids = [entry_id for entry_id in (() if cursor is None else cursor.pending) if entry_id <= cuts[0]]
    unread = stream.after((0, 0) if cursor is None else cursor.last_delivered, len(stream))
    ids += [entry_id for entry_id, _ in unread if entry_id <= cuts[0]]
    retried = [] if shelf is None else [parse_id(one) for one in shelf.retry]
    ids += [entry_id for entry_id in retried if entry_id <= cuts[0] or entry_id[1] >= steps.FROM_ELSEWHERE]
    seen = sorted(ids)[: max(1, step.most)]
    return steps.Passed(cursor is not None and not ids, len(seen), format_id(seen[0]) if seen else b"")


@does(steps.ReadBarrier)
def read_barrier(store: MemoryStore, step: steps.ReadBarrier) -> int:
    """Return for which growth the partition is open (G4)."""
    return store.lease(step.group, step.partition).opened


@does(steps.OpenBarrier)
def open_barrier(store: MemoryStore, step: steps.OpenBarrier) -> bool:
    """Open the partition (G4)."""
    lease = store.lease(step.group, step.partition)
    if lease.token != step.token:
        return False
    lease.opened = step.growth
    return True


@does(steps.CloseBarrier)
def close_barrier(store: MemoryStore, step: steps.CloseBarrier) -> None:
    """Close the partition again (G4)."""
    store.lease(step.group, step.partition).opened = 0


@does(steps.Adopt)
def adopt(store: MemoryStore, step: steps.Adopt) -> str | None:
    """Take over delayed messages (G8)."""
    if store.naming(step.place).number > step.cuts:
        return None
    adopted = store.adopted.setdefault(step.place, set())
    new = [(msg_id, int(float(due)), body) for msg_id, due, body in step.rows if (step.origin, msg_id) not in adopted]
    adopted.update((step.origin, msg_id) for msg_id, _, _ in new)
    store.delay(step.place, new)
    return store.run_of(step.place)


@does(steps.TakeIn)
def take_in(store: MemoryStore, step: steps.TakeIn) -> str | None:
    """Take in dead letters (G8)."""
    if store.naming(step.place).number > step.cuts:
        return None
    if store.shelf(step.group, step.partition).take_in(step.origin, step.letters, store.now()):
        store.ring(step.place)
    return store.run_of(step.place)


@does(steps.DropAdopted)
def drop_adopted(store: MemoryStore, step: steps.DropAdopted) -> int | None:
    """Drop what was adopted elsewhere (G8)."""
    if step.run not in ("", store.run_of(step.place)):
        return None
    delayed = store.delayed.get(step.place, {})
    return sum(delayed.pop(msg_id, None) is not None for msg_id in step.ids)


@does(steps.DropTakenIn)
def drop_taken_in(store: MemoryStore, step: steps.DropTakenIn) -> int | None:
    """Drop what was taken in elsewhere (G8)."""
    if step.run not in ("", store.run_of(step.place)):
        return None
    return store.shelf(step.group, step.partition).purge(step.ids)


@does(steps.ReplicateRun)
def replicate_run(store: MemoryStore, step: steps.ReplicateRun) -> bool | None:
    """Wait for nothing: a store has no replica."""
    return True if store.run_of(step.place) == step.run else None


@does(steps.SetSwept)
def set_swept(store: MemoryStore, step: steps.SetSwept) -> bool:
    """Note that the delayed messages are where they belong (G8)."""
    if step.run != store.run_of(step.place):
        return False
    store.names.setdefault(step.place, store.naming(step.place)).swept = step.growth
    return True
