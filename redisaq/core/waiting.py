"""The waiting room: members that wait to join together, by one change of the group's document (M11).

A member whose own change was refused because another one was faster waits there. One of those that wait has the turn, for at most a second:
it waits until no more come, then lists all of them in the document, and gives them what is free. So a herd of members that start at once
costs a few changes, not several for each.

Members of a crowd that have drained partitions wait for each other in the same way: one of them changes the document for all (M13).

Members of older versions never wait, and nothing depends on them: they see the changes like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from redisaq.core.profile import Profile
from redisaq.core.records import UNREADABLE
from redisaq.settings import MAX_SECONDS

FEW = 2
"""How many may join within BURST seconds before the next ones wait for each other."""

BURST = 1.0
"""Seconds after a join within which another one belongs to the same burst."""

PATIENCE = 8.0
"""How many times as long as newcomers have come apart it must be quiet before they are let in."""

QUIET, LONGEST_QUIET = 0.06, 0.5
"""Seconds that this takes at most, for each that waits or has joined in the burst after the first few; and at most of all."""

LEAST = 0.2
"""The part of that which it takes at least, however close together they have come."""

LONGEST = 3.0
"""Seconds after which they are let in although more still come."""

SHORTEST_PAUSE = 0.001
"""Seconds that are too few to wait: the server counts milliseconds, and what a difference of two floats leaves may be no time at all."""

TURN = 1.0
"""Seconds for which one of those that wait has the turn. The next one that asks after that has it."""

STAYS = 3.0
"""Seconds for which one that no longer asks still counts as waiting. All ask more often than that."""

ASK_EVERY = 0.25
"""Seconds after which one that waits asks again, unless the document changes before."""


GATHER_TURN = 0.5
"""Seconds that pass after a turn to give back for all, at most, until another one has it."""

FREED_LASTS = 4.0
"""Seconds for which what was given back is answered. All that find it in the document still say it again sooner."""


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
        burst: how many have just joined, each within a second of the one before; 0 if they are but a few.
    """

    member: bool = False
    waiting: tuple[Newcomer, ...] = ()
    newest: float = 0.0
    oldest: float = 0.0
    burst: int = 0

    @property
    def pause(self) -> float:
        """Seconds for which the turn's holder should wait before it asks again; 0 if it should let them in now."""
        waiting = len(self.waiting)
        apart = (self.oldest - self.newest) / max(1, waiting - 1)
        most = min(QUIET * (waiting + max(0, self.burst - FEW)), LONGEST_QUIET)
        quiet = min(max(PATIENCE * apart, LEAST * most), most) if waiting > 1 else most
        pause = min(quiet - self.newest, LONGEST - self.oldest) if self.burst or len(self.waiting) > FEW else 0.0
        return pause if pause >= SHORTEST_PAUSE else 0.0


class Freed(msgspec.Struct, frozen=True):
    """What members of a crowd have given back, as one of them sees it.

    Attributes:
        pause: seconds after which to ask again, unless the document changes; 0 if the caller is to change it.
        leases: (partition, incarnation, token) of what nobody works on any more.
    """

    pause: float = 0.0
    leases: frozenset[tuple[int, str, int]] = frozenset()


def burst_of(joined: int, since: float) -> int:
    """Return how many have joined in a burst, the last of them `since` seconds ago; 0 if newcomers need not wait for each other."""
    return joined if joined >= FEW and since < BURST else 0


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


_leases_decoder = msgspec.msgpack.Decoder(dict[int, int])


def encode_leases(leases: Mapping[int, int]) -> bytes:
    """Return partitions and tokens as msgpack."""
    return _encoder.encode(leases)


def read_leases(records: Iterable[tuple[str, bytes]]) -> frozenset[tuple[int, str, int]]:
    """Return what each incarnation has given back; what cannot be read is not among it."""
    return frozenset((partition, incarnation, token) for incarnation, said in records for partition, token in _leases_of(said).items())


def _leases_of(record: bytes) -> dict[int, int]:
    try:
        return _leases_decoder.decode(record)
    except UNREADABLE:
        return {}
