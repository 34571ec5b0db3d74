"""`redisaq topics`, `topic`, `group` and `schedule`: commands that show topics, groups and cron jobs, and change nothing."""

from __future__ import annotations

from datetime import datetime

from redisaq.admin_views import GroupInfo, MemberInfo, ScheduleInfo, TopicInfo
from redisaq.cli.common import Place, moment, plain, run, short, table

HERE = Place()


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


def group(topic: str, group: str, /, *, place: Place = HERE) -> int:
    """Show a group: its members, and its state in each partition.

    Args:
        topic: the topic.
        group: the group.
        place: the server.
    """

    async def look() -> GroupInfo:
        async with place.admin() as admin:
            return await admin.group(topic, group)

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
            table("member", "client", "version", "since", "heartbeat", "expires in", "partitions", rows=map(_member, info.members))
            if info.members
            else "no members",
        ),
    )
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
    heads = ("app", "job", "schedule", "time zone", "last", "outcome", "next")
    rows = [
        (one.app, one.name, one.spec, one.tz, _moment(one.last), short(f"{one.outcome} {one.error}".strip() or "-", 60), _moment(one.next))
        for one in found
    ]
    place.show(found, lambda: [table(*heads, rows=rows), "times are UTC"] if rows else ["no cron jobs"])
    return 0


def _moment(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def _counts(info: GroupInfo) -> str:
    return f"{info.unread} unread, {info.pending} pending, {info.retry} to be retried, {info.dead} dead"


def _member(one: MemberInfo) -> tuple[str, ...]:
    heartbeat = "-" if one.heartbeat_age is None else f"{one.heartbeat_age:.1f} s ago"
    owned = ", ".join(map(str, one.partitions)) or "-"
    return one.name, one.client or "-", one.version or "-", moment(one.since), heartbeat, _seconds(one.expires_in), owned


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"
