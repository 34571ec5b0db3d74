"""`redisaq produce`, `grow`, `pause`, `resume`, `seek` and `delete`: commands that change topics and groups.

Commands that destroy something ask first, unless you give --yes. With --dry-run they change nothing.
"""

from __future__ import annotations

import contextlib
import sys
from datetime import datetime
from typing import Annotated

from cyclopts import Parameter

from redisaq import cron
from redisaq.admin import Position, SeekPreview
from redisaq.cli.common import USAGE, Dash, DryRun, Place, Refused, Yes, confirm, plain, run
from redisaq.cli.lines import batches, checked
from redisaq.errors import SettingsError, TopicMissingError
from redisaq.settings import MOST_PARTITIONS, check_count
from redisaq.watching import previews

HERE = Place()
SUMMED = ("unread", "again", "skipped", "waiting", "pending", "retry", "dead")
"""Numbers of a preview of a seek that are added up over its partitions."""
PATIENCE = 3600.0
"""Seconds that a deletion may take: it looks at every key of the server, and begins at the first one if it is repeated."""


def produce(
    topic: str,
    payload: Dash,
    /,
    *,
    key: str | None = None,
    header: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False)] = (),
    delay: float | None = None,
    dedup_id: str | None = None,
    partitions: int | None = None,
    place: Place = HERE,
) -> int:
    """Enqueue a message, or one for each line of standard input.

    Args:
        topic: the topic.
        payload: JSON; `-` reads one payload from each line of standard input.
        key: messages with the same key go to the same partition.
        header: NAME=VALUE; may be given more than once.
        delay: seconds until the message is due.
        dedup_id: a second message with the same id within an hour is not enqueued.
        partitions: create the topic with this many partitions if it does not exist.
        place: the server.
    """
    headers = dict(map(_header, header))
    if payload == "-" and dedup_id is not None:
        raise Refused("--dedup-id is for one message: it would let the first line of standard input through, and no other", USAGE)

    async def enqueue() -> None:
        if partitions is None:
            async with place.admin() as admin:
                try:
                    await admin.topic(topic)
                except TopicMissingError as error:
                    raise Refused(f"{error}: use --partitions N to create it") from error
        options = {"serializer": _same, "init_partitions": 1 if partitions is None else partitions}
        async with place.producer(topic, **options) as producer:
            if payload != "-":
                data = checked(payload.encode("utf-8", "surrogateescape"), "the payload")
                msg_id = await producer.enqueue(data, key=key, headers=headers, delay=delay, dedup_id=dedup_id)
                place.done(msg_id, msg_id=msg_id)
                return
            async with contextlib.aclosing(batches(sys.stdin)) as read:
                async for batch in read:
                    for msg_id in await producer.batch_enqueue(batch, key=key, headers=headers, delay=delay):
                        place.done(msg_id, msg_id=msg_id)
                    sys.stdout.flush()

    run(enqueue)
    return 0


def run_now(app: str, job: str, /, *, place: Place = HERE) -> int:
    """Run a cron job now, once more than its schedule says. A paused program, or one that has no such job, is refused.

    Args:
        app: the program's name, as in App(name=...).
        job: the job's name.
        place: the server.
    """

    async def enqueue() -> str:
        async with place.admin() as admin:
            try:
                return await cron.run_now(admin, lambda topic: place.producer(topic, serializer=_same), app, job)
            except SettingsError as error:
                raise Refused(plain(str(error))) from error

    msg_id = run(enqueue)
    place.done(msg_id, msg_id=msg_id)
    return 0


def _header(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not name:
        raise Refused(f"--header takes NAME=VALUE, not {plain(word)}", USAGE)
    return name, value


def _same(data: bytes) -> bytes:
    return data


def grow(topic: str, partitions: int, /, *, yes: Yes = False, dry_run: DryRun = False, place: Place = HERE) -> int:
    """Grow a topic to this many partitions. A topic never shrinks.

    Args:
        topic: the topic.
        partitions: the number of partitions.
        yes: do not ask for confirmation.
        dry_run: change nothing.
        place: the server.
    """
    check_count("partitions", partitions, most=MOST_PARTITIONS)

    async def look() -> int:
        async with place.admin() as admin:
            return (await admin.topic(topic, partitions=())).partition_count

    async def change() -> int:
        async with place.admin() as admin:
            return await admin.grow(topic, partitions)

    before = run(look)
    if partitions < before:
        raise Refused(f"{plain(topic)} has {before} partitions, and a topic never shrinks")
    after = before
    if partitions > before:
        preview = previews.of_growth(before, partitions, topic)
        what = f"{preview.head}: {preview.more}"
        if dry_run:
            place.done(f"would grow {plain(topic)}. {what}", topic=topic, partitions=partitions, before=before, dry_run=True)
            return 0
        confirm(f"Grow {plain(topic)}? {what}", yes=yes)
        after = run(change)
    place.done(f"{plain(topic)} has {after} partitions (before: {before})", topic=topic, partitions=after, before=before)
    return 0


def pause(topic: str, group: str, /, *, place: Place = HERE) -> int:
    """Stop a group's members from starting messages. Running handlers finish.

    Args:
        topic: the topic.
        group: the group.
        place: the server.
    """
    return _set_paused(topic, group, place, paused=True)


def resume(topic: str, group: str, /, *, place: Place = HERE) -> int:
    """Let a paused group continue.

    Args:
        topic: the topic.
        group: the group.
        place: the server.
    """
    return _set_paused(topic, group, place, paused=False)


def _set_paused(topic: str, group: str, place: Place, *, paused: bool) -> int:
    async def change() -> None:
        async with place.admin() as admin:
            await (admin.pause if paused else admin.resume)(topic, group)

    run(change)
    place.done(f"{plain(group)} of {plain(topic)} {'is paused' if paused else 'is resumed'}", topic=topic, group=group, paused=paused)
    return 0


def seek(topic: str, group: str, to: str, /, *more: str, yes: Yes = False, dry_run: DryRun = False, place: Place = HERE) -> int:
    """Move a group to another position. Messages from there on are delivered as if they were new.

    Args:
        topic: the topic.
        group: the group, which must have no live members or be paused.
        to: earliest, latest, a time with a zone (2026-01-31T12:00:00+01:00), or PARTITION=ENTRY.
        more: more PARTITION=ENTRY.
        yes: do not ask for confirmation.
        dry_run: change nothing.
        place: the server.
    """
    position = _position((to, *more))

    async def look() -> tuple[list[SeekPreview], int]:
        async with place.admin() as admin:
            info = await admin.group(topic, group)
            live = sum(one.expires_in is not None and one.expires_in > 0 for one in info.members)
            return await admin.preview_seek(topic, group, position), 0 if info.paused else live

    async def change() -> None:
        async with place.admin() as admin:
            await admin.seek(topic, group, position)

    found, busy = ([], 0) if yes and not dry_run else run(look)
    hint = f"group {plain(group)} of {plain(topic)} has {busy} live member(s): pause it, or stop them" if busy else ""
    where = f"{plain(group)} of {plain(topic)} to {plain(' '.join((to, *more)))}"
    preview = previews.of_seek(found, topic, group, position)
    what = f"{preview.head}. {preview.more}"
    if dry_run:
        rows = "".join(f"\n{number} {text}" for number, text in preview.rows)
        numbers = {name: sum(getattr(one, name) for one in found) for name in SUMMED}
        complete = all(one.complete for one in found)
        answer = {"topic": topic, "group": group, **numbers, "complete": complete, "partitions": found, "busy": bool(busy), "dry_run": True}
        place.done(f"would move {where}. {what}{rows}" + (f"\nnot now: {hint}" if busy else ""), **answer)
        return 0
    if busy:
        raise Refused(hint)
    confirm(f"Move {where}? {what}", yes=yes)
    run(change)
    place.done(f"moved {where}", topic=topic, group=group, to=" ".join((to, *more)))
    return 0


def _position(words: tuple[str, ...]) -> Position:
    first = words[0]
    if len(words) == 1 and first in ("earliest", "latest"):
        return "earliest" if first == "earliest" else "latest"
    if "=" in first:
        places = [word.partition("=") for word in words]
        if all(number.isascii() and number.isdigit() and entry for number, _, entry in places):
            return {int(number): entry for number, _, entry in places}
    elif len(words) == 1:
        try:
            moment = datetime.fromisoformat(first)
        except ValueError:
            moment = None
        if moment is not None and moment.tzinfo is not None:
            return moment
    shown = plain(" ".join(words))
    raise Refused(
        f"{shown} is not a position: use earliest, latest, a time with a zone (2026-01-31T12:00:00+01:00), or PARTITION=ENTRY", USAGE
    )


def delete(
    topic: str,
    group: str | None = None,
    /,
    *,
    force: Annotated[bool, Parameter(negative="")] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    place: Place = HERE,
) -> int:
    """Delete a group with its position, pending messages, retries and dead letters, or a topic with all its messages and groups.

    Args:
        topic: the topic.
        group: the group; without it, the whole topic is deleted.
        force: delete even if members are alive.
        yes: do not ask for confirmation.
        dry_run: change nothing.
        place: the server.
    """

    async def look() -> str:
        async with place.admin() as admin:
            if group is None:
                info = await admin.topic(topic)
                return f"topic {plain(topic)} with {info.length} entries, {info.delayed} delayed and {len(info.groups)} group(s)"
            one = await admin.group(topic, group)
            return f"group {plain(group)} of {plain(topic)} with {one.pending} pending, {one.retry} to be retried and {one.dead} dead"

    async def change() -> None:
        async with place.admin(PATIENCE) as admin:
            if group is None:
                await admin.delete_topic(topic, force=force)
            else:
                await admin.delete_group(topic, group, force=force)

    what = run(look)
    if dry_run:
        place.done(f"would delete {what}", topic=topic, group=group, dry_run=True)
        return 0
    confirm(f"Delete {what}?", yes=yes)
    run(change)
    place.done(f"deleted {what}", topic=topic, group=group)
    return 0
