"""Steps on topics and groups for an administrator: look, pause, seek, delete.

Invariants: no step here needs a token, and a repeated step continues where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisaq.brokers.redis.commands import Reply, checked, run, run_all, run_each
from redisaq.brokers.redis.keys import Keys, type_of
from redisaq.brokers.redis.registry import Asked, command, commands
from redisaq.brokers.redis.scripts import Command, Script
from redisaq.brokers.redis.topics import kept_number
from redisaq.brokers.steps import administration as steps
from redisaq.core.entry_ids import parse_id
from redisaq.core.history import KEPT, encode_change, read_change
from redisaq.core.membership import read_document
from redisaq.core.profile import Presence, read_profile
from redisaq.core.records import MOST_NUMBER, text_or_none, time_of, whole
from redisaq.core.retention import IDLE, alone_since
from redisaq.errors import ServerError
from redisaq.link import Caller, Carrier, read_info

VIEW_STREAM = Script("view_stream", keys=2, begins_with=("facts",))
VIEW_GROUP = Script("view_group", keys=3)
VIEW_PARTITION = Script("view_partition", keys=5, begins_with=("above", "facts", "unread"))
PAUSE = Script("pause", keys=2, begins_with=("note",))
SEEK = Script("seek", keys=4, begins_with=("above", "whole", "facts", "stand"))
DISBAND = Script("disband", keys=7)
NOTE_CHANGE = Script("note_change", keys=1)
DROP_GROUP = Script("drop_group", keys=5)

PAGE = 1000
"""How many keys one SCAN looks at."""

ROUNDS = 10
"""How often the servers of a cluster are scanned at most for the keys of one topic: a producer that still uses it makes streams again."""


@commands(steps.ReadServer)
async def read_server(step: steps.ReadServer, link: Caller, keys: Keys) -> steps.ServerFacts:
    """Return what each node says of itself, in one round trip a node.

    This is a sequence because nodes are asked one after the other, and because a script may not call INFO. An account of few rights need
    not be able to count keys.
    """
    del step, keys
    each = [await _facts(node) for node in await link.nodes()]
    return steps.ServerFacts(
        url=link.url,
        name=each[0].name,
        now=each[0].now,
        memory=_sum([one.memory for one in each]),
        max_memory=_sum([one.max_memory for one in each]),
        evicts=any(one.evicts for one in each),
        keys=_sum([one.keys for one in each]),
    )


async def _facts(node: Carrier) -> steps.ServerFacts:
    """Return what INFO says at one server."""
    time, info, count = await run_all(node, ((b"TIME",), (b"INFO",), (b"DBSIZE",)))
    seconds, microseconds = checked(time, node)
    facts = read_info(checked(info, node))
    valkey = facts.get("valkey_version")
    return steps.ServerFacts(
        url=node.url,
        name=f"Valkey {valkey}" if valkey else f"Redis {facts.get('redis_version', '')}".strip(),
        now=int(seconds) * 1_000_000 + int(microseconds),
        memory=whole(facts.get("used_memory", "").encode()),
        max_memory=whole(facts.get("maxmemory", "").encode()) or None,
        evicts=facts.get("maxmemory_policy", "noeviction") != "noeviction",
        keys=None if isinstance(count, ServerError) else count,
    )


def _sum(numbers: Sequence[int | None]) -> int | None:
    """Return the sum; None if a server did not say, or has no limit."""
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


@command(steps.ViewStream)
def view_stream(step: steps.ViewStream, keys: Keys) -> Asked[steps.StreamView]:
    """Return what the partition holds."""
    return VIEW_STREAM(keys.stream(step.topic, step.partition), keys.delayed(step.topic, step.partition)), _stream_view


def _stream_view(reply: Reply) -> steps.StreamView:
    length, delayed, names, added = reply
    return steps.StreamView(length, delayed, tuple(sorted(name.decode("utf-8", "backslashreplace") for name in names)), added)


@command(steps.ViewGroup)
def view_group(step: steps.ViewGroup, keys: Keys) -> Asked[steps.GroupView]:
    """Return the group's coordination."""
    group = keys.group(step.group)

    def answer(reply: Reply) -> steps.GroupView:
        now, paused, document, members, changed, retention, idle, paused_at = reply
        expiries: dict[str, int] = {}
        presences: dict[str, Presence] = {}
        for member, expiry, said in members:
            if (incarnation := text_or_none(member)) is not None:
                expiries[incarnation] = (time_of(expiry) or MOST_NUMBER) * 1000
                since, _, profile = (said or b"").partition(b" ")
                if (joined := whole(since)) is not None and (known := read_profile(profile)) is not None:
                    presences[incarnation] = Presence(joined * 1000, known)
        idle_ms = kept_number(group.meta, "retention_idle", idle)
        idle = IDLE if idle_ms is None else idle_ms / 1000
        since = alone_since(now=int(now), last_expiry=max(expiries.values(), default=0), changed=(whole(changed) or 0) * 1000)
        alone = max(0.0, (int(now) - since) / 1e6) if since else 0.0
        return steps.GroupView(
            now=int(now),
            paused=paused == 1,
            members=expiries,
            document=read_document(document),
            alone=alone,
            lapsed=retention == b"acked" and alone >= idle,
            idle=idle if retention == b"acked" else None,
            presences=presences,
            paused_at=(whole(paused_at) or 0) * 1000,
        )

    return VIEW_GROUP(group.members, group.state, group.meta, step.group.group), answer


@command(steps.ViewPartition)
def view_partition(step: steps.ViewPartition, keys: Keys) -> Asked[steps.PartitionView]:
    """Return what the partition holds for the group."""
    share = keys.of_partition(step.group, step.partition)
    names = (share.stream, share.lease, share.retry, share.delayed, share.dead)
    return VIEW_PARTITION(*names, step.group.group, steps.LOOKED_AT if step.deliveries else 0), _partition_view


def _partition_view(reply: Reply) -> steps.PartitionView:
    there, length, unread, pending, retry, dead, delayed, token, holder, last, counts, lost, *more = reply
    added, died, again, moves, oldest, oldest_pending, retry_due, now = more
    return steps.PartitionView(
        there=bool(there or retry or dead or token),
        length=length,
        unread=unread,
        pending=pending,
        retry=retry,
        dead=dead,
        delayed=delayed,
        token=whole(token) or 0,
        holder=(holder or b"").decode("utf-8", "backslashreplace"),
        last_delivered=last,
        deliveries=dict(sorted(zip(counts[::2], counts[1::2], strict=True))),
        lost=whole(lost) or 0,
        added=added,
        died=died,
        redriven=whole(again) or 0,
        moves=whole(moves) or 0,
        oldest_unread=None if oldest is None else parse_id(oldest)[0],
        oldest_pending=None if oldest_pending is None else parse_id(oldest_pending)[0],
        retry_due=time_of(retry_due),
        now=int(now),
    )


@command(steps.SetPaused)
def set_paused(step: steps.SetPaused, keys: Keys) -> Asked[None]:
    """Pause or resume the group."""
    group = keys.group(step.group)
    change = b"" if step.change is None else encode_change(step.change)
    return PAUSE(group.state, group.history, group.doorbell, int(step.paused), change), lambda _: None


@command(steps.Note)
def note(step: steps.Note, keys: Keys) -> Asked[bytes]:
    """Add a change to the group's history."""
    change = b"" if step.change is None else encode_change(step.change)
    return NOTE_CHANGE(keys.group(step.group).history, change, step.replaces or b"0-0", KEPT), lambda reply: reply


@command(steps.ReadHistory)
def read_history(step: steps.ReadHistory, keys: Keys) -> Asked[list[steps.NotedChange]]:
    """Return a page of the group's history."""
    until = b"(" + step.before if step.before else b"+"
    return (b"XREVRANGE", keys.group(step.group).history, until, b"-", b"COUNT", step.count), _noted


def _noted(reply: Reply) -> list[steps.NotedChange]:
    return [steps.NotedChange(entry_id, read_change(fields[1] if len(fields) > 1 else b"")) for entry_id, fields in reply]


@command(steps.Seek)
def seek(step: steps.Seek, keys: Keys) -> Asked[None]:
    """Continue delivery after the position."""
    share = keys.of_partition(step.group, step.partition)
    topic, partition = step.group.topic, step.partition
    names = (share.stream, share.retry, share.retry_bodies, share.lease, *keys.names(topic, partition))
    words = (step.group.group, step.position, keys.partition_doorbell(topic, partition), keys.history(topic))
    return SEEK.over(names, *words), lambda _: None


@command(steps.Disband)
def disband(step: steps.Disband, keys: Keys) -> Asked[tuple[str, ...]]:
    """Drop the group's coordination."""
    group = keys.group(step.group)
    keys_of_it = (group.members, group.state, group.history, group.meta, group.deltas, group.room, group.freed)
    asked = DISBAND(*keys_of_it, group.doorbell, int(step.force), step.group.group, int(step.keeps_history))
    return asked, lambda live: tuple(sorted(one.decode() for one in live))


@command(steps.DropHistory)
def drop_history(step: steps.DropHistory, keys: Keys) -> Asked[None]:
    """Drop the group's history."""
    return (b"UNLINK", keys.group(step.group).history), lambda _: None


@command(steps.DropGroup)
def drop_group(step: steps.DropGroup, keys: Keys) -> Asked[None]:
    """Remove the group from the partition."""
    share = keys.of_partition(step.group, step.partition)
    return DROP_GROUP(share.stream, share.lease, share.retry, share.retry_bodies, share.dead, step.group.group), lambda _: None


@commands(steps.DropTopic)
async def drop_topic(step: steps.DropTopic, link: Caller, keys: Keys) -> None:
    """Drop every key of the topic.

    This is a sequence because the keys are in many slots, and a script that dropped millions would hold up the server. It scans all keys,
    since nothing lists the marks of deduplication, nor what groups that are gone have left beside partitions. A slot that moves from server
    to server meanwhile may be missed: of several servers, all are scanned again until nothing is found, but not forever.
    """
    topic = step.topic
    histories: set[bytes] = set()
    for _ in range(ROUNDS):
        nodes = await link.nodes()
        found = [await _drop_found(link, node, keys, topic, histories) for node in nodes]
        if len(nodes) == 1 or not any(found):
            break
    await run_each(link, [(b"UNLINK", key) for key in histories])  # until here they show the deletion that is under way
    # The count goes last: a repetition of an interrupted step needs it.
    await run(link, (b"SREM", keys.topics, topic))
    await run(link, (b"UNLINK", keys.meta(topic)))
    await run_all(link, [(b"SPUBLISH", keys.topic_doorbell(topic), b"")])  # a hint: its failure must not fail the step


async def _drop_found(link: Caller, node: Carrier, keys: Keys, topic: str, histories: set[bytes]) -> bool:
    """Drop those of the topic's keys that one server has, but add its groups' histories to these; return whether there were any."""
    cursor, found = b"0", False
    while True:
        cursor, page = await run(node, (b"SCAN", cursor, b"MATCH", keys.topic_pattern(topic), b"COUNT", PAGE))
        ours = [key for key in page if keys.is_of_topic(key, topic)]
        histories.update(key for key in ours if type_of(key) == b"stream" and key.endswith(b":history"))
        dropped: list[Command] = [(b"UNLINK", key) for key in ours if key not in histories]
        if dropped:
            found = True
            await run_each(link, dropped)
        if int(cursor) == 0:
            return found
