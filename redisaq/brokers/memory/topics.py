"""Steps on topics and their streams, at a store; see steps.topics."""

from __future__ import annotations

from msgspec.structs import replace

from redisaq.brokers.memory.registry import does
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps import topics as steps


def known_state(store: MemoryStore, topic: str) -> steps.TopicState | None:
    """Return the topic's state, None if it does not exist; UnknownFormatError if a later version wrote it."""
    state = store.topics.get(topic)
    if state is not None:
        steps.check_format(topic, state.format)
    return state


@does(steps.ReadTopics)
def read_topics(store: MemoryStore, step: steps.ReadTopics) -> list[str]:
    """Return the names of all topics, sorted."""
    del step
    return sorted(store.topic_names)


@does(steps.ReadTopic)
def read_topic(store: MemoryStore, step: steps.ReadTopic) -> steps.TopicState | None:
    """Return the topic's state."""
    state = known_state(store, step.topic)
    return None if state is None else replace(state, held_up=store.held_up.get(step.topic))


@does(steps.NoteHeldUp)
def note_held_up(store: MemoryStore, step: steps.NoteHeldUp) -> None:
    """Note that a producer waits for room."""
    if step.topic in store.topics:
        store.held_up[step.topic] = steps.HeldUp(store.now(), step.partition, step.max_backlog)


@does(steps.MakeTopic)
def make_topic(store: MemoryStore, step: steps.MakeTopic) -> steps.TopicState:
    """Make the topic and its missing streams (E5); keep what a producer asks for (E3)."""
    known_state(store, step.topic)
    known = step.known or steps.TopicState(0, step.partitions)
    made = store.make_topic(step.topic, replace(known, acked=False, send_timeout=0.0, pending=None, held_up=None))
    terms = step.terms
    if terms is None:
        return made
    longest = max(made.send_timeout, terms.send_timeout)
    store.topics[step.topic] = standing = replace(made, acked=made.acked or terms.acked, send_timeout=longest)
    if terms.acked:
        store.idle[step.topic] = max(store.idle.get(step.topic, 0.0), terms.idle)
    return standing
