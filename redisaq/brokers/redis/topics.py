"""Steps on topics and their streams.

Invariants: the partition count never falls, one generation has one count (G1), and when a topic grows, its new streams exist before the new
count is published.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from redisaq.brokers.redis.commands import Reply, milliseconds, run, run_each
from redisaq.brokers.redis.keys import Keys, decode_history, encode_history
from redisaq.brokers.redis.registry import Asked, command, commands
from redisaq.brokers.redis.scripts import Argument, Command, Script
from redisaq.brokers.steps import topics as steps
from redisaq.core.records import text_or_none, whole
from redisaq.errors import DamagedKeyError
from redisaq.link import Caller
from redisaq.settings import MOST_PARTITIONS

MAKE_TOPIC = Script("make_topic", keys=1, begins_with=("whole", "topic"))
NAME_TOPIC = Script("name_topic", keys=1)
NAME_STREAM = Script("name_stream", keys=1, begins_with=("facts", "stand"))
NOTE_HELD_UP = Script("note_held_up", keys=1)

FIELDS = (b"generation", b"partitions", b"retention", b"send_timeout", b"format", b"history", b"pending", b"grown")
"""The fields of `meta` that make a TopicState."""

REPAIR = "set the field right, or delete the topic"


@command(steps.ReadTopics)
def read_topics(step: steps.ReadTopics, keys: Keys) -> Asked[list[str]]:
    """Return all topics' names, sorted."""
    del step
    return (b"SMEMBERS", keys.topics), lambda names: sorted(name for found in names if (name := text_or_none(found)) is not None)


@command(steps.ReadTopic)
def read_topic(step: steps.ReadTopic, keys: Keys) -> Asked[steps.TopicState | None]:
    """Return the topic's state, None if it does not exist."""
    question = keys.ask()

    def answer(reply: Reply) -> steps.TopicState | None:
        *fields, held_up = reply
        state = topic_state(step.topic, keys, fields, question)
        return state if state is None or held_up is None else replace(state, held_up=_held_up(held_up))

    return (b"HMGET", keys.meta(step.topic), *FIELDS, b"held_up"), answer


def _held_up(text: bytes) -> steps.HeldUp | None:
    """Return what was noted; None if redisaq did not write it."""
    numbers = [whole(word) for word in text.split(b" ")]
    if len(numbers) != 3 or None in numbers:  # noqa: PLR2004 -- a time and two numbers
        return None
    at, partition, most = (number or 0 for number in numbers)
    return steps.HeldUp(at * 1000, partition, most)


@command(steps.NoteHeldUp)
def note_held_up(step: steps.NoteHeldUp, keys: Keys) -> Asked[None]:
    """Note that a producer waits for room."""
    return NOTE_HELD_UP(keys.meta(step.topic), step.partition, step.max_backlog), lambda _: None


@commands(steps.MakeTopic)
async def make_topic(step: steps.MakeTopic, link: Caller, keys: Keys) -> steps.TopicState:
    """Make the topic if it is missing; make what is missing of its streams and its registration (E5).

    This is a sequence because meta, the list of topics and each stream are in slots of their own. The count comes first, because it says
    which streams there must be. If this is interrupted in between, the next caller that makes the topic completes it, as every producer
    does that finds a stream missing.
    """
    terms, topic, meta = step.terms, step.topic, keys.meta(step.topic)
    made = step.known or steps.TopicState(0, step.partitions)
    words: list[Argument] = [meta, keys.topic_doorbell(topic), made.partitions, steps.FORMAT]
    words += [made.format, made.generation, encode_history(made.history), made.grown]
    words += ("",) if terms is None else (milliseconds(terms.send_timeout), "acked" if terms.acked else "", milliseconds(terms.idle))
    question = keys.ask()
    standing, idle = await run(link, MAKE_TOPIC(*words))
    state = _made(topic, keys, standing, question)
    kept_number(meta, "retention_idle", idle)
    streams = [name_stream(keys, topic, number, state.history) for number in range(state.partitions)]
    await run_each(link, [NAME_TOPIC(keys.topics, topic), *streams])
    return state


def name_stream(keys: Keys, topic: str, partition: int, history: tuple[int, ...]) -> Command:
    """Return the command that lets a stream have the name of the last generation of this history (E5, G2)."""
    names = (keys.stream(topic, partition, steps.cuts_of(history)), *keys.names(topic, partition, history))
    return NAME_STREAM.over(names, encode_history(history))


def topic_state(topic: str, keys: Keys, fields: Sequence[bytes | None], question: int) -> steps.TopicState | None:
    """Return what `meta` says in FIELDS, None if it says nothing; let `keys` know the streams' names.

    Args:
        topic: the topic's name.
        keys: learns the names.
        fields: the answer.
        question: the number that `keys.ask` gave the question.

    Raises:
        DamagedKeyError: what it says cannot be. It is never replaced: the number of partitions, and what they hold, would be a guess.
        UnknownFormatError: a later version wrote it.
    """
    return _made(topic, keys, fields, question) if any(field is not None for field in fields[:4]) else None


def _made(topic: str, keys: Keys, fields: Sequence[bytes | None], question: int) -> steps.TopicState:
    generation, partitions, retention, send_timeout, layout, history, pending, grown = fields
    meta = keys.meta(topic)
    written_in = kept_number(meta, "format", layout) or steps.PLAIN
    steps.check_format(topic, written_in)  # first: the other fields may mean something else there
    count = kept_number(meta, "partitions", partitions)
    growths = kept_number(meta, "generation", generation)
    limit = kept_number(meta, "send_timeout", send_timeout)
    if growths is None or count is None or not 1 <= count <= MOST_PARTITIONS:
        what = f"{count} partitions" if count is not None else "no partitions"
        raise DamagedKeyError(meta, f"says {what} in generation {growths}, but a topic has 1 to {MOST_PARTITIONS}: {REPAIR}")
    counts = decode_history(history)
    if counts is None or (counts and counts[-1] != count):
        raise DamagedKeyError(meta, f"says {count} partitions, and has {history!r} as its history: {REPAIR}")
    keys.learn(topic, counts, question)
    wanted = kept_number(meta, "pending", pending)
    return steps.TopicState(
        growths,
        count,
        retention == b"acked",
        (limit or 0) / 1000,
        written_in,
        counts,
        None if wanted is None or wanted <= count else wanted,  # a version that announces nothing may have published more since
        kept_number(meta, "grown", grown) or 0,
    )


def kept_number(meta: bytes, field: str, text: bytes | None) -> int | None:
    """Return a number from `meta`, None if the field is missing; DamagedKeyError if it holds no number."""
    number = whole(text)
    if number is None and text is not None:
        raise DamagedKeyError(meta, f"has {text[:40]!r} as its {field}: {REPAIR}")
    return number
