"""`redisaq dead list`, `kinds`, `show`, `redrive`, `purge` and `export`: commands for dead letters.

They read dead letters in pages, and change a few thousand at a time, so that a million of them need no more memory. Dead letters
that arrive while a command runs are left alone.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator, Callable, Sequence, Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple

from cyclopts import App as Commands, Parameter
from msgspec.structs import replace

from redisaq.admin import Admin, DeadKinds, DeadMessage, Treat
from redisaq.cli.common import (
    NO,
    Dash,
    DryRun,
    Most,
    Place,
    Refused,
    Yes,
    as_json,
    confirm,
    moment,
    plain,
    progress,
    run,
    short,
    show_list,
    table,
)

HERE = Place()
AT_ONCE = 5000
"""Dead letters that one call treats."""

dead = Commands(name="dead", help="Look at dead letters, try them again, or drop them.")


def shown(letter: DeadMessage) -> dict[str, Any]:
    """Return the JSON form of a dead letter. A payload that is not JSON becomes text."""
    data = letter.payload if not letter.unreadable else letter.data.decode("utf-8", "backslashreplace")
    names = (
        "topic",
        "group",
        "partition",
        "dead_id",
        "msg_id",
        "entry_id",
        "key",
        "headers",
        "unreadable",
        "error_type",
        "error",
        "traceback",
    )
    fields: dict[str, Any] = {name: getattr(letter, name) for name in names}
    rest = ("attempts", "first_failed", "last_failed", "died_at", "member", "life")
    return {**fields, **{name: getattr(letter, name) for name in rest}, "payload": data}


async def letters(admin: Admin, topic: str, group: str, *, newest: bool = False) -> AsyncGenerator[DeadMessage]:
    """Yield the dead letters that exist now, and none that arrive later."""
    if newest:
        async for letter in admin.dead_letters(topic, group, newest=True):
            yield letter
        return
    left = {one.partition: one.dead for one in (await admin.group(topic, group)).partitions}
    async for letter in admin.dead_letters(topic, group):
        if left.get(letter.partition, 0) > 0:
            left[letter.partition] -= 1
            yield letter


async def pages(admin: Admin, topic: str, group: str, wanted: AbstractSet[str]) -> AsyncGenerator[list[DeadMessage]]:
    """Yield the dead letters that exist now, without payloads and tracebacks: those of the wanted messages, or all if `wanted` is empty."""
    page: list[DeadMessage] = []
    async for letter in letters(admin, topic, group):
        if not wanted or letter.msg_id in wanted:
            page.append(replace(letter, payload=None, data=b"", headers={}, traceback=""))
        if len(page) == AT_ONCE:
            yield page
            page = []
    if page:
        yield page


@dead.command(name="list")
def list_(
    topic: str,
    group: str,
    /,
    *,
    limit: Most = 100,
    newest: Annotated[bool, Parameter(negative="")] = False,
    place: Place = HERE,
) -> int:
    """List a group's dead letters, partition after partition, oldest death first in each.

    Args:
        topic: the topic.
        group: the group.
        newest: the newest death first, over all partitions.
        limit: the most dead letters to show; 0: all.
        place: the server.
    """

    def row(one: DeadMessage) -> tuple[object, ...]:
        return one.msg_id or one.dead_id, one.partition, one.attempts, moment(one.died_at), short(f"{one.error_type}: {one.error}")

    async def total(admin: Admin) -> int:
        return (await admin.group(topic, group)).dead

    def look(admin: Admin) -> AsyncGenerator[DeadMessage]:
        return letters(admin, topic, group, newest=newest)

    heads = ("message", "partition", "attempts", "died", "error")
    return show_list(place, look, limit, row, heads=heads, form=shown, nothing="no dead letters", total=total)


@dead.command
def kinds(topic: str, group: str, /, *, limit: Most = 0, place: Place = HERE) -> int:
    """Count dead letters by kind of failure: class of the error, its text without numbers and names, and your own line.

    Args:
        topic: the topic.
        group: the group.
        limit: stop after so many letters, the newest of each partition; 0: count all.
        place: the server.
    """

    async def look() -> DeadKinds:
        async with place.admin() as admin:
            total = (await admin.group(topic, group)).dead
            found = DeadKinds((), 0, total, complete=True)
            with progress("counted", total) as more:
                async for now in admin.dead_kinds(topic, group):
                    more(now.counted - found.counted)
                    found = now
                    if limit and found.counted >= limit:
                        break
        return found

    found = run(look)
    rows = [
        (one.count, short(f"{one.error_type}: {one.error}"), one.where or "-", moment(one.first), moment(one.last)) for one in found.kinds
    ]
    seen = "all" if found.complete else f"the newest {found.counted} of"
    place.show(
        found,
        lambda: (
            [table("count", "error", "where", "first", "last", rows=rows, right=("count",)), f"counted {seen} {found.total} dead letter(s)"]
            if rows
            else ["no dead letters"]
        ),
    )
    return 0


@dead.command
def show(topic: str, group: str, msg_id: str, /, *, place: Place = HERE) -> int:
    """Show one dead letter: its payload, its last error, and where it failed.

    Args:
        topic: the topic.
        group: the group.
        msg_id: the id of the message or of the dead letter.
        place: the server.
    """

    async def look() -> DeadMessage | None:
        async with place.admin() as admin, contextlib.aclosing(letters(admin, topic, group)) as all_letters:
            async for letter in all_letters:
                if msg_id in (letter.msg_id, letter.dead_id):
                    return letter
        return None

    letter = run(look)
    if letter is None:
        raise Refused(f"group {plain(group)} of {plain(topic)} has no dead letter {plain(msg_id)}")
    fields = shown(letter)
    traceback = fields.pop("traceback") if not place.json else ""
    rows = [(name, as_json(value) if name in ("payload", "headers") else value) for name, value in fields.items()]
    place.show(fields, lambda: [table("field", "value", rows=rows), *map(plain, traceback.splitlines())])
    return 0


@dead.command
def redrive(topic: str, group: str, /, *ids: str, yes: Yes = False, dry_run: DryRun = False, place: Place = HERE) -> int:
    """Retry dead letters in the order in which they died: all, or those of the given messages.

    Args:
        topic: the topic.
        group: the group.
        ids: message ids; without any, all dead letters that exist now.
        yes: do not ask for confirmation.
        dry_run: change nothing.
        place: the server.
    """
    return _treat(REDRIVE, (topic, group), ids, yes=yes, dry_run=dry_run, place=place)


@dead.command
def purge(topic: str, group: str, /, *ids: str, yes: Yes = False, dry_run: DryRun = False, place: Place = HERE) -> int:
    """Delete dead letters permanently: all, or those of the given messages.

    Args:
        topic: the topic.
        group: the group.
        ids: message ids; without any, all dead letters that exist now.
        yes: do not ask for confirmation.
        dry_run: change nothing.
        place: the server.
    """
    return _treat(PURGE, (topic, group), ids, yes=yes, dry_run=dry_run, place=place)


class Treatment(NamedTuple):
    """What is done with dead letters: with which method of an Admin, how to ask for it, and what has become of them."""

    begin: Callable[[Admin, str, str], AbstractAsyncContextManager[Treat]]
    question: str
    past: str


REDRIVE = Treatment(Admin.redriving, "Try {} again?", "redriven")
PURGE = Treatment(Admin.purging, "Drop {} for good?", "purged")


def _treat(treatment: Treatment, name: tuple[str, str], ids: Sequence[str], *, yes: bool, dry_run: bool, place: Place) -> int:
    (topic, group), wanted, past = name, set(ids), treatment.past

    async def count() -> int:
        async with place.admin() as admin:
            if not wanted:
                return (await admin.group(topic, group)).dead
            return sum([len(page) async for page in pages(admin, topic, group, wanted)])

    async def change(total: int) -> int:
        done = 0
        async with place.admin() as admin, treatment.begin(admin, topic, group) as treat:
            with progress(past, total) as more:
                async for page in pages(admin, topic, group, wanted):
                    done += await treat(page)
                    more(len(page))
        return done

    total = run(count)
    what = f"{total} dead letter(s) of {plain(group)} of {plain(topic)}"
    if wanted and not total:
        raise Refused(f"group {plain(group)} of {plain(topic)} has no dead letter of these messages")
    if dry_run:
        place.done(f"{past} would be: {what}", **{past: total, "dry_run": True})
        return 0
    if total:
        confirm(treatment.question.format(what), yes=yes)
    done = run(lambda: change(total)) if total else 0
    place.done(f"{past}: {done}", **{past: done})
    return 0


@dead.command
def export(topic: str, group: str, file: Dash = "-", /, *, place: Place = HERE) -> int:
    """Write dead letters to a file, one JSON object per line. They also stay in the group.

    Args:
        topic: the topic.
        group: the group.
        file: the file; `-`: standard output. An existing file is not overwritten.
        place: the server.
    """
    count = 0

    async def write(to: IO[str]) -> None:
        nonlocal count
        async with place.admin() as admin:
            total = (await admin.group(topic, group)).dead
            with progress("exported", total) as more:
                async with contextlib.aclosing(letters(admin, topic, group)) as all_letters:
                    async for letter in all_letters:
                        print(as_json(shown(letter)), file=to)
                        count += 1
                        more(1)

    if file == "-":
        run(lambda: write(sys.stdout))
        return 0
    try:
        opened = Path(file).open("x", encoding="utf-8")  # noqa: SIM115 -- an error of the server is an OSError, too
    except FileExistsError as error:
        raise Refused(f"{file} exists already: it is not overwritten") from error
    except OSError as error:
        raise Refused(f"{file} cannot be written: {error.strerror}", NO) from error
    with opened:
        try:
            run(lambda: write(opened))
        except BaseException:
            if count:
                print(f"{plain(file)} has {count} dead letter(s), and not all", file=sys.stderr)
            else:
                Path(file).unlink()  # else the next attempt would find that it exists already
            raise
    place.done(f"exported: {count}", exported=count, file=file)
    return 0
