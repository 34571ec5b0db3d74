"""The waiting room: members that wait to join together, by one change of the group's document (M11).

A member whose own change was refused because another one was faster waits there. One of those that wait has the turn, for at most a second:
it waits until no more come, then lists all of them in the document, and gives them what is free. So a herd of members that start at once
costs a few changes, not several for each.

Members of older versions never wait, and nothing depends on them: they see the changes like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from redisaq.core.profile import Profile
from redisaq.core.records import UNREADABLE
from redisaq.settings import MAX_SECONDS

FEW = 2
"""How many may join within BURST seconds before the next ones wait for each other."""

BURST = 1.0
"""Seconds after a join within which another one belongs to the same burst."""

QUIET, LONGEST_QUIET = 0.03, 0.5
"""Seconds without a newcomer, for each that waits, after which they are let in; and the most of them."""

LONGEST = 3.0
"""Seconds after which they are let in although more still come."""

TURN = 1.0
"""Seconds for which one of those that wait has the turn. The next one that asks after that has it."""

STAYS = 3.0
"""Seconds for which one that no longer asks still counts as waiting. All ask more often than that."""

ASK_EVERY = 0.25
"""Seconds after which one that waits asks again, unless the document changes before."""


class Newcomer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one that waits says about itself.

    Attributes:
        incarnation: the start that wants to join.
        profile: what it says about itself; also its ttl.
        name: the name that it wants to hold, None for none.
        former: earlier incarnations of the same process, under which nothing runs any more.
    """

    incarnation: str
    profile: Profile
    name: str | None = None
    former: tuple[str, ...] = ()


class Room(msgspec.Struct, frozen=True):
    """The waiting room, as one of those that wait sees it.

    Attributes:
        member: the caller does not wait: it is a member.
        waiting: those that wait, the caller among them, in the order in which they came, if the caller has the turn; else nobody.
        newest: seconds since the last of them came.
        oldest: seconds since the first of them came.
        burst: more than a few have just joined, or are about to.
    """

    member: bool = False
    waiting: tuple[Newcomer, ...] = ()
    newest: float = 0.0
    oldest: float = 0.0
    burst: bool = False

    @property
    def pause(self) -> float:
        """Seconds for which the turn's holder should wait before it asks again; 0 if it should let them in now."""
        quiet = min(QUIET * len(self.waiting), LONGEST_QUIET)
        return max(0.0, min(quiet - self.newest, LONGEST - self.oldest)) if self.burst or len(self.waiting) > FEW else 0.0


def is_burst(joined: int, since: float) -> bool:
    """Return whether newcomers should wait for each other: so many have joined in a burst, the last of them `since` seconds ago."""
    return joined >= FEW and since < BURST


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Newcomer)


def encode_newcomer(newcomer: Newcomer) -> bytes:
    """Return what one that waits says about itself as msgpack."""
    return _encoder.encode(newcomer)


def read_newcomers(records: Sequence[bytes]) -> tuple[Newcomer, ...]:
    """Return those that wait; who cannot be read is not among them."""
    return tuple(newcomer for record in records if (newcomer := _read(record)) is not None)


def _read(record: bytes) -> Newcomer | None:
    try:
        newcomer = _decoder.decode(record)
    except UNREADABLE:
        return None
    return newcomer if newcomer.incarnation and 0 < newcomer.profile.ttl <= MAX_SECONDS else None
