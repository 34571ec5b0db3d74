"""Which colour and letter each member of a group has.

A member gets the first free slot when it is first seen, the longest-serving member first, and keeps it until an hour after it has gone. A
member that starts again under its `consumer_name` gets its slot back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec.structs import replace

from redisaq.admin_views import HistoryEntry, MemberInfo
from redisaq.watching.snapshot import MemberView

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
"""Without I and O, which look like digits."""

KEPT = 3600.0
"""Seconds for which a member that has gone keeps its slot."""


_NOBODY = MemberView(0, "", "", "", "", None, "", None, (), None, None)


class _Known:
    """A member that has a slot."""

    __slots__ = ("expires_in", "slot", "view")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.view: MemberView = _NOBODY
        self.expires_in: float | None = None

    def went(self) -> Literal["left", "taken for dead"]:
        """Return how it went: who leaves does so between two heartbeats."""
        ttl = self.view.ttl
        late = self.expires_in is None or self.expires_in <= (0.0 if ttl is None else ttl / 2)
        return "taken for dead" if late else "left"


class Slots:
    """The slots of one group."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def put(self, members: Iterable[MemberInfo], at: float) -> None:
        """Record the current members."""
        present = {member.incarnation: member for member in members}
        for incarnation, known in list(self._known.items()):
            if incarnation in present:
                continue
            if known.view.gone is None:
                known.view = replace(known.view, gone=at, went=known.went(), owns=())
            elif known.view.gone < at - KEPT:
                del self._known[incarnation]
        for member in sorted(present.values(), key=_seniority):
            if member.incarnation not in self._known:
                self._known[member.incarnation] = _Known(self._free(member, present))
            known = self._known[member.incarnation]
            known.view, known.expires_in = _view(member, known.slot), member.expires_in

    def of(self, incarnation: str) -> int | None:
        """Return a member's slot; None if it has none."""
        known = self._known.get(incarnation)
        return None if known is None else known.slot

    def explain(self, history: Iterable[HistoryEntry]) -> None:
        """Take from the history, the latest first, how members went; what was guessed may have been wrong."""
        for entry in history:
            known = self._known.get(entry.member)
            if known is None or known.view.gone is None:
                continue
            match entry.what:
                case "left" | "taken for dead" as went:
                    known.view = replace(known.view, went=went, gone=entry.at.timestamp())
                case _:
                    pass

    @property
    def places(self) -> dict[int, str]:
        """The process of the member that has each slot."""
        return {known.slot: known.view.place for known in self._known.values()}

    def order(self, member: MemberInfo) -> int:
        """Return a member's place among the others."""
        return self._known[member.incarnation].slot

    def views(self, members: Iterable[MemberInfo]) -> tuple[tuple[MemberView, ...], tuple[MemberView, ...]]:
        """Return the members, and those that have gone, the latest first."""
        here = tuple(self._known[member.incarnation].view for member in sorted(members, key=self.order))
        gone = [known.view for known in self._known.values() if known.view.gone is not None]
        return here, tuple(sorted(gone, key=lambda view: (-(view.gone or 0.0), view.slot)))

    def _free(self, member: MemberInfo, present: dict[str, MemberInfo]) -> int:
        for incarnation, known in list(self._known.items()):
            if known.view.name == member.name and incarnation not in present:
                del self._known[incarnation]  # the same member, started again
                return known.slot
        taken = {known.slot for known in self._known.values()}
        return next(slot for slot in range(len(taken) + 1) if slot not in taken)


def _seniority(member: MemberInfo) -> tuple[bool, float, str]:
    since = 0.0 if member.since is None else member.since.timestamp()
    return member.since is None, since, member.incarnation


def _view(member: MemberInfo, slot: int) -> MemberView:
    return MemberView(
        slot=slot,
        tag=LETTERS[slot % len(LETTERS)],
        name=member.name,
        incarnation=member.incarnation,
        host=member.host,
        pid=member.pid or None,
        version=member.version,
        since=None if member.since is None else member.since.timestamp(),
        owns=member.partitions,
        heartbeat=member.heartbeat_age,
        ttl=member.ttl,
        waiting=member.waiting,
    )
