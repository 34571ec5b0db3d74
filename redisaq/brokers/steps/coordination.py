"""Steps about a group's document, its members, and the group in each stream (M)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import msgspec

from redisaq.brokers.steps import Broker, GroupStep, ShareStep
from redisaq.brokers.steps.topics import TopicState
from redisaq.brokers.terms import GroupName
from redisaq.core.membership import Document

__all__ = ["Beat", "Commit", "Heartbeat", "MakeGroup", "make_groups"]


class Beat(msgspec.Struct, frozen=True):
    """A heartbeat's answer.

    Attributes:
        alive: the incarnation is a member and its time had not run out (M5); only then was it extended.
        now: the server's time.
        version: of the document, "" if there is none (M3).
        document: None if there is none, or if its version is the one the caller named.
        expired: incarnations in the members' set whose time has run out, the caller's own never among them; sorted.
        next_expiry: the earliest time at which another member that is not expired yet will be; None without others.
        topic: None if the topic does not exist (M9).
        born: when the document's state was made, 0 if there is none (M8).
        frozen_until: until then no standing lease may be dropped and no partition with a holder acquired (M7, M8); 0 if not frozen.
        paused: an admin has paused the group: nothing is to be read and no handler to begin.
        damaged: there is a document, under `version`, that cannot be read: it counts as lost, and a Commit with `freeze` replaces it (M8).
    """

    alive: bool
    now: int
    version: str = ""
    document: Document | None = None
    expired: tuple[str, ...] = ()
    next_expiry: int | None = None
    topic: TopicState | None = None
    born: int = 0
    frozen_until: int = 0
    paused: bool = False
    damaged: bool = False


class MakeGroup(ShareStep[None], frozen=True):
    """Make the group in the partition's stream (making the stream, too) where it is not (G6).

    Attributes:
        latest: it begins at the end of the stream, not at its beginning.
        younger: the stream was made after the group: whatever was trimmed of it since is the group's loss (see Sight).
    """

    name: ClassVar[str] = "make_groups"

    latest: bool
    younger: bool = False


class Heartbeat(GroupStep[Beat], frozen=True):
    """Extend the incarnation's time to now + ttl if it is a member and not expired (M5); answer what others did.

    Detects a changed server (M7): extends everybody to now + ttl, sets `frozen_until`. An unknown incarnation is only answered.

    Attributes:
        incarnation: whose time it is.
        ttl: seconds.
        known_version: of the document that the caller has; it is not sent again.
    """

    incarnation: str
    ttl: float
    known_version: str


class Commit(GroupStep[bool], frozen=True):
    """Replace the document if its version is `known_version`; False if refused. Rings on success.

    Refused too if one of `expired` is not expired, or the group is frozen and `expired` is not empty (M5, M7), or the incarnation is
    neither joining nor a live member, or the server changed since the caller's last heartbeat (M7).

    Attributes:
        incarnation: who commits.
        ttl: seconds for which a member that joins lives.
        known_version: the version to be replaced, "" if there is no document.
        new_version: random, so that a document that is made again is never mistaken for an older one (M3).
        document: the new one.
        joins: add the incarnation to the members, with now + ttl, in the same step (M2),
        leaves: or remove it.
        freeze: the document is made again: sets frozen_until = now + ttl (M8).
        expired: members to remove in the same step.
        former: the same, whether they have expired or not: earlier incarnations of the one that joins, under which nothing runs any more.
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


async def make_groups(broker: Broker, group: GroupName, partitions: Iterable[int], *, latest: bool, younger: bool = False) -> None:
    """Make the group in each of these partitions' streams where it is not (G6); see MakeGroup."""
    await broker.do_each([MakeGroup(group, partition, latest, younger) for partition in partitions])
