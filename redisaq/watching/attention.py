"""The rules that decide what needs attention, as pure functions over samples.

Input: the samples of a group, the newest last, over the last minute or more. Output: an Attention or None. A rule looks at numbers and
returns a sentence; it keeps nothing. `steady` decides when to show what the rules find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from redisaq.watching.snapshot import Attention, Screen, ServerView, Severity
from redisaq.watching.words import clock, count, day_and_clock, duration, group_name, many, per, ranges, remedy, short

BEHIND = 60.0
"""Seconds: a group whose oldest message is older, and has grown older for as long, is behind."""

LATELY = 300.0
"""Seconds for which new dead letters and losses need attention."""

OWNERLESS = 5.0
"""Seconds that a partition may have no owner, or the ttl if that is less: a takeover takes no longer."""

ALONE = 5.0
"""Seconds that a group may have no member while messages wait: a restart takes no longer."""

MIXED = 600.0
"""Seconds that members of different versions may work together: a rolling deployment takes no longer."""

SLOW = 60.0
"""Seconds after which a handler without a time limit is slow."""

NEAR_LIMIT = 0.8
"""The part of its time limit after which a handler is slow."""

HELD_UP = 30.0
"""Seconds after a producer has last said that it waits for room: while it waits, it says so every 10 s."""

ENDLESS = 120.0, 86400.0
"""Seconds after which a change that an administrator has begun and not ended needs attention, and for how long it does."""

FULL = 0.9
"""The part of its memory after which a server that evicts nothing is nearly full."""

LONGEST_ERROR = 200
"""Characters of a server's error in a sentence."""


class Ownerless(msgspec.Struct, frozen=True):
    """A partition without an owner.

    Attributes:
        partition: its number.
        seconds: for how long.
        last: the member that owned it, as host:pid; "" if not known.
    """

    partition: int
    seconds: float
    last: str = ""


class MemberSample(msgspec.Struct, frozen=True):
    """What the rules know of a live member.

    Attributes:
        place: its process as host:pid, or its name.
        heartbeat: seconds since its last heartbeat; None if not known.
        ttl: seconds without a heartbeat after which it counts as dead; None if not known.
        version: its version of redisaq; "" if not known.
        owns: how many partitions it owns.
    """

    place: str
    heartbeat: float | None = None
    ttl: float | None = None
    version: str = ""
    owns: int = 0


class HandlerSample(msgspec.Struct, frozen=True):
    """The message that has been in a handler too long, or will be first.

    Attributes:
        msg_id: its id.
        partition: its partition.
        entry_id: its stream entry.
        seconds: for how long it has been in the handler.
        limit: seconds that it may be there; None: no limit.
    """

    msg_id: str
    partition: int
    entry_id: str
    seconds: float
    limit: float | None = None


class DeadSample(msgspec.Struct, frozen=True):
    """The newest dead letter.

    Attributes:
        error_type: the class of its error.
        where: the innermost line of the user's own code; "" if not known.
        at: when it died.
    """

    error_type: str
    where: str
    at: float


class BegunSample(msgspec.Struct, frozen=True):
    """What an administrator has begun, and whose end is not noted.

    Attributes:
        what: what has begun, such as "seek begun".
        at: when.
        by: who began it.
    """

    what: str
    at: float
    by: str


class Sample(msgspec.Struct, frozen=True):
    """One group at one moment; see GroupView for what the numbers mean.

    Attributes:
        at: the moment, by the server's clock.
        topic: the topic.
        group: the group's name.
        paused: whether the group is paused.
        paused_at: when it was paused; None if not known.
        paused_by: who paused it; "" if not known.
        alone: seconds since it last had a member; 0 while it has one, or if this is not known.
        lapsed: whether retention no longer keeps entries for it.
        retention_idle: seconds without a member after which it lapses; None: never.
        members: its live members.
        waiting: messages that wait, are in handlers or wait for a retry.
        oldest: the age of the oldest message that waits or is in a handler; None if there is none.
        arriving: messages per second that arrive.
        handled: messages per second that the group finishes.
        fresh: dead letters of the last LATELY seconds.
        fresh_lost: entries that were lost in the last LATELY seconds.
        newest_dead: the newest dead letter, if somebody has looked.
        ownerless: partitions without an owner.
        handler: the message that has been in a handler too long, or will be first, if members report what they have in handlers.
        begun: what an administrator began first of what has no end, if the history is known.
    """

    at: float
    topic: str
    group: str
    paused: bool = False
    paused_at: float | None = None
    paused_by: str = ""
    alone: float = 0.0
    lapsed: bool = False
    retention_idle: float | None = None
    members: tuple[MemberSample, ...] = ()
    waiting: int = 0
    oldest: float | None = None
    arriving: float | None = None
    handled: float | None = None
    fresh: int = 0
    fresh_lost: int = 0
    newest_dead: DeadSample | None = None
    ownerless: tuple[Ownerless, ...] = ()
    handler: HandlerSample | None = None
    begun: BegunSample | None = None


class JobSample(msgspec.Struct, frozen=True):
    """A cron job at one moment; see ScheduleInfo.

    Attributes:
        app: the program's name.
        name: the job's name.
        grace: seconds after which a tick that has not begun is missed.
        missed: the newest tick, if it was missed; None if not.
        since: since when that is known.
        overdue: the tick that is due while no program that has the job is running; None if there is none.
    """

    app: str
    name: str
    grace: float
    missed: float | None = None
    since: float = 0.0
    overdue: float | None = None


Samples = Sequence[Sample]


class Rule(msgspec.Struct, frozen=True):
    """A rule for groups.

    Attributes:
        look: returns what it finds in samples, the newest last.
        sure: whether one sample is enough, because what it reads cannot be wrong for a moment.
    """

    look: Callable[[Samples], Attention | None]
    sure: bool = False


def key_of(kind: str, *names: str) -> str:
    """Return the key of a finding: its kind, and what it is about, with colons between. Names may contain colons themselves."""
    return ":".join((kind, *(quote(name, safe=" ") for name in names)))


def _group(sample: Sample, kind: str, severity: Severity, sentence: str, more: str = "", **others: object) -> Attention:
    found = Attention(
        key=key_of(kind, sample.topic, sample.group),
        severity=severity,
        subject=group_name(sample.topic, sample.group),
        sentence=sentence,
        since=sample.at,
        code="",
        more=more,
        screen=Screen("group", sample.topic, sample.group),
        label="Open group",
    )
    return replace(found, **others)


# -- bad ---------------------------------------------------------------------------------------------------------------------------------


def behind(samples: Samples) -> Attention | None:
    """The oldest message is older than BEHIND, and older than it was BEHIND seconds ago."""
    now = samples[-1]
    before = next((one for one in reversed(samples) if one.at <= now.at - BEHIND), None)
    if now.paused or not now.members or now.oldest is None or now.oldest <= BEHIND or before is None or before.oldest is None:
        return None
    if now.oldest <= before.oldest:
        return None
    more = ""
    if now.arriving is not None and now.handled is not None:
        more = f"{per(now.arriving)} come in, {per(now.handled)} are handled."
    return _group(now, "behind", "bad", f"is {duration(now.oldest)} behind and falling further back.", more)


def ownerless(samples: Samples) -> Attention | None:
    """A partition has no owner although members live."""
    now = samples[-1]
    ttl = min((one.ttl for one in now.members if one.ttl is not None), default=OWNERLESS)
    found = [one for one in now.ownerless if one.seconds > min(ttl, OWNERLESS)]
    if not found or not now.members:
        return None
    longest = max(found, key=lambda one: one.seconds)
    since = now.at - longest.seconds
    if len(found) > 1:
        which = ranges(one.partition for one in found)
        sentence = f"has {many(len(found), 'partition')} without an owner, for up to {duration(longest.seconds)}."
        return _group(now, "owner", "bad", sentence, f"Partitions {which}.", since=since)
    more = f"{longest.last} owned it last." if longest.last else ""
    return _group(
        now,
        "owner",
        "bad",
        f"has had no owner in {now.group} for {duration(longest.seconds)}.",
        more,
        subject=f"{now.topic}/{longest.partition}",
        since=since,
        screen=Screen("partition", now.topic, now.group, longest.partition),
        label="Open partition",
    )


def fresh_dead(samples: Samples) -> Attention | None:
    """Messages have died lately."""
    now = samples[-1]
    if not now.fresh:
        return None
    newest, code, more = now.newest_dead, "", ""
    if newest is not None:
        code = newest.error_type
        more = (f"at {newest.where}, " if newest.where else "") + f"{duration(now.at - newest.at)} ago."
    return _group(
        now,
        "dead",
        "bad",
        f"in {group_name(now.topic, now.group)}" + (":" if code else "."),
        more,
        subject=f"{count(now.fresh)} new dead letter{'s' if now.fresh > 1 else ''}",
        code=code,
        screen=Screen("dead letters", now.topic, now.group),
        label="Look at them" if now.fresh > 1 else "Look at it",
    )


def lost(samples: Samples) -> Attention | None:
    """Entries were trimmed before the group had finished them."""
    now = samples[-1]
    if not now.fresh_lost:
        return None
    was = "entries that it had not finished." if now.fresh_lost > 1 else "entry that it had not finished."
    return _group(now, "lost", "bad", f"lost {count(now.fresh_lost)} {was}", "Trimming took them: raise maxlen, or set retention.")


# -- warn --------------------------------------------------------------------------------------------------------------------------------


def alone(samples: Samples) -> Attention | None:
    """The group has no member while messages wait."""
    now = samples[-1]
    if now.members or not now.waiting or now.lapsed or (0 < now.alone < ALONE):
        return None
    long = f" for {duration(now.alone)}" if now.alone else ""
    more = f"{short(now.waiting)} {'message waits' if now.waiting == 1 else 'messages wait'} for it"
    if now.retention_idle is not None and now.alone:
        more += f"; they are kept until {day_and_clock(now.at + now.retention_idle - now.alone, now.at)} UTC"
    sentence = f"has had no member{long}." if long else "has no member."
    return _group(now, "alone", "warn", sentence, f"{more}.", since=now.at - now.alone)


def lapsed(samples: Samples) -> Attention | None:
    """Retention no longer keeps entries for the group."""
    now = samples[-1]
    if not now.lapsed:
        return None
    more = "Delete the group if nobody needs it any more."
    return _group(now, "lapsed", "warn", f"has had no member for {duration(now.alone)}: nothing is kept for it any more.", more)


def slowest(handlers: Iterable[HandlerSample]) -> HandlerSample | None:
    """Return the message that is farthest beyond the time after which its handler is slow, or will be the first to be; None without any."""
    return max(handlers, key=lambda one: one.seconds / _slow_after(one), default=None)


def _slow_after(handler: HandlerSample) -> float:
    return SLOW if handler.limit is None else max(1e-9, NEAR_LIMIT * handler.limit)


def slow_handler(samples: Samples) -> Attention | None:
    """A message has been in a handler for long, or nearly as long as it may."""
    now = samples[-1]
    handler = now.handler
    if handler is None or handler.seconds <= _slow_after(handler):
        return None
    more = f"Partition {handler.partition}"
    more += "." if handler.limit is None else f"; it may take {duration(handler.limit)}."
    return _group(
        now,
        "slow",
        "warn",
        f"has been in one handler for {duration(handler.seconds)}.",
        more,
        since=now.at - handler.seconds,
        screen=Screen("message", now.topic, now.group, handler.partition, handler.entry_id, handler.msg_id),
        label="Open message",
    )


def silent(samples: Samples) -> Attention | None:
    """A member has sent no heartbeat for half of its ttl."""
    now = samples[-1]
    found = [(one.heartbeat, one.ttl, one) for one in now.members if one.heartbeat is not None and one.ttl is not None]
    late = [(age, ttl, one) for age, ttl, one in found if age > ttl / 2]
    if not late:
        return None
    age, ttl, worst = max(late, key=lambda row: row[0])
    more = f"Its {many(worst.owns, 'partition')} will be taken over within {duration(max(0.0, ttl - age))}." if worst.owns else ""
    if len(late) > 1:
        return _group(now, "silent", "warn", f"has {many(len(late), 'member')} without a heartbeat for up to {duration(age)}.", more)
    return _group(now, "silent", "warn", f"has heard nothing of {worst.place} for {duration(age)}.", more, since=now.at - age)


def mixed(samples: Samples) -> Attention | None:
    """Members of different versions have worked together for long."""
    now = samples[-1]
    versions = sorted({one.version for one in now.members if one.version})
    if len(versions) < 2:  # noqa: PLR2004
        return None
    return _group(now, "mixed", "warn", f"runs {len(versions)} versions: {', '.join(versions)}.")


def interrupted(samples: Samples) -> Attention | None:
    """An administrator has begun a change, and no end is noted."""
    now = samples[-1]
    least, most = ENDLESS
    if now.begun is None or not least < now.at - now.begun.at < most:
        return None
    what, by = now.begun.what.removesuffix(" begun"), f" by {now.begun.by}" if now.begun.by else ""
    sentence = f"has a {what} begun{by} {duration(now.at - now.begun.at)} ago, and no end of it."
    more = "It still works, or was interrupted and is half done: then repeat it."
    return _group(now, "begun", "warn", sentence, more, since=now.begun.at)


# -- calm --------------------------------------------------------------------------------------------------------------------------------


def paused(samples: Samples) -> Attention | None:
    """The group is paused."""
    now = samples[-1]
    if not now.paused:
        return None
    by = f" by {now.paused_by}" if now.paused_by else ""
    since = now.at if now.paused_at is None else now.paused_at
    long = "" if now.paused_at is None else f" for {duration(now.at - now.paused_at)}"
    sentence = f"has been paused{long}{by}." if long else f"is paused{by}."
    more = "" if not now.waiting else f"{short(now.waiting)} {'message waits' if now.waiting == 1 else 'messages wait'}."
    return _group(now, "paused", "calm", sentence, more, since=since)


RULES = (
    Rule(behind),
    Rule(ownerless),
    Rule(fresh_dead, sure=True),
    Rule(lost, sure=True),
    Rule(alone),
    Rule(lapsed, sure=True),
    Rule(slow_handler),
    Rule(silent),
    Rule(mixed),
    Rule(interrupted, sure=True),
    Rule(paused, sure=True),
)
"""All rules for groups."""


def unread_topic(topic: str, length: int, at: float) -> Attention | None:
    """Return a finding for a topic that holds messages and has no group."""
    if not length:
        return None
    return Attention(
        key=key_of("nobody", topic),
        severity="calm",
        subject=topic,
        sentence="is read by no group.",
        since=at,
        code="",
        more=f"It holds {many(length, 'message')}.",
        screen=Screen("topic", topic),
        label="Open topic",
    )


def held_up(topic: str, partition: int, max_backlog: int, noted: float, at: float) -> Attention | None:
    """Return a finding for a topic whose producers wait for room, because as much waits as their max_backlog allows."""
    if at - noted > HELD_UP:
        return None
    return Attention(
        key=key_of("full", topic),
        severity="warn",
        subject=f"{topic}/{partition}",
        sentence="is full: producers wait for room.",
        since=noted,
        code="",
        more=f"Their max_backlog allows {many(max_backlog, 'waiting message')} in a partition.",
        screen=Screen("topic", topic),
        label="Open topic",
    )


def missed_tick(job: JobSample, at: float) -> Attention | None:
    """Return a finding for a cron job whose newest tick was missed, or is due while no program has the job."""
    if job.overdue is not None and at - job.overdue > max(ALONE, job.grace):
        sentence = f"has not run its tick of {day_and_clock(job.overdue, at)} UTC."
        more, since = "No program that has the job is running.", job.overdue
    elif job.missed is not None:
        sentence = f"missed its tick of {day_and_clock(job.missed, at)} UTC."
        more, since = f"It would have begun more than {duration(job.grace)} late.", job.since
    else:
        return None
    name = group_name(job.app, job.name)
    return Attention(key_of("tick", job.app, job.name), "warn", name, sentence, since, "", more, Screen("schedule"), "Open schedule")


def unreadable(topic: str, group: str, error: str, at: float) -> Attention:
    """Return a finding for a topic, or a group of it, that the server or a later version does not let this one read."""
    screen = Screen("group" if group else "topic", topic, group)
    sentence, more = "cannot be read, so its numbers are old or missing.", _with_remedy(error)
    label = "Open group" if group else "Open topic"
    name = group_name(topic, group) if group else topic
    return Attention(key_of("unreadable", topic, group), "bad", name, sentence, at, "", more, screen, label)


def unreadable_schedule(app: str, job: str, error: str, at: float) -> Attention:
    """Return a finding for a cron job that cannot be read, or for a program ("" as the job) of which none can."""
    key, sentence = key_of("unreadable schedule", app, job), "cannot be read." if job else "has cron jobs that cannot be read."
    name = group_name(app, job) if job else app
    return Attention(key, "bad", name, sentence, at, "", _with_remedy(error), Screen("schedule"), "Open schedule")


def server(view: ServerView, at: float) -> Attention | None:
    """Return a finding for a server that is away, or nearly full and evicts nothing."""
    overview = Screen("overview")
    if view.state == "away":
        sentence = f"has not answered for {duration(at - view.since)}."
        more = f"All numbers are from {clock(view.since)} UTC. {view.error}"
        return Attention("server", "bad", "The server", sentence, view.since, "", more, overview, "")
    if view.memory is None or view.max_memory is None or view.evicts is not False or view.memory <= FULL * view.max_memory:
        return None
    part = f"{100 * view.memory / view.max_memory:.0f} %"
    more = "When it is full, it refuses new messages; consumers go on."
    return Attention("memory", "bad", "The server", f"uses {part} of its memory.", at, "", more, overview, "")


def _with_remedy(error: str) -> str:
    short = error if len(error) <= LONGEST_ERROR else f"{error[: LONGEST_ERROR - 1]}…"
    return f"{short}{'' if short.endswith(('.', '…')) else '.'} {remedy(error)}".rstrip()


def look(samples: Samples) -> list[tuple[Attention, bool]]:
    """Return what all rules find in the samples of a group, each with whether one sample is enough."""
    found = ((rule.look(samples), rule.sure) for rule in RULES)
    return [(finding, sure) for finding, sure in found if finding is not None]
