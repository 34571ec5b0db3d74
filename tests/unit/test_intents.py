"""What an administrator is about to change, noted in the histories of several groups, of which one refuses it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import anyio

from redisaq.administering.changes import Intent
from redisaq.brokers.steps.administration import Note
from redisaq.brokers.terms import GroupName
from redisaq.core.history import Change
from redisaq.errors import ServerError


class Histories:
    """A broker that keeps notes, and refuses those of one group."""

    def __init__(self, refused: str) -> None:
        self.refused = refused
        self.notes: dict[tuple[str, bytes], str] = {}

    async def do(self, step: Note) -> bytes:
        if step.group.group == self.refused:
            raise ServerError("WRONGTYPE no history")
        self.notes.pop((step.group.group, step.replaces), None)
        if step.change is None:
            return b""
        note_id = b"%d-0" % (len(self.notes) + 1)
        self.notes[step.group.group, note_id] = step.change.what
        return note_id

    async def do_each(self, steps: Sequence[Note]) -> list[bytes]:
        """As brokers do: all are carried out, and one refusal is raised."""
        errors, ids = list[ServerError](), list[bytes]()
        for step in steps:
            try:
                ids.append(await self.do(step))
            except ServerError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return ids


def test_a_group_that_refuses_a_note_leaves_no_change_unfinished_in_others() -> None:
    async def main(end: str, **found: Any) -> list[str]:
        broker = Histories("audit")
        access: Any = SimpleNamespace(broker=broker)
        groups = [GroupName("orders", name) for name in ("billing", "audit", "mails")]
        intent = Intent(access, groups, Change("grown", count=3))
        await intent.begin()
        assert intent.begun
        assert list(broker.notes.values()) == ["growth begun"] * 2
        await getattr(intent, end)(**found)
        return list(broker.notes.values())

    assert anyio.run(lambda: main("end", count=4)) == ["grown"] * 2
    assert anyio.run(lambda: main("withdraw")) == []
