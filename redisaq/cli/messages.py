"""`redisaq pending`, `retries`, `delayed`, `message`, `tail`, `retry` and `cancel`: commands for single messages.

Lists are read and printed in pages, so that a million messages need no more memory than a thousand.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number

from redisaq.admin import Admin, DelayedMessage, GroupStanding, PendingMessage, RetryMessage, StoredMessage, StreamMessage, Whereabouts
from redisaq.cli.common import NO, SERVER, DryRun, Most, Place, Refused, Yes, as_json, confirm, moment, plain, run, short, show_list, table
from redisaq.cli.dead import shown as shown_letter
from redisaq.errors import ServerError, SettingsError, TopicMissingError, UnknownFormatError
from redisaq.watching.words import remedy

HERE = Place()


def shown(message: StoredMessage) -> dict[str, Any]:
    """Return the JSON form of a message. A payload that is not JSON becomes text."""
    payload = message.payload if not message.unreadable else message.data.decode("utf-8", "backslashreplace")
    fields = {name: getattr(message, name) for name in message.__struct_fields__ if name not in ("data", "payload")}
    return {**fields, "enqueued_at": message.enqueued_at, "payload": payload}


def pending(topic: str, group: str, /, *, limit: Most = 100, place: Place = HERE) -> int:
    """List messages that were delivered to a group and are not settled: they are in handlers, or will be soon.

    Args:
        topic: the topic.
        group: the group.
        limit: the most messages to show; 0: all.
        place: the server.
    """

    def row(one: PendingMessage) -> tuple[object, ...]:
        return (
            one.msg_id or one.entry_id,
            one.partition,
            one.owner_name or one.owner or "-",
            moment(one.since),
            one.deliveries,
            _payload(one),
        )

    heads = ("message", "partition", "owner", "since", "deliveries", "payload")
    return show_list(place, lambda admin: admin.pending(topic, group), limit, row, heads=heads, form=shown, nothing="nothing is pending")


def retries(topic: str, group: str, /, *, limit: Most = 100, place: Place = HERE) -> int:
    """List messages that failed and wait for a retry, earliest due time first in each partition.

    Args:
        topic: the topic.
        group: the group.
        limit: the most messages to show; 0: all.
        place: the server.
    """

    def row(one: RetryMessage) -> tuple[object, ...]:
        return one.msg_id or one.entry_id, one.partition, moment(one.due), one.attempts, short(f"{one.error_type}: {one.error}")

    heads = ("message", "partition", "due", "attempts", "error")
    return show_list(
        place, lambda admin: admin.retries(topic, group), limit, row, heads=heads, form=shown, nothing="no message waits for a retry"
    )


def delayed(topic: str, /, *, limit: Most = 100, place: Place = HERE) -> int:
    """List messages that are not in their streams yet, earliest due time first in each partition.

    Args:
        topic: the topic.
        limit: the most messages to show; 0: all.
        place: the server.
    """

    def row(one: DelayedMessage) -> tuple[object, ...]:
        return one.msg_id, one.partition, moment(one.due), one.key or "-", _payload(one)

    heads = ("message", "partition", "due", "key", "payload")
    return show_list(place, lambda admin: admin.delayed(topic), limit, row, heads=heads, form=shown, nothing="no message is delayed")


def message(msg_id: str, topic: str | None = None, /, *, limit: int = 1_000_000, place: Place = HERE) -> int:
    """Show where a message is: its payload, and what each group has done with it.

    Args:
        msg_id: the message's id.
        topic: its topic; without it, all topics are searched.
        limit: the most entries, retries and dead letters of a topic to search.
        place: the server.
    """
    found = run(lambda: _search(place, msg_id, topic, limit))
    content = found.entry or found.delayed or next(kept for one in found.groups.values() for kept in (one.retry, one.dead) if kept)
    fields: dict[str, Any] = {"topic": found.topic, "msg_id": found.msg_id, "partition": found.partition}
    if found.delayed is not None:
        fields["due"] = found.delayed.due
    if isinstance(content, StoredMessage):
        fields |= {"entry_id": content.entry_id, "enqueued_at": content.enqueued_at}
    fields |= {"key": content.key, "headers": content.headers}
    fields["payload"] = content.payload if not content.unreadable else content.data.decode("utf-8", "backslashreplace")
    answer = {
        **fields,
        "in_stream": found.entry is not None,
        "groups": {name: _standing(one) for name, one in found.groups.items()},
        "complete": found.complete,
    }
    rows = [(name, as_json(value) if name in ("payload", "headers") else "-" if value is None else value) for name, value in fields.items()]
    groups = [(name, one.state, _details(one)) for name, one in found.groups.items()]
    place.show(answer, lambda: [table("field", "value", rows=rows), *([table("group", "state", "", rows=groups)] if groups else [])])
    return 0


async def _search(place: Place, msg_id: str, topic: str | None, limit: int) -> Whereabouts:
    """Return where a message is. A topic that cannot be read does not hide the others.

    Raises:
        Refused: it was not found.
    """
    broken: dict[str, str] = {}
    complete = True
    async with place.admin() as admin:
        for name in [topic] if topic is not None else await admin.topics():
            try:
                found = await admin.find(name, msg_id, limit=limit)
            except (TopicMissingError, ServerError, SettingsError, UnknownFormatError) as error:
                if topic is not None:
                    raise
                if not isinstance(error, TopicMissingError):  # otherwise it has just been deleted
                    broken[name] = str(error)
                continue
            if found.found:
                return found
            complete = complete and found.complete
    for name, reason in broken.items():
        print(plain(f"topic {name} cannot be read, and was not searched: {reason} {remedy(reason)}".rstrip()), file=sys.stderr)
    where = f"topic {plain(topic)}" if topic is not None else "any topic that can be read" if broken else "any topic"
    cut = "" if complete else f"; the search ended at its limit of {limit}"
    raise Refused(f"there is no message {plain(msg_id)} in {where}, or it was trimmed{cut}", SERVER if broken else NO)


def _standing(one: GroupStanding) -> dict[str, Any]:
    fields = {name: getattr(one, name) for name in one.__struct_fields__}
    return fields | {"retry": one.retry and shown(one.retry), "dead": one.dead and shown_letter(one.dead)}


def _details(one: GroupStanding) -> str:
    if one.retry is not None:
        return f"due {moment(one.retry.due)}, after {one.retry.attempts} attempt(s): " + short(f"{one.retry.error_type}: {one.retry.error}")
    if one.dead is not None:
        return f"since {moment(one.dead.died_at)}, after {one.dead.attempts} attempt(s): " + short(
            f"{one.dead.error_type}: {one.dead.error}"
        )
    if one.since is not None:
        return f"since {moment(one.since)}, delivered {one.deliveries} time(s), owner {one.owner_name or one.owner or 'nobody'}"
    return ""


def tail(
    topic: str,
    /,
    *,
    partition: int | None = None,
    last: Annotated[int, Parameter(validator=Number(gte=0, lte=1000))] = 10,
    follow: Annotated[bool, Parameter(negative="--no-follow")] = True,
    place: Place = HERE,
) -> int:
    """Show the newest messages of a topic, then those that are enqueued, until you interrupt it.

    Args:
        topic: the topic.
        partition: show only this partition.
        last: how many messages that exist already to show first, at most 1,000.
        follow: wait for more.
        place: the server.
    """

    async def main() -> None:
        async with place.admin() as admin:
            followed = admin.follow(topic, partition)
            if follow:
                await followed.begin()  # before the newest are read, so that none is missed
            seen: set[tuple[int, str]] = set()
            for one in reversed(await admin.peek(topic, partition, last)) if last > 0 else ():
                seen.add((one.partition, one.entry_id))
                place.show_each(shown(one), _line(one))
            if follow:
                async for one in followed:
                    if (one.partition, one.entry_id) not in seen:
                        place.show_each(shown(one), _line(one))

    run(main)
    return 0


def _line(one: StreamMessage) -> str:
    return f"{moment(one.enqueued_at)}  {one.partition}  {plain(one.msg_id)}  {plain(one.key or '-')}  {_payload(one)}"


def retry(topic: str, group: str, /, *ids: str, yes: Yes = False, dry_run: DryRun = False, place: Place = HERE) -> int:
    """Try messages again now that wait for a retry: all, or those with the given ids.

    Args:
        topic: the topic.
        group: the group.
        ids: message ids; without any, all retries that exist now.
        yes: do not ask for confirmation.
        dry_run: change nothing.
        place: the server.
    """
    wanted = set(ids)

    async def count() -> int:
        async with place.admin() as admin:
            if not wanted:
                return (await admin.group(topic, group)).retry
            return sum([one.msg_id in wanted async for one in admin.retries(topic, group)])

    async def act() -> int:
        async with place.admin() as admin:
            return await admin.retry_now(topic, group, ids or None)

    total = run(count)
    what = f"{total} message(s) of {plain(group)} of {plain(topic)}"
    if wanted and not total:
        raise Refused(f"none of these messages waits for a retry in group {plain(group)} of {plain(topic)}")
    if dry_run:
        place.done(f"would be tried again now: {what}", retried=total, dry_run=True)
        return 0
    if total:
        confirm(f"Try {what} again now?", yes=yes)
    done = run(act) if total else 0
    place.done(f"tried again now: {done}", retried=done)
    return 0


def cancel(topic: str, msg_id: str, group: str | None = None, /, *, yes: Yes = False, dry_run: DryRun = False, place: Place = HERE) -> int:
    """Delete a delayed message; or, with GROUP, a message that waits for a retry in that group. A handler that runs is not stopped.

    Args:
        topic: the topic.
        msg_id: the message's id.
        group: the group whose retry to delete.
        yes: do not ask for confirmation.
        dry_run: change nothing.
        place: the server.
    """

    async def look() -> bool:
        async with place.admin() as admin, contextlib.aclosing(_waiting(admin, topic, group)) as waiting:
            async for one in waiting:
                if one.msg_id == msg_id:
                    return True
        return False

    async def act() -> bool:
        async with place.admin() as admin:
            return await admin.cancel(topic, msg_id, group)

    what = f"delayed message {plain(msg_id)} of {plain(topic)}"
    if group is not None:
        what = f"retry of message {plain(msg_id)} in group {plain(group)} of {plain(topic)}"
    if not dry_run:
        confirm(f"Delete the {what}?", yes=yes)
    if not run(look if dry_run else act):
        raise Refused(f"there is no {what}")
    if dry_run:
        place.done(f"would be deleted: the {what}", cancelled=msg_id, dry_run=True)
    else:
        place.done(f"deleted: the {what}", cancelled=msg_id)
    return 0


async def _waiting(admin: Admin, topic: str, group: str | None) -> AsyncGenerator[DelayedMessage | RetryMessage]:
    if group is None:
        async for late in admin.delayed(topic):
            yield late
    else:
        async for failed in admin.retries(topic, group):
            yield failed


def _payload(one: StoredMessage) -> str:
    try:
        return short(as_json(one.payload) if not one.unreadable else one.data.decode("utf-8", "backslashreplace"))
    except (TypeError, NotImplementedError, msgspec.MsgspecError):  # not JSON's, after all
        return short(repr(one.payload))
