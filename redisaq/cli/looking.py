"""`redisaq topics`, `topic`, `group`, `history` and `schedule`: they show topics, groups and cron jobs, and change nothing."""

from __future__ import annotations

import sys
from typing import Annotated

import anyio
from cyclopts import Parameter
from rich.table import Table

from redisaq.admin import Admin
from redisaq.admin_views import GroupInfo, HistoryEntry, MemberInfo, ScheduleInfo, TopicInfo
from redisaq.cli.common import SERVER, Most, Place, moment, plain, run, short, table
from redisaq.watching.history import named, sentence_of
from redisaq.watching.words import duration, remedy

HERE = Place()
PAGE = 500
"""Changes that are read at once."""

REPORTED_WITHIN = 15.0
"""Seconds to wait for members to report what is in handlers: they do it with their heartbeats. Members of older versions never do."""


def topics(*, place: Place = HERE) -> int:
    """List the topics of the namespace."""

    async def look() -> list[str]:
        async with place.admin() as admin:
            return await admin.topics()

    names = run(look)
    place.show(names, lambda: map(plain, names))
    return 0


def topic(topic: str, /, *, place: Place = HERE) -> int:
    """Show a topic: its partitions, their contents, and its groups.

    Args:
        topic: the topic.
        place: the server.
    """

    async def look() -> TopicInfo:
        async with place.admin() as admin:
            return await admin.topic(topic)

    info = run(look)
    place.show(
        info,
        lambda: (
            f"{plain(info.topic)}: {len(info.partitions)} partition(s), {info.length} entries, {info.delayed} delayed",
            f"groups: {', '.join(map(plain, info.groups)) or 'none'}",
            table(
                "partition",
                "entries",
                "delayed",
                rows=[(one.partition, one.length, one.delayed) for one in info.partitions],
                right=("partition", "entries", "delayed"),
            ),
        ),
    )
    return 0


def group(topic: str, group: str, /, *, running: Annotated[bool, Parameter(negative="")] = False, place: Place = HERE) -> int:
    """Show a group: its members, and its state in each partition.

    Args:
        topic: the topic.
        group: the group.
        running: show what is in handlers, too. Members report it with their next heartbeats, so this takes some seconds.
        place: the server.
    """

    async def look() -> GroupInfo:
        async with place.admin() as admin:
            return await _reported(admin, topic, group) if running else await admin.group(topic, group)

    info = run(look)
    numbers = ("partition", "unread", "pending", "retry", "dead", "lost")
    place.show(
        info,
        lambda: (
            f"{plain(info.group)} of {plain(info.topic)}{', paused' if info.paused else ''}: {_counts(info)}",
            table(
                "partition",
                "owner",
                *numbers[1:],
                rows=[
                    (one.partition, one.owner_name or "-", one.unread, one.pending, one.retry, one.dead, one.lost)
                    for one in info.partitions
                ],
                right=numbers,
            ),
            *(
                f"partition {one.partition} waits until {one.waits.messages} message(s) of partition {one.waits.partition} are done, "
                f"since {moment(one.waits.since)}"
                for one in info.partitions
                if one.waits is not None
            ),
            table("member", "client", "version", "since", "heartbeat", "expires in", "partitions", rows=map(_member, info.members))
            if info.members
            else "no members",
            *(_in_handlers(info) if running else ()),
        ),
    )
    return 0


async def _reported(admin: Admin, topic: str, group: str) -> GroupInfo:
    """Return the group when its members have reported what is in handlers; they have some time for it."""
    info = await admin.group(topic, group, running=True)
    with anyio.move_on_after(REPORTED_WITHIN):
        while any(one.running is None and (one.expires_in or 0) > 0 for one in info.members):
            await anyio.sleep(0.2)
            info = await admin.group(topic, group, running=True)
    return info


def _in_handlers(info: GroupInfo) -> list[str | Table]:
    found = sorted(((one, member) for member in info.members for one in member.in_handlers), key=lambda pair: pair[0].since)
    count = sum(member.running or 0 for member in info.members)
    if not found:
        return [f"{count} in handlers, as far as members report it"]
    numbers = ("partition", "attempt")
    heads = ("in a handler", "key", "partition", "attempt", "member", "since", "for")
    rows = [
        (
            one.msg_id,
            one.key or "-",
            one.partition,
            one.attempt,
            member.name,
            moment(one.since),
            duration((info.now - one.since).total_seconds()),
        )
        for one, member in found
    ]
    more = [f"and {count - len(found)} more"] if count > len(found) else []
    return [table(*heads, rows=rows, right=numbers), *more]


def history(topic: str, group: str, /, *, limit: Most = 100, place: Place = HERE) -> int:
    """Show what happened in a group, the latest first: members that came and went, and what administrators did.

    What an administrator began and did not end is there as begun: it still works, or was interrupted.

    Args:
        topic: the topic.
        group: the group.
        limit: the most changes to show; 0: all that the group keeps, about 1,000.
        place: the server.
    """

    async def look() -> list[HistoryEntry]:
        found: list[HistoryEntry] = []
        async with place.admin() as admin:
            while not limit or len(found) < limit:
                before = found[-1].entry_id if found else None
                page = await admin.history(topic, group, count=min(PAGE, limit - len(found)) if limit else PAGE, before=before)
                found += page
                if not page:
                    break
            if not found:
                await admin.group(topic, group)  # raises if there is none; what is left of a deletion has a history alone
        return found

    found = run(look)
    rows = [(moment(one.at), sentence_of(one, named(one))) for one in found]
    place.show(found, lambda: [table("when", "what", rows=rows), "times are UTC"] if rows else ["nothing is known"])
    return 0


def schedule(app: str | None = None, /, *, place: Place = HERE) -> int:
    """Show cron jobs: when they ticked last, what came of it, and when they tick next.

    Args:
        app: the program's name, as in App(name=...); without it, all programs.
        place: the server.
    """

    async def look() -> list[ScheduleInfo]:
        async with place.admin() as admin:
            return await admin.schedules(app)

    found = run(look)
    broken = [one for one in found if one.unreadable]
    heads = ("app", "job", "schedule", "time zone", "last", "outcome", "next")
    rows = [
        (one.app, one.name, one.spec, one.tz, moment(one.last), short(f"{one.outcome} {one.error}".strip() or "-", 60), moment(one.next))
        for one in found
        if not one.unreadable
    ]
    place.show(found, lambda: [table(*heads, rows=rows), "times are UTC"] if rows else ["no cron jobs"])
    for one in broken:
        what = f"the cron job {one.name} of {one.app}" if one.name else f"the cron jobs of {one.app}"
        print(plain(f"{what} cannot be read: {one.unreadable} {remedy(one.unreadable)}".rstrip()), file=sys.stderr)
    return SERVER if broken else 0


def _counts(info: GroupInfo) -> str:
    return f"{info.unread} unread, {info.pending} pending, {info.retry} to be retried, {info.dead} dead"


def _member(one: MemberInfo) -> tuple[str, ...]:
    heartbeat = "-" if one.heartbeat_age is None else f"{one.heartbeat_age:.1f} s ago"
    owned = ", ".join(map(str, one.partitions)) or "-"
    return one.name, one.client or "-", one.version or "-", moment(one.since), heartbeat, _seconds(one.expires_in), owned


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"
