"""Steps on a group's coordination: heartbeats, the document's compare-and-set (M2 to M9), and the group in each stream (G6).

The document is opaque to the server; the scripts beside it decide by the server's own clock. Invariant: the document is replaced only under
its own version, and together with the members.
"""

from __future__ import annotations

from typing import cast

from redisaq.brokers.redis.commands import Reply, milliseconds, yes
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.registry import Asked, command
from redisaq.brokers.redis.scripts import Script
from redisaq.brokers.redis.topics import topic_state
from redisaq.brokers.steps import coordination as steps
from redisaq.core.deltas import encode_delta, read_delta
from redisaq.core.history import encode_change
from redisaq.core.membership import encode_document, read_document
from redisaq.core.profile import encode_profile
from redisaq.core.records import text_or_none, time_of
from redisaq.core.running import Report, encode_report, read_report
from redisaq.core.waiting import (
    ASK_EVERY,
    FREED_LASTS,
    GATHER_TURN,
    STAYS,
    TURN,
    Freed,
    Room,
    burst_of,
    encode_leases,
    encode_newcomer,
    read_leases,
    read_newcomers,
)

MAKE_GROUP = Script("make_group", keys=1, begins_with=("facts", "stand"))
HEARTBEAT = Script("heartbeat", keys=5, begins_with=("whole", "topic", "deltas", "this_run"))
COMMIT = Script("commit", keys=5, begins_with=("whole", "note", "deltas", "this_run"))
WAIT = Script("wait", keys=3, begins_with=("whole",))
GIVE_BACK = Script("give_back", keys=1, begins_with=("whole",))
WATCH = Script("watch", keys=1)


@command(steps.MakeGroup)
def make_group(step: steps.MakeGroup, keys: Keys) -> Asked[None]:
    """Make the group where it is missing (G6)."""
    topic, partition = step.group.topic, step.partition
    words = (step.group.group, b"$" if step.latest else b"0", int(step.younger), keys.history(topic))
    return MAKE_GROUP.over((keys.stream(topic, partition), *keys.names(topic, partition)), *words), lambda _: None


@command(steps.Heartbeat)
def heartbeat(step: steps.Heartbeat, keys: Keys) -> Asked[steps.Beat]:
    """Extend the incarnation's time if it is alive."""
    group, question = keys.group(step.group), keys.ask()

    def answer(reply: Reply) -> steps.Beat:
        alive, now, version, document, expired, next_expiry, born, frozen_until, paused, watched, topic, crowded, joined, last = reply
        deltas = cast("list[bytes]", document) if type(document) is list else []
        found = read_document(cast("bytes | None", document)) if version and not deltas else None
        read = [read_delta(one) for one in deltas]
        expires = time_of(next_expiry)
        return steps.Beat(
            alive=alive == 1,
            now=int(now),
            version=version.decode("utf-8", "surrogateescape"),
            document=found,
            deltas=() if None in read else tuple(one for one in read if one is not None),
            expired=tuple(sorted(name for one in expired if (name := text_or_none(one)) is not None)),
            next_expiry=None if expires is None else expires * 1000,
            topic=topic_state(step.group.topic, keys, topic, question),
            born=int(born) * 1000,
            frozen_until=int(frozen_until) * 1000,
            paused=paused == 1,
            damaged=found is None and document is not None and not deltas,
            watched=watched == 1,
            crowded=crowded == 1 or bool(burst_of(joined, last / 1000)),
        )

    words = (step.incarnation, milliseconds(step.ttl), _bytes(step.known_version))
    return HEARTBEAT(group.members, group.state, group.meta, group.deltas, group.room, *words), answer


@command(steps.Commit)
def commit(step: steps.Commit, keys: Keys) -> Asked[bool]:
    """Replace the document by one with the new version (M2, M3); also refused if the server has changed since (M7)."""
    group = keys.group(step.group)
    document = encode_document(step.document)
    admitted: list[str | int | bytes] = []
    for one in step.admitted:
        admitted += [one.incarnation, milliseconds(one.profile.ttl), encode_profile(one.profile)]
    asked = COMMIT(
        group.members,
        group.state,
        group.history,
        group.deltas,
        group.room,
        group.doorbell,
        step.incarnation,
        milliseconds(step.ttl),
        _bytes(step.known_version),
        step.new_version,
        document,
        int(step.joins),
        int(step.leaves),
        int(step.freeze),
        len(step.former),
        b"" if step.profile is None else encode_profile(step.profile),
        len(step.changes),
        encode_delta(step.delta, document),
        len(step.admitted),
        *admitted,
        *map(encode_change, step.changes),
        *step.former,
        *step.expired,
    )
    return asked, yes


@command(steps.Wait)
def wait(step: steps.Wait, keys: Keys) -> Asked[Room]:
    """Let one wait that wants to join."""
    group = keys.group(step.group)

    def answer(reply: Reply) -> Room:
        member, joined, last, *rows = reply
        ages = [age / 1000 for age in rows[::2]] or [0.0]
        return Room(member == 1, read_newcomers(rows[1::2]), min(ages), max(ages), burst_of(joined, last / 1000))

    said = b"" if step.newcomer is None else encode_newcomer(step.newcomer)
    return WAIT(group.members, group.room, group.state, step.incarnation, said, milliseconds(TURN), milliseconds(STAYS)), answer


@command(steps.GiveBack)
def give_back(step: steps.GiveBack, keys: Keys) -> Asked[Freed]:
    """Note what nobody works on any more."""

    def answer(reply: Reply) -> Freed:
        left, *rows = reply
        if left:
            return Freed(ASK_EVERY if left < 0 else left / 1000)
        names = (text_or_none(one) for one in rows[::2])
        return Freed(0.0, read_leases((name, said) for name, said in zip(names, rows[1::2], strict=True) if name is not None))

    times = map(milliseconds, (step.gather, GATHER_TURN + step.gather, FREED_LASTS))
    return GIVE_BACK(keys.group(step.group).freed, step.incarnation, encode_leases(step.leases), *times), answer


@command(steps.Watch)
def watch(step: steps.Watch, keys: Keys) -> Asked[None]:
    """Let heartbeats say for some time that the group is watched."""
    return WATCH(keys.group(step.group).state, milliseconds(step.seconds)), lambda _: None


@command(steps.TellRunning, hears=("OOM",))
def tell_running(step: steps.TellRunning, keys: Keys) -> Asked[None]:
    """Keep what a member has in handlers."""
    key = keys.running(step.group, step.incarnation)
    return (b"SET", key, encode_report(step.report), b"PX", milliseconds(step.ttl)), lambda _: None


@command(steps.ReadRunning)
def read_running(step: steps.ReadRunning, keys: Keys) -> Asked[Report | None]:
    """Return what a member has in handlers."""
    return (b"GET", keys.running(step.group, step.incarnation)), read_report


def _bytes(version: str) -> bytes:
    return version.encode("utf-8", "surrogateescape")  # also a damaged version can be compared and replaced
