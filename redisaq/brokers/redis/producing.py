"""Steps for enqueueing effectively once, on a real server: anchors, a look at the tail, marks; and delayed messages.

Invariant: a delayed message is kept once, whole, or not at all.
"""

from __future__ import annotations

from typing import cast

from redisaq.brokers.redis.commands import Reply, yes
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.registry import Asked, command
from redisaq.brokers.redis.scripts import Argument, Command, Script
from redisaq.brokers.steps import producing as steps
from redisaq.core.records import encode_delayed
from redisaq.errors import ServerError

FIND = Script("find", keys=2, begins_with=("above", "facts"))
DELAY = Script("delay", keys=3)
APPEND_ONCE = Script("append_once", keys=4)
BACKLOG = Script("backlog", keys=1, begins_with=("above", "facts", "unread"))
CONFIRM = Script("confirm", keys=1)


@command(steps.ReadAnchor, hears=("ERR no such key",))
def read_anchor(step: steps.ReadAnchor, keys: Keys) -> Asked[bytes | None]:
    """Return the last id that the stream ever had (E2)."""
    return (b"XINFO", b"STREAM", keys.stream(step.topic, step.partition)), _last_id


def _last_id(reply: Reply) -> bytes | None:
    return None if isinstance(reply, ServerError) else cast("dict[bytes, bytes]", reply)[b"last-generated-id"]


@command(steps.Find)
def find(step: steps.Find, keys: Keys) -> Asked[steps.Found]:
    """Look for messages (E2, E7)."""
    stream, delayed = keys.stream(step.topic, step.partition), keys.delayed(step.topic, step.partition)
    return FIND(stream, delayed, step.anchor, step.most, *step.msg_ids), _found


def _found(reply: Reply) -> steps.Found:
    complete, found, last, rest = reply
    return steps.Found(tuple(found), complete == 1, last, rest)


@command(steps.Confirm)
def confirm(step: steps.Confirm, keys: Keys) -> Asked[None]:
    """Write, change nothing, and ring (C7)."""
    return written_last(keys, step.topic, step.partition), lambda _: None


def written_last(keys: Keys, topic: str, partition: int) -> Command:
    """Return the command after which a WAIT waits for all that the partition's server has written before."""
    return CONFIRM(keys.cuts(topic, partition), keys.partition_doorbell(topic, partition))


@command(steps.Delay)
def delay(step: steps.Delay, keys: Keys) -> Asked[bool]:
    """Keep messages until they are due."""
    topic, partition = step.topic, step.partition
    words: list[Argument] = [
        keys.stream(topic, partition, step.cuts),
        keys.delayed(topic, partition),
        keys.delayed_bodies(topic, partition),
    ]
    words.append(keys.partition_doorbell(topic, partition))
    for message in step.messages:
        words += [message.msg_id, message.due, encode_delayed(message.fields)]
    return DELAY(*words), yes


@command(steps.AppendOnce)
def append_once(step: steps.AppendOnce, keys: Keys) -> Asked[bytes | None]:
    """Append under a mark (E7)."""
    topic, partition, fields = step.topic, step.partition, step.fields
    asked = APPEND_ONCE(
        keys.once(topic, partition, step.dedup_id),
        keys.stream(topic, partition, step.cuts),
        keys.delayed(topic, partition),
        keys.delayed_bodies(topic, partition),
        fields[1],
        max(1, round(step.window * 1000)),
        b"" if step.maxlen is None else b"~" if step.approximate else b"=",
        step.maxlen or 0,
        step.due or b"",
        keys.partition_doorbell(topic, partition),
        encode_delayed(fields) if step.due else b"",
        *fields,
    )
    return asked, lambda reply: cast("bytes | None", reply)


@command(steps.ReadMark)
def read_mark(step: steps.ReadMark, keys: Keys) -> Asked[bytes | None]:
    """Return what a mark holds (E7)."""
    return (b"GET", keys.once(step.topic, step.partition, step.dedup_id)), lambda reply: cast("bytes | None", reply)


@command(steps.ReadBacklog)
def read_backlog(step: steps.ReadBacklog, keys: Keys) -> Asked[int]:
    """Return how many entries the slowest group has not been given."""
    return BACKLOG(keys.stream(step.topic, step.partition), step.enough, step.fits), int
