"""Steps on topics and their streams.

Invariants: the partition count never falls, one generation has one count (G1), and when a topic grows, its new streams exist before the new
count is published.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from redisaq.brokers.redis.commands import Reply, milliseconds, run, run_each
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.registry import Asked, command, commands
from redisaq.brokers.redis.scripts import Script
from redisaq.brokers.steps.topics import FORMAT, GrowTopic, HeldUp, MakeTopic, NoteHeldUp, ReadTopic, ReadTopics, TopicState, check_format
from redisaq.core.records import MOST_PARTITIONS, text_or_none, whole
from redisaq.errors import DamagedKeyError
from redisaq.link import Caller

MAKE_TOPIC = Script("make_topic", keys=1, begins_with=("whole",))
NAME_TOPIC = Script("name_topic", keys=1)
MAKE_STREAM = Script("make_stream", keys=1)
GROW_TOPIC = Script("grow_topic", keys=1, begins_with=("whole",))
NOTE_HELD_UP = Script("note_held_up", keys=1)

FIELDS = (b"generation", b"partitions", b"retention", b"send_timeout", b"format")
"""The fields of `meta` that make a TopicState."""

REPAIR = "set the field right, or delete the topic"


@command(ReadTopics)
def read_topics(step: ReadTopics, keys: Keys) -> Asked[list[str]]:
    """Return all topics' names, sorted."""
    del step
    return (b"SMEMBERS", keys.topics), lambda names: sorted(name for found in names if (name := text_or_none(found)) is not None)


@command(ReadTopic)
def read_topic(step: ReadTopic, keys: Keys) -> Asked[TopicState | None]:
    """Return the topic's state, None if it does not exist."""

    def answer(reply: Reply) -> TopicState | None:
        *fields, held_up = reply
        state = topic_state(step.topic, keys, fields)
        return state if state is None or held_up is None else replace(state, held_up=_held_up(held_up))

    return (b"HMGET", keys.meta(step.topic), *FIELDS, b"held_up"), answer


def _held_up(text: bytes) -> HeldUp | None:
    """Return what was noted; None if redisaq did not write it."""
    numbers = [whole(word) for word in text.split(b" ")]
    if len(numbers) != 3 or None in numbers:  # noqa: PLR2004 -- a time and two numbers
        return None
    at, partition, most = (number or 0 for number in numbers)
    return HeldUp(at * 1000, partition, most)


@command(NoteHeldUp)
def note_held_up(step: NoteHeldUp, keys: Keys) -> Asked[None]:
    """Note that a producer waits for room."""
    return NOTE_HELD_UP(keys.meta(step.topic), step.partition, step.max_backlog), lambda _: None


@commands(MakeTopic)
async def make_topic(step: MakeTopic, link: Caller, keys: Keys) -> TopicState:
    """Make the topic if it is missing; make what is missing of its streams and its registration (E5).

    The count comes first, because it says which streams there must be. If this is interrupted in between, the next caller that makes the
    topic completes it, as every producer does that finds a stream missing.
    """
    terms, meta = step.terms, keys.meta(step.topic)
    asked = ("",) if terms is None else (milliseconds(terms.send_timeout), "acked" if terms.acked else "", milliseconds(terms.idle))
    *standing, idle = await run(link, MAKE_TOPIC(meta, keys.topic_doorbell(step.topic), step.partitions, FORMAT, *asked))
    state = _made(step.topic, keys, standing)
    kept_number(meta, "retention_idle", idle)
    streams = [MAKE_STREAM(keys.stream(step.topic, number)) for number in range(state.partitions)]
    await run_each(link, [NAME_TOPIC(keys.topics, step.topic), *streams])
    return state


@commands(GrowTopic)
async def grow_topic(step: GrowTopic, link: Caller, keys: Keys) -> TopicState:
    """Raise the count if it is smaller (G1); make a topic that does not exist."""
    topic, partitions = step.topic, step.partitions
    while True:
        state = await make_topic(MakeTopic(topic, partitions), link, keys)
        if state.partitions >= partitions:
            return state
        # Streams first, so that a producer that sees the new count finds them.
        await run_each(link, [MAKE_STREAM(keys.stream(topic, number)) for number in range(state.partitions, partitions)])
        command = GROW_TOPIC(keys.meta(topic), keys.topic_doorbell(topic), state.generation, partitions)
        grown = topic_state(topic, keys, await run(link, command))
        # Another caller grew it meanwhile, perhaps to less than this one wants, or the topic was lost. Look again.
        if grown is not None and grown.partitions >= partitions:
            return grown


def topic_state(topic: str, keys: Keys, fields: Sequence[bytes | None]) -> TopicState | None:
    """Return what `meta` says in FIELDS, None if it says nothing.

    Raises:
        DamagedKeyError: what it says cannot be. It is never replaced: the number of partitions, and what they hold, would be a guess.
        UnknownFormatError: a later version wrote it.
    """
    return _made(topic, keys, fields) if any(field is not None for field in fields[:-1]) else None


def _made(topic: str, keys: Keys, fields: Sequence[bytes | None]) -> TopicState:
    generation, partitions, retention, send_timeout, layout = fields
    meta = keys.meta(topic)
    written_in = kept_number(meta, "format", layout) or 1
    check_format(topic, written_in)  # first: the other fields may mean something else there
    count = kept_number(meta, "partitions", partitions)
    growths = kept_number(meta, "generation", generation)
    limit = kept_number(meta, "send_timeout", send_timeout)
    if growths is None or count is None or not 1 <= count <= MOST_PARTITIONS:
        what = f"{count} partitions" if count is not None else "no partitions"
        raise DamagedKeyError(meta, f"says {what} in generation {growths}, but a topic has 1 to {MOST_PARTITIONS}: {REPAIR}")
    return TopicState(growths, count, retention == b"acked", (limit or 0) / 1000, written_in)


def kept_number(meta: bytes, field: str, text: bytes | None) -> int | None:
    """Return a number from `meta`, None if the field is missing; DamagedKeyError if it holds no number."""
    number = whole(text)
    if number is None and text is not None:
        raise DamagedKeyError(meta, f"has {text[:40]!r} as its {field}: {REPAIR}")
    return number
