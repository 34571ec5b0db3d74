"""Finds each message of a partition in a world, without using the brokers.

Input: a world, a group, a partition. Output: (place, the message's `i`, its entry id or none) of everything that is there, as it stands in
the store itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import format_id
from redisaq.core.records import decode_dead, decode_delayed, decode_retry
from tests.conformance.worlds import MemoryWorld, RedisWorld, World

T = TypeVar("T")
Found = tuple[str, bytes | None, bytes | None]


def census(world: World, group: GroupName, partition: int) -> list[Found]:
    """Return everything that is there; a pending entry whose body was trimmed has no `i`. A body without a score is a place of its own."""
    found = _in_memory(world, group, partition) if isinstance(world, MemoryWorld) else _on_server(world, group, partition)
    return sorted(found, key=lambda one: (one[0], one[1] or b"", one[2] or b""))


def bring_forward(world: World, group: GroupName, partition: int, between: tuple[int, int], microseconds: int) -> None:
    """Make everything that is delayed, or to be tried again, between these times due that much earlier."""
    since, until = between
    if isinstance(world, MemoryWorld):
        store = world.store
        for waiting in (store.delayed.get((group.topic, partition), {}), store.shelf(group, partition).retry):
            for name, (due, data) in waiting.items():
                if since <= due <= until:
                    waiting[name] = due - microseconds, data
        return
    assert isinstance(world, RedisWorld)
    for key in (world.key(group.topic, partition, "delayed"), world.key(group.topic, partition, f"g:{group.group}:retry")):
        for name in world.command("ZRANGEBYSCORE", key, since, until):
            world.command("ZINCRBY", key, -microseconds, name)


def lose_token(world: World, group: GroupName, partition: int) -> None:
    """Remove the token beside the partition, as a server does that lost data."""
    if isinstance(world, MemoryWorld):
        world.store.lease(group, partition).token = 0
        return
    assert isinstance(world, RedisWorld)
    world.command("HDEL", world.key(group.topic, partition, f"g:{group.group}:lease"), "token")


def expire_marks(world: World, group: GroupName, partition: int) -> None:
    """Let the windows of all deduplication marks be over now."""
    if isinstance(world, MemoryWorld):
        store = world.store
        for place, (msg_id, _) in store.marks.items():
            store.marks[place] = msg_id, store.now()
        return
    assert isinstance(world, RedisWorld)
    for key in world.command("KEYS", world.key(group.topic, partition, "once:*")):
        world.command("PEXPIRE", key, 0)


def shift_waiting(world: World, group: GroupName, seconds: float) -> None:
    """Move by so much when those that wait to join came and last asked, and until when one of them has the turn: the clock was set."""
    if isinstance(world, MemoryWorld):
        room, shift = world.store.members(group).room, round(seconds * 1e6)
        room.waiting = {one: (came + shift, asked + shift, said) for one, (came, asked, said) in room.waiting.items()}
        room.until += shift
        return
    assert isinstance(world, RedisWorld)
    room_key, shift = world.group_key(group, "room"), round(seconds * 1000)
    for one, kept in _pairs(world.command("HGETALL", room_key)):
        moved = [b"%d" % (int(word) + shift) if word.isdigit() else word for word in kept.split(b" ", 2)]
        world.command("HSET", room_key, one, b" ".join(moved))


def _name(fields: Sequence[bytes]) -> bytes:
    return next(value for field, value in _pairs(fields) if field == b"i")


def _in_memory(world: MemoryWorld, group: GroupName, partition: int) -> Iterator[Found]:
    store = world.store
    place = (group.topic, partition)
    for _, data in store.delayed.get(place, {}).values():
        yield "delayed", _name(decode_delayed(data)), None
    stream = store.streams[place]
    cursor = stream.groups[group.group]
    for number, fields in stream.after(cursor.last_delivered, 1 << 30):
        yield "unread", _name(fields), format_id(number)
    for number in cursor.pending:
        trimmed = stream.fields(number)
        yield "pending", None if trimmed is None else _name(trimmed), format_id(number)
    shelf = store.shelf(group, partition)
    for entry_id, (_, data) in shelf.retry.items():
        yield "retry", _name(decode_retry(entry_id, data).fields), entry_id
    for _, words in shelf.dead.after((0, 0), 1 << 30):
        yield "dead", _name(decode_dead(words).fields), decode_dead(words).entry_id


def _on_server(world: World, group: GroupName, partition: int) -> Iterator[Found]:
    assert isinstance(world, RedisWorld)

    def ask(word: str, name: str, *rest: Any) -> Any:
        return world.command(word, world.key(group.topic, partition, name), *rest)

    def bodies(name: str) -> dict[bytes, bytes]:
        return dict(_pairs(ask("HGETALL", name)))

    delayed = bodies("delayed:body")
    for msg_id in ask("ZRANGE", "delayed", 0, -1):
        yield "delayed", _name(decode_delayed(delayed.pop(msg_id))), None
    yield from (("delayed body without a time", msg_id, None) for msg_id in delayed)

    entries: dict[bytes, list[bytes]] = dict(ask("XRANGE", "0", "-", "+"))
    (row,) = (dict(_pairs(row)) for row in world.command("XINFO", "GROUPS", world.key(group.topic, partition, "0")))
    for entry_id, _ in ask("XRANGE", "0", b"(" + row[b"last-delivered-id"], "+"):
        yield "unread", _name(entries[entry_id]), entry_id
    for entry_id, *_ in ask("XPENDING", "0", group.group, "-", "+", 1 << 30):
        yield "pending", _name(entries[entry_id]) if entry_id in entries else None, entry_id

    retry = bodies(f"g:{group.group}:retry:body")
    for entry_id in ask("ZRANGE", f"g:{group.group}:retry", 0, -1):
        yield "retry", _name(decode_retry(entry_id, retry.pop(entry_id)).fields), entry_id
    yield from (("retry body without a time", None, entry_id) for entry_id in retry)
    for _, words in ask("XRANGE", f"g:{group.group}:dead", "-", "+"):
        yield "dead", _name(decode_dead(words).fields), decode_dead(words).entry_id


def _pairs(flat: Sequence[T]) -> Iterator[tuple[T, T]]:
    return zip(flat[::2], flat[1::2], strict=True)
