"""Steps on a group's document and its members, and on the group in each stream (M)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import msgspec

from redisaq.brokers.steps import Broker, GroupStep, ShareStep
from redisaq.brokers.steps.topics import TopicState
from redisaq.brokers.terms import GroupName
from redisaq.core.deltas import Delta
from redisaq.core.history import Change
from redisaq.core.membership import Document
from redisaq.core.profile import Profile
from redisaq.core.running import WATCHED, Report
from redisaq.core.waiting import Freed, Newcomer, Room

__all__ = ["Beat", "Commit", "GiveBack", "Heartbeat", "MakeGroup", "ReadRunning", "TellRunning", "Wait", "Watch", "make_groups"]


class Beat(msgspec.Struct, frozen=True):
    """The answer to a heartbeat.

    Attributes:
        alive: the incarnation is a member whose time had not run out (M5). Only then was its time extended.
        now: the server's time.
        version: the document's, "" if there is no document (M3).
        document: None if there is none, if the caller named its version, or if `deltas` lead to it.
        deltas: what has changed since the version that the caller named, oldest first (M10).
        expired: the members whose time has run out, sorted, without the caller.
        next_expiry: when the next of the other live members expires; None if there are no others.
        topic: None if the topic does not exist (M9).
        born: when the document's state was made, 0 if there is none (M8).
        frozen_until: until then, no current lease may be dropped and no partition with a holder acquired (M7, M8); 0 if not frozen.
        paused: an admin has paused the group: members read nothing and begin no handler.
        damaged: there is a document under `version` that cannot be read. It counts as lost, and a Commit with `freeze` replaces it (M8).
        crowded: the caller is no member, and others wait to be one, or so many have just joined that it should wait for more (M11).
        watched: somebody watches the group: the member should tell what it has in handlers.
    """

    alive: bool
    now: int
    version: str = ""
    document: Document | None = None
    deltas: tuple[Delta, ...] = ()
    expired: tuple[str, ...] = ()
    next_expiry: int | None = None
    topic: TopicState | None = None
    born: int = 0
    frozen_until: int = 0
    paused: bool = False
    damaged: bool = False
    watched: bool = False
    crowded: bool = False


class MakeGroup(ShareStep[None], frozen=True):
    """Make the group in the partition's stream if it is not there (G6), and the stream, too, if that is missing.

    Attributes:
        latest: the group begins at the end of the stream, not at its beginning.
        younger: the stream was made after the group, so whatever was trimmed from it since counts as the group's loss (see Sight).
    """

    name: ClassVar[str] = "make_groups"

    latest: bool
    younger: bool = False


class Heartbeat(GroupStep[Beat], frozen=True):
    """Extend the incarnation's time to now + ttl if it is a member and not expired (M5). Return what others did.

    If the server has changed (M7), this extends every member to now + ttl and sets `frozen_until`. An unknown incarnation is answered, but
    its time is not extended.

    Attributes:
        incarnation: the member whose time to extend.
        ttl: seconds.
        known_version: the version of the document that the caller has; that document is not sent again.
    """

    incarnation: str
    ttl: float
    known_version: str


class Commit(GroupStep[bool], frozen=True):
    """Replace the document if its version is `known_version`; False if refused. Rings the group's doorbell on success.

    It is also refused if one of `expired` is not expired, if the group is frozen and `expired` is not empty (M5, M7), if the incarnation is
    neither joining nor a live member, or if the server changed since the caller's last heartbeat (M7).

    Attributes:
        incarnation: the member that commits.
        ttl: seconds for which a member that joins lives.
        known_version: the version to replace, "" if there is no document.
        new_version: random, so that a document that was lost and made again is never mistaken for an older one (M3).
        document: the new document.
        joins: add the incarnation to the members, with now + ttl, in the same step (M2).
        leaves: remove the incarnation in the same step.
        freeze: the document replaces one that was lost: set frozen_until = now + ttl (M8).
        expired: members to remove in the same step.
        former: earlier incarnations of the one that joins, to remove whether they have expired or not: nothing runs under them any more.
        profile: what the one that joins says about itself. It is removed with the member.
        changes: what to add to the group's history in the same step.
        admitted: those that are let in from the waiting room, to be added to the members in the same step. If one of them has stopped
            waiting, the commit is refused (M11).
        delta: what has changed since the document of `known_version`, for heartbeats (M10); None if they are to answer the whole document.
    """

    incarnation: str
    ttl: float
    known_version: str
    new_version: str
    document: Document
    joins: bool = False
    leaves: bool = False
    freeze: bool = False
    expired: Sequence[str] = ()
    former: Sequence[str] = ()
    profile: Profile | None = None
    changes: Sequence[Change] = ()
    admitted: Sequence[Newcomer] = ()
    delta: Delta | None = None


class Wait(GroupStep[Room], frozen=True):
    """Wait to join, and see whether it is the caller's turn to let those in that wait (M11). A member does not wait.

    Attributes:
        incarnation: the one that wants to join.
        newcomer: what it says about itself; None: it stops waiting, and passes the turn on.
    """

    incarnation: str
    newcomer: Newcomer | None


class GiveBack(GroupStep[Freed], frozen=True):
    """Say which partitions nobody works on any more, and see whether it is the caller's turn to change the document for all who do (M13).

    Attributes:
        incarnation: the one that worked on them.
        leases: partition -> the token under which it did. It does not do so again.
        gather: seconds for which the one that has the turn waits for others.
    """

    incarnation: str
    leases: Mapping[int, int]
    gather: float


class Watch(GroupStep[None], frozen=True):
    """Let heartbeats ask the members for some time what they have in handlers (`Beat.watched`). It does nothing to an unknown group.

    Attributes:
        seconds: for how long.
    """

    seconds: float = WATCHED


class TellRunning(GroupStep[None], frozen=True):
    """Keep what a member has in handlers, for as long as its heartbeat lasts. Nothing is kept if the server has no memory for it.

    Attributes:
        incarnation: the member.
        ttl: seconds.
        report: what it has in handlers.
    """

    incarnation: str
    ttl: float
    report: Report


class ReadRunning(GroupStep[Report | None], frozen=True):
    """Return what a member has reported of its handlers; None if it has not, or if that is too long ago.

    Attributes:
        incarnation: the member.
    """

    incarnation: str


async def make_groups(broker: Broker, group: GroupName, partitions: Iterable[int], *, latest: bool, younger: bool = False) -> None:
    """Make the group in each of these partitions' streams where it is missing (G6); see MakeGroup."""
    await broker.do_each([MakeGroup(group, partition, latest, younger) for partition in partitions])
