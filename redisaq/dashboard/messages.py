"""One message: where it is, what each group has done with it, and how to search for it by its id.

Input: Admin's reports of a message. Output: sentences, lanes of a picture, and facts. No index of message ids exists, so an address of a
message carries its partition and entry, and an id alone is searched for: the newest messages of all topics first, then older ones.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from typing import Any

import anyio
import msgspec

from redisaq.admin import Admin, DeadMessage, GroupStanding, RetryMessage, StoredMessage, Whereabouts
from redisaq.dashboard.privacy import Privacy
from redisaq.errors import ServerError, SettingsError, TopicMissingError, UnknownFormatError
from redisaq.watching import Snapshot, words

LIMIT = 10_000
"""Dead letters that are looked at to tell whether a group has finished a message or given it up."""

ROUNDS = (10_000, 100_000, 1_000_000)
"""Messages of each topic that a search looks at, one round after the other."""

NAMED = 3
"""Topics that cannot be read which a sentence names."""

QUICK = 0.1
"""Seconds after which a page shows that its search continues."""

IS_ID = re.compile(r"[0-9a-z]{16}(-[0-9a-z]{1,12})?")
"""What ids of messages look like."""


class Bar(msgspec.Struct, frozen=True):
    """A stretch of time in a lane: kind, from and width in hundredths of the picture, what is written on it."""

    kind: str
    x: float
    width: float
    text: str = ""


class Pin(msgspec.Struct, frozen=True):
    """A moment in a lane: kind, place in hundredths, what is written beside it, and on which side."""

    kind: str
    x: float
    text: str = ""
    left: bool = False


class Lane(msgspec.Struct, frozen=True):
    """What the topic or a group has done with the message, as a line."""

    name: str
    state: str
    bars: Sequence[Bar] = ()
    pins: Sequence[Pin] = ()


class Sentence(msgspec.Struct, frozen=True):
    """What a group has done with the message, in words: `subject`, then `before`, `code`, `after`."""

    subject: str
    before: str
    code: str = ""
    after: str = ""


class Progress(msgspec.Struct, frozen=True):
    """How far a search is.

    Attributes:
        found: where the message is; None while it is searched for, and if it was not found.
        done: how many topics were looked at in this round.
        total: how many topics there are to look at in it.
        newest: how many messages of each topic this round looks at.
        looked: how many entries, retries and dead letters were looked at, over all.
        closed: how many topics cannot be looked at, since a later version wrote them.
        broken: topics that cannot be looked at since the server refuses it, with its reasons.
        complete: whether everything was looked at.
        ended: whether the search is over.
    """

    found: Whereabouts | None = None
    done: int = 0
    total: int = 0
    newest: int = 0
    looked: int = 0
    closed: int = 0
    broken: Mapping[str, str] = {}
    complete: bool = False
    ended: bool = False

    @property
    def text(self) -> str:
        """How far it is, in words."""
        if self.ended and (self.closed or self.broken):
            some = [f"{words.many(self.closed, 'topic')} of a later version of redisaq"] if self.closed else []
            some += [f"{topic} ({reason})" for topic, reason in list(self.broken.items())[:NAMED]]
            some += [words.many(len(self.broken) - NAMED, "topic more", "topics more")] if len(self.broken) > NAMED else []
            return f"It was not found. {words.count(self.looked)} entries were looked at, but none of {', '.join(some)}."
        if self.ended and self.complete:
            return f"No message of this id is kept. {words.count(self.looked)} entries were looked at."
        if self.ended:
            return f"It is not among the newest {words.count(self.newest)} messages of each topic. Older ones were not looked at."
        place = f"{words.count(self.done)} of {words.many(self.total, 'topic')}"
        return f"The newest {words.count(self.newest)} messages of {place} were looked at."


async def search(admin: Admin, msg_id: str, topic: str | None = None) -> AsyncGenerator[Progress]:
    """Search for a message, and yield how far that is; the last one has it, or has ended without it.

    Closing the generator ends the search.

    Args:
        admin: asks the server.
        msg_id: the message's id.
        topic: the topic; None: all topics.
    """
    left = await admin.topics() if topic is None else [topic]
    looked = newest = closed = 0
    broken: dict[str, str] = {}
    yield Progress(total=len(left), newest=ROUNDS[0])
    for newest in ROUNDS:
        more: list[str] = []
        for place, name in enumerate(left):
            try:
                found = await admin.find(name, msg_id, limit=newest)
            except (SettingsError, TopicMissingError):  # it has just been deleted, or redisaq did not name it
                continue
            except UnknownFormatError:
                closed += 1
                continue
            except ServerError as error:  # a key of another type, or one that may not be read: the others are searched
                broken[name] = str(error)
                continue
            looked += found.looked
            if found.found:
                yield Progress(found, place + 1, len(left), newest, looked, ended=True)
                return
            if not found.complete:
                more.append(name)
            yield Progress(None, place + 1, len(left), newest, looked)
        left = more
        if not left:
            break
    complete = not left and not closed and not broken
    yield Progress(None, len(left), len(left), newest, looked, closed, broken, complete=complete, ended=True)


async def search_quickly(admin: Admin, msg_id: str, topic: str | None = None, seconds: float = QUICK) -> Progress:
    """Search for a moment. Return how far that came: then it has the message, has ended, or would have to go on."""
    last = Progress()
    with anyio.move_on_after(seconds):
        progress = search(admin, msg_id, topic)
        try:
            async for one in progress:
                last = one
        finally:
            await progress.aclose()
    return last


def place_of(found: Whereabouts) -> tuple[int | None, str | None]:
    """Return the partition and the entry of a message: with them, it is found again at once."""
    kept: list[StoredMessage | DeadMessage] = [one for one in (found.entry, found.delayed) if one is not None]
    kept += [one for standing in found.groups.values() for one in (standing.retry, standing.dead) if one is not None]
    return found.partition, next((one.entry_id for one in kept if one.entry_id), None)


def content_of(found: Whereabouts) -> StoredMessage | DeadMessage | None:
    """Return the message itself, from wherever it is kept."""
    kept: list[StoredMessage | DeadMessage | None] = [found.entry, found.delayed]
    kept += [one for standing in found.groups.values() for one in (standing.retry, standing.dead)]
    return next((one for one in kept if one is not None), None)


# -- in words ----------------------------------------------------------------------------------------------------------------------

STATES = {
    "unread": "waits",
    "pending": "delivered",
    "retry": "retry",
    "dead": "dead",
    "done": "done",
    "unknown": "done or dead",
}
"""States of a message in a group, in the words to show."""

TIMES = ("", "once", "twice", "three times", "four times", "five times")


def times(number: int) -> str:
    """Return how often something happened: once, twice, 12 times."""
    return TIMES[number] if 0 < number < len(TIMES) else words.many(number, "time")


def story(found: Whereabouts, snapshot: Snapshot) -> list[Sentence]:
    """Return what has become of the message, as sentences."""
    now = snapshot.at
    if found.delayed is not None:
        due = found.delayed.due.timestamp() - now
        when = f"is due in {words.fine(due)}" if due > 0 else "is due, and a consumer moves it to its stream next"
        return [Sentence("It", f"is not in its stream yet: it {when}.")]
    told = [_told(name, one, now, is_running(found, name, snapshot)) for name, one in found.groups.items()]
    if found.entry is None:
        told.append(Sentence("Its entry", "was trimmed from the stream; groups that have nothing left of it are not named."))
    elif not told:
        told.append(Sentence("No group", f"reads {found.topic}."))
    return told


def is_running(found: Whereabouts, group: str, snapshot: Snapshot) -> float | None:
    """Return since when the message has been in a handler of the group, if members have said so."""
    view = snapshot.group(found.topic, group)
    running = () if view is None or view.in_handlers is None else view.in_handlers
    return next((one.since for one in running if one.msg_id == found.msg_id), None)


def _told(name: str, one: GroupStanding, now: float, running: float | None) -> Sentence:
    if one.retry is not None and running is None:
        return _tries(name, one.retry, now)
    if one.dead is not None:
        before = f"gave it up after {words.many(one.dead.attempts, 'attempt')} with"
        return Sentence(name, before, one.dead.error_type or "a failure", f", {words.fine(now - one.dead.died_at.timestamp())} ago.")
    if running is not None:
        said = f"has had it in a handler for {words.fine(now - running)}."
    elif one.state == "unread":
        said = "has not begun it."
    elif one.state == "pending":
        to = one.owner_name or one.owner
        given = times(one.deliveries) if one.deliveries else "once more after it was given back"
        since = "" if one.since is None else f", last {words.fine(now - one.since.timestamp())} ago"
        said = f"has had it delivered {given}{since}{f', and {to} owns the partition' if to else ''}."
    elif one.state == "unknown":
        said = f"is done with it, or it is a dead letter older than the newest {words.count(LIMIT)}."
    else:
        said = "is done with it, or was moved past it."
    return Sentence(name, said)


def _tries(name: str, retry: RetryMessage, now: float) -> Sentence:
    due = retry.due.timestamp() - now
    when = f"tries again in {words.fine(due)}" if due > 0 else "is about to try again, or does"
    if not retry.error_type:
        return Sentence(name, f"had it redriven, and {when}.")
    return Sentence(name, f"failed {times(retry.attempts)}, last with", retry.error_type, f", and {when}.")


# -- as a picture ------------------------------------------------------------------------------------------------------------------


class Scale:
    """Places moments of a stretch of time in a picture."""

    def __init__(self, moments: Sequence[float], now: float) -> None:
        """Compute a stretch with these moments and the present in it."""
        self.start, self.end = min((*moments, now)), max((*moments, now))
        margin = max(0.5, self.end - self.start) * 0.04
        self.start -= margin
        self.end += 4 * margin  # what is written beside the last pin needs room
        self.now = now

    def __call__(self, moment: float) -> float:
        """Return the place of a moment, in hundredths of the picture."""
        return round(100 * (moment - self.start) / (self.end - self.start), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """Return moments to write below the picture, none of them where the present is written."""
        span = (self.end - self.start) / 5
        times = [self.start + n * span for n in range(5)]
        clear = [at for at in times if not -8 < self(at) - self(self.now) < 3]  # noqa: PLR2004 -- what a time takes, in hundredths
        return [(self(at), words.clock(at) if span <= 3600 else words.day_and_clock(at, self.now)) for at in clear]  # noqa: PLR2004 -- seconds count below an hour


def lanes(found: Whereabouts, snapshot: Snapshot) -> tuple[list[Lane], Scale]:
    """Return the lanes of the topic and of each group, and their scale."""
    now = snapshot.at
    kept = content_of(found)
    enqueued = kept.enqueued_at if isinstance(kept, StoredMessage) else None
    born = None if enqueued is None else enqueued.timestamp()
    moments = [one for one in (born,) if one is not None]
    if found.delayed is not None:
        moments.append(found.delayed.due.timestamp())
    for one in found.groups.values():
        moments += [at.timestamp() for at in _moments(one) if at is not None]
    scale = Scale(moments, now)
    name = found.topic if found.partition is None else f"{found.topic}/{found.partition}"
    if found.delayed is not None:
        due = found.delayed.due.timestamp()
        pins = [Pin("warn", scale(due), f"due {words.clock(due)}", left=due > now)]
        return [Lane(name, "delayed", [Bar("wait", scale(now), max(0.0, scale(due) - scale(now)))] if due > now else (), pins)], scale
    text = "" if born is None else f"enqueued {words.clock(born)}"
    drawn = [Lane(name, "the topic" if found.entry is not None else "trimmed", (), [] if born is None else [Pin("", scale(born), text)])]
    drawn += [_lane(group, one, born, scale, is_running(found, group, snapshot)) for group, one in found.groups.items()]
    return drawn, scale


def _moments(one: GroupStanding) -> list[datetime | None]:
    if one.retry is not None:
        return [one.retry.first_failed, one.retry.last_failed, one.retry.due]
    if one.dead is not None:
        return [one.dead.first_failed, one.dead.last_failed, one.dead.died_at]
    return [one.since]


def _lane(name: str, one: GroupStanding, born: float | None, scale: Scale, running: float | None) -> Lane:
    """Return a group's lane. Of a dead letter's failures the first and the last are known, and how many there were."""
    now, word = scale.now, STATES[one.state]
    start = scale.start if born is None else born
    if running is not None:
        x = scale(running)
        return Lane(name, "in a handler", [_wait(scale, start, running), Bar("run", x, round(scale(now) - x, 2), "running")])
    if one.retry is not None:
        bars, pins = _failures(one.retry, scale)
        due, last = one.retry.due.timestamp(), one.retry.last_failed
        bars.append(_wait(scale, start if last is None else last.timestamp(), due, "waits"))
        left = f"in {words.duration(due - now)}" if due > now else "due"
        pins.append(Pin("warn", scale(due), f"attempt {one.retry.attempts + 1} {left}"))
        return Lane(name, word, bars, pins)
    if one.dead is not None:
        bars, pins = _failures(one.dead, scale)
        died = one.dead.died_at.timestamp()
        return Lane(name, word, bars, [*pins, Pin("bad", scale(died), f"dead {words.clock(died)}")])
    if one.state == "pending" and one.since is not None:
        since = one.since.timestamp()
        text = f"delivered {times(one.deliveries)}" if one.deliveries else "given back"
        return Lane(name, word, [_wait(scale, start, since), Bar("run", scale(since), scale(now) - scale(since), text)])
    if one.state == "unread":
        return Lane(name, word, [_wait(scale, start, now, "waits")])
    good = [Pin("good" if one.state == "done" else "", scale(start), f"{word}; when is not recorded")]
    return Lane(name, word, (), good)


def _wait(scale: Scale, start: float, end: float, text: str = "") -> Bar:
    return Bar("wait", scale(start), max(0.0, round(scale(end) - scale(start), 2)), text)


def _failures(one: RetryMessage | DeadMessage, scale: Scale) -> tuple[list[Bar], list[Pin]]:
    first, last = one.first_failed, one.last_failed
    if first is None or last is None or not one.attempts:
        return [], []
    start, end = scale(first.timestamp()), scale(last.timestamp())
    if one.attempts == 1:
        return [], [Pin("failed", end, "1")]
    known = one.failed_between if isinstance(one, RetryMessage) else ()
    more = one.attempts - 2 - len(known)  # besides the first, the last, and those whose time is known
    between = [Pin("failed", scale(at.timestamp()), str(one.attempts - len(known) + place)) for place, at in enumerate(known)]
    bar = Bar("quiet", start, round(end - start, 2), f"{more} more between" if more > 0 else "")
    return [bar], [Pin("failed", start, "1"), *between, Pin("failed", end, str(one.attempts))]


# -- as JSON -----------------------------------------------------------------------------------------------------------------------


def as_json(found: Whereabouts, privacy: Privacy) -> dict[str, Any]:
    """Return where a message is for programs: payloads as text, as far as they are shown."""
    groups = {
        name: {
            **{field: getattr(one, field) for field in ("state", "owner", "owner_name", "since", "deliveries")},
            "retry": one.retry and _message(one.retry, privacy),
            "dead": one.dead and _message(one.dead, privacy),
        }
        for name, one in found.groups.items()
    }
    return {
        "topic": found.topic,
        "msg_id": found.msg_id,
        "partition": found.partition,
        "entry": found.entry and _message(found.entry, privacy),
        "delayed": found.delayed and _message(found.delayed, privacy),
        "groups": groups,
        "complete": found.complete,
    }


def _message(one: StoredMessage | DeadMessage, privacy: Privacy) -> dict[str, Any]:
    fields = {name: getattr(one, name) for name in one.__struct_fields__ if name not in ("data", "payload", "headers")}
    return {**fields, "headers": privacy.headers(one.headers), "payload": privacy.payload(one.data).text}


def facts(found: Whereabouts, snapshot: Snapshot, headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what is known of a message besides, as names and values."""
    kept = content_of(found)
    topic = snapshot.topic(found.topic)
    of = "" if topic is None else f" of {words.count(topic.partitions)}"
    listed = [("Topic, partition", f"{found.topic}, {found.partition}{of}")]
    if kept is None:
        return listed
    if kept.entry_id:
        listed.append(("Entry", kept.entry_id))
    if kept.key is not None:
        listed.append(("Key", kept.key))
    enqueued = kept.enqueued_at if isinstance(kept, StoredMessage) else None
    if enqueued is not None:
        at = enqueued.timestamp()
        listed.append(("Enqueued", f"{enqueued:%Y-%m-%d} {words.clock(at)} UTC, {words.fine(snapshot.at - at)} ago"))
    listed += list(headers.items())
    for name, one in found.groups.items():
        failed = one.retry or one.dead
        if failed is not None and failed.member:
            listed.append((f"Last seen in {name} by", failed.member))
        if failed is not None and failed.life:
            listed.append((f"Redriven in {name}", times(failed.life)))
    if kept.unreadable:
        listed.append(("Unreadable", kept.unreadable))
    return listed
