"""Steps that take a partition and give it back: token, holder, registered readers, and pending entries (T2, T3, T5, M8).

Invariants: a token never falls, and it stays when its holder releases it. Nothing changes under a token that is not the current one. A
registered reader leaves the list only once it cannot read any more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from redisaq.brokers.redis.commands import Reply, checked, run, yes
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.reader import RedisReader
from redisaq.brokers.redis.registry import Asked, command, commands
from redisaq.brokers.redis.scripts import Script
from redisaq.brokers.redis.topics import FIELDS, topic_state
from redisaq.brokers.steps import leases as steps
from redisaq.brokers.terms import GroupName, ReaderMark, lease_lost
from redisaq.core.records import is_id, text_or_none, whole
from redisaq.errors import ServerError
from redisaq.link import Caller

INSTALL = Script("install", keys=1, begins_with=("whole",))
UNREGISTER = Script("unregister", keys=1)
REGISTER = Script("register", keys=1)
CLAIM = Script("claim", keys=2, begins_with=("whole",))
DELIVERIES = Script("deliveries", keys=2)
RELEASE = Script("release", keys=1)
REMAKE_GROUP = Script("remake_group", keys=1, begins_with=("facts", "stand"))


@command(steps.Install)
def install(step: steps.Install, keys: Keys) -> Asked[steps.Installed]:
    """Put the token beside the partition's data (T2)."""
    lease = keys.of_partition(step.group, step.partition).lease
    return INSTALL(lease, step.token, step.incarnation, int(step.foreign)), _installed


def _installed(reply: Reply) -> steps.Installed:
    done, standing, holder, readers, moved, opened = reply
    position, _, delivered = (moved or b"").partition(b" ")
    marks = [_mark(field, address) for field, address in zip(readers[::2], readers[1::2], strict=True)]
    return steps.Installed(
        done=done == 1,
        token=whole(standing) or 0,
        holder=holder.decode("utf-8", "backslashreplace"),
        readers=tuple(sorted((mark for mark in marks if mark is not None), key=lambda mark: (mark.run_id, mark.client_id))),
        moved=(position, delivered) if is_id(position) and is_id(delivered) else None,
        opened=whole(opened) or 0,
    )


@commands(steps.Fence)
async def fence(step: steps.Fence, link: Caller, keys: Keys) -> bool:
    """Kill these readers' connections, then remove them from the list (T3).

    This is a sequence because a script may not kill connections, and those of one list may be at several servers. A reader is removed only
    after it was killed: if this is interrupted, the next install returns it again.
    """
    if not step.readers:
        return True
    lease = keys.of_partition(step.group, step.partition).lease
    if not await kill(link, step.readers, lease):
        return False  # T4; they stay on the list, since they may still read
    await run(link, UNREGISTER(lease, step.token, *map(_field, step.readers)))
    return True


async def kill(link: Caller, marks: Sequence[ReaderMark], key: bytes | None = None) -> bool:
    """Kill connections, as far as they can still reach the key, or anything (E1, T3, C4); False if the server does not permit that."""
    for reply in await link.kill([(mark.client_id, mark.address, mark.run_id) for mark in marks], key):
        if isinstance(reply, ServerError) and reply.forbidden:
            return False
        checked(reply, link)
    return True


async def open_reader(
    link: Caller, keys: Keys, group: GroupName, partition: int, *, token: int, incarnation: str, settle: Callable[[], Awaitable[object]]
) -> RedisReader:
    """Open a reading connection and register it under the token before its first read (T3); see Broker."""
    lease = keys.of_partition(group, partition).lease
    connection = await link.open_reading(lease)
    try:
        mark = ReaderMark(connection.client_id, connection.client_address, connection.run_id)
        # The connection registers itself, so that it is registered at the server that it reads from, wherever the shared connection is now.
        registered = await run(connection, REGISTER(lease, token, incarnation, _field(mark), mark.address))
    except BaseException:
        connection.abort()
        raise
    if not yes(registered):
        connection.abort()
        raise lease_lost(group, partition)
    return RedisReader(connection, mark, lambda: keys.of_partition(group, partition).stream, settle, group.group)


@command(steps.Claim, hears=("NOGROUP",))
def claim(step: steps.Claim, keys: Keys) -> Asked[steps.Page]:
    """Return a page of pending entries (T5)."""
    share = keys.of_partition(step.group, step.partition)

    def answer(reply: Reply) -> steps.Page:
        if reply is None:
            raise step.lost()
        if isinstance(reply, ServerError):  # nothing is pending there; the next read reports that the group is gone
            return steps.Page((), (), None)
        entries, trimmed, last = reply
        pending = (steps.PendingEntry(entry_id, fields, deliveries) for entry_id, deliveries, fields in entries)
        return steps.Page(tuple(pending), tuple(trimmed), last)

    return CLAIM(share.stream, share.lease, step.group.group, step.token, step.after, step.count), answer


@command(steps.SetDeliveries, hears=("NOGROUP",))
def set_deliveries(step: steps.SetDeliveries, keys: Keys) -> Asked[bool]:
    """Set delivery counts (T5)."""
    share = keys.of_partition(step.group, step.partition)
    pairs = [word for pair in step.counts.items() for word in pair]

    def answer(reply: Reply) -> bool:  # an error: NOGROUP counts as done, since the token is the current one, and nothing is pending
        return isinstance(reply, ServerError) or yes(reply)

    return DELIVERIES(share.stream, share.lease, step.group.group, step.token, int(step.raising), *pairs), answer


@command(steps.Release)
def release(step: steps.Release, keys: Keys) -> Asked[bool]:
    """Clear holder and readers, keep the token (M8)."""
    return RELEASE(keys.of_partition(step.group, step.partition).lease, step.token), yes


@commands(steps.RemakeGroup)
async def remake_group(step: steps.RemakeGroup, link: Caller, keys: Keys) -> None:
    """Make a lost group again (T6), in the stream whose name the topic's meta says: what is known here may be older, or newer.

    This is a sequence because meta is in another slot than the stream. The script refuses a name that is no longer the stream's (G2).
    """
    topic, partition = step.group.topic, step.partition
    question = keys.ask()
    topic_state(topic, keys, await run(link, (b"HMGET", keys.meta(topic), *FIELDS)), question)
    words = (step.group.group, step.last_id, step.start or step.last_id, keys.history(topic))
    await run(link, REMAKE_GROUP.over((keys.stream(topic, partition), *keys.names(topic, partition)), *words))


def _field(mark: ReaderMark) -> str:
    return f"reader:{mark.client_id}:{mark.run_id}"


def _mark(field: bytes, address: bytes) -> ReaderMark | None:
    """Return a registered reader; None for a field that no reader registered, which a release clears with the rest."""
    _, _, words = field.partition(b":")
    client_id, _, run_id = words.partition(b":")
    number = whole(client_id)
    if not number or not run_id.isalnum():
        return None
    return ReaderMark(number, text_or_none(address) or "", run_id.decode())  # without an address, it is killed by its id
