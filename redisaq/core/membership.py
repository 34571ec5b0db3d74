"""How the group's document changes: one pure function for each reason, and what a member reads in it.

In: the document as a member last saw it, and what it knows besides (its incarnation, the server's time, who is expired). Out: the
next document, for the broker to put in the place of exactly the one that was seen (M3). Whoever comes second with his gets a
refusal, looks again, and computes anew; so nothing here ever waits, merges or asks who leads.

The rules. A *name* is a place in the target. The first to come under it holds it, later ones are its successors and wait in a
queue (M1). Every function below moves the columns of this table, and nothing else does:

    reason     who does it           members                  target             lease                          token
    ---------  --------------------  -----------------------  -----------------  -----------------------------  ------------------
    join       the newcomer          at the end of the        computed anew if   -                              -
                                     name's queue             the name is new
    leave      the one that goes     out of its queue         computed anew if   its leftovers are dropped      -
                                                              the queue is empty
    expire     any live member, if   out of its queue         computed anew if   those of the expired are       -
               not frozen (M7)                                the queue is empty dropped
    grow       any live member       -                        computed anew      -                              -
    acquire    who holds the name    -                        -                  of free partitions meant for   max(last + 1, now)
                                                                                 that name, to itself
    release    who holds the lease   -                        -                  dropped                        -
    raise      who holds the lease   -                        -                  -                              above what stood
                                                                                                                beside the data (T2)

What always holds:
- a lease is dropped by its holder, or because its holder has expired; never because another should have the partition: such a
  holder is only asked, by a target that is not its name;
- a partition that is leased is not leased again before that;
- a token only grows, and stays when its lease goes (M6);
- the partition count only grows; the epoch grows by one with each change;
- when nothing is left to do, every function returns what it was given, and `advance` an empty step.

`advance` does everything a live member can do about what it sees in one document, so that a crash costs one commit for each
member that takes over. `join`, `leave` and `advance` may also be chained, and the result committed as one change.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import msgspec

from redisaq.core.assignment import assign
from redisaq.core.document import EMPTY, Document, MemberEntry


@dataclass(frozen=True)
class Step:
    """What a live member should commit.

    Attributes:
        document: the next document; None if there is nothing to change.
        expired: incarnations that this step drops; the commit checks again that each is expired (M5).
        acquired: partition -> new token, for the leases that this step gives to the caller.
    """

    document: Document | None = None
    expired: tuple[str, ...] = ()
    acquired: Mapping[int, int] = field(default_factory=dict[int, int])


@dataclass(frozen=True)
class Duties:
    """What the document asks of one member about partitions that it already has.

    Attributes:
        lost: held, but no longer leased to it under that token: end the partition's scope at once, release nothing (M4).
        revoke: held and leased to it, but meant for another: drain, then release.
        take: partition -> token: leased to it and meant for it, but not held. The answer to its commit was lost; take the partition
            as if it had just been acquired.
        vacate: leased to it, meant for another and not held: release, there is nothing to drain.
    """

    lost: frozenset[int] = frozenset()
    revoke: frozenset[int] = frozenset()
    take: Mapping[int, int] = field(default_factory=dict[int, int])
    vacate: frozenset[int] = frozenset()


# -- what a member reads ---------------------------------------------------------------------------------------------------------


def is_member(document: Document, incarnation: str) -> bool:
    """Return whether the incarnation is listed, holding a name or waiting for one."""
    return _name_of(document, incarnation) is not None


def waiting_for_name(document: Document, incarnation: str) -> bool:
    """Return whether the incarnation waits until an older one of the same name is gone (M1)."""
    return any(incarnation in entry.successors for entry in document.members.values())


def duties(document: Document, *, incarnation: str, held: Mapping[int, int]) -> Duties:
    """Compare the document with what a member has.

    Args:
        document: the newest one the member has seen.
        incarnation: the member.
        held: partition -> token, for the partitions whose scopes it has open, draining ones among them.
    """
    name = _name_of(document, incarnation)
    mine = {partition: document.token[partition] for partition, holder in document.lease.items() if holder == incarnation and name is not None}
    meant = {partition for partition in mine if document.target.get(partition) == name}
    return Duties(
        lost=frozenset(partition for partition, token in held.items() if mine.get(partition) != token),
        revoke=frozenset(partition for partition, token in held.items() if mine.get(partition) == token and partition not in meant),
        take={partition: mine[partition] for partition in sorted(meant) if partition not in held},
        vacate=frozenset(partition for partition in mine if partition not in meant and partition not in held),
    )


def lease_deadline(sent: float, ttl: float) -> float:
    """Return until when a member may work, on its own clock (M5).

    Args:
        sent: when its last successful heartbeat was sent, not answered: the server's clock of the lease started no earlier.
        ttl: seconds; a sixth of it is the margin for clocks that differ in speed.
    """
    return sent + ttl - ttl / 6


def may_acquire_foreign(now: int, *, frozen_until: int, born: int, ttl_us: int) -> bool:
    """Return whether a partition may be taken although another incarnation still stands as holder beside its data (M7, M8).

    A holder that is not in the document may be an owner whose group was lost while its lease still runs.

    Args:
        now: the server's time, microseconds, as are all.
        frozen_until: until then nothing standing is taken; 0 if not frozen.
        born: when the group's document was made.
        ttl_us: how long a lease lasts.
    """
    return now >= frozen_until and now >= born + ttl_us


# -- what changes it -------------------------------------------------------------------------------------------------------------


def made_again(known: Document | None) -> Document:
    """Return what a group that has no document begins with, for `join` to go on from (M8).

    Args:
        known: the last document that the caller saw of this group. If it saw one, the commit must freeze the new document. Its
            tokens go on, so that none repeats even if the server's clock was set back.
    """
    return EMPTY if known is None else Document(epoch=known.epoch, token=known.token)


def join(document: Document, *, name: str | None, incarnation: str, partitions: int) -> Document:
    """Enter the group (M1, M2).

    Args:
        document: EMPTY, or from `made_again`, if there is none.
        name: the name to hold or to wait for; None: the incarnation is its name.
        incarnation: the member.
        partitions: how many the topic has, 0 if it does not exist.

    Returns:
        The next document; the same one if the incarnation is listed already (its join succeeded, and the answer was lost).
    """
    if is_member(document, incarnation):
        return document
    name = incarnation if name is None else name
    return _settled(document, _queues(document) | {name: (*_queue(document, name), incarnation)}, document.lease, partitions)


def leave(document: Document, *, incarnation: str) -> Document:
    """Go from the group for good, or give up waiting for a name; leases that were not released are dropped.

    Returns:
        The next document, in which the first successor has the name and the target; the same one if nothing of it was there.
    """
    return _without(document, {incarnation})


def advance(document: Document, *, incarnation: str, now: int, expired: Collection[str], partitions: int, frozen: bool) -> Step:
    """Do whatever a live member can do about what it sees.

    Args:
        document: the newest one the member has seen.
        incarnation: the member. One that is not listed, or expired itself, can do nothing.
        now: the server's time at its last heartbeat, microseconds.
        expired: incarnations whose time has run out, as the server said.
        partitions: how many the topic has.
        frozen: the group's leases must stand (M7): nobody is dropped.
    """
    name = _name_of(document, incarnation)
    if name is None or incarnation in expired:
        return Step()
    dropped = frozenset[str]() if frozen else frozenset(expired)
    after = _without(document, dropped)
    after = _settled(after, _queues(after), after.lease, partitions)
    acquired: dict[int, int] = {}
    if after.members[name].incarnation == incarnation:
        free = (partition for partition, owner in after.target.items() if owner == name and partition not in after.lease)
        acquired = {partition: max(after.token.get(partition, 0) + 1, now) for partition in free}
    lease = after.lease | dict.fromkeys(acquired, incarnation)
    after = _changed(document, members=after.members, partitions=after.partitions, target=after.target, lease=lease, token=after.token | acquired)
    return Step() if after is document else Step(after, tuple(sorted(dropped)), acquired)


def release(document: Document, *, incarnation: str, partitions: Collection[int]) -> Document:
    """Give partitions back that have been drained; those that the incarnation does not hold are passed over."""
    given = {partition for partition in partitions if document.lease.get(partition) == incarnation}
    lease = {partition: holder for partition, holder in document.lease.items() if partition not in given}
    return _changed(document, lease=lease)


def raise_token(document: Document, *, incarnation: str, partition: int, above: int, now: int) -> Document | None:
    """Give a lease a greater token, because a greater one stands beside the data (T2).

    Args:
        document: the newest one the member has seen.
        incarnation: the member.
        partition: whose token.
        above: the token that stands beside the data.
        now: the server's time at its last heartbeat, microseconds.

    Returns:
        The next document, with the new token in `token`; None if the partition is not leased to the incarnation.
    """
    if document.lease.get(partition) != incarnation:
        return None
    token = max(above + 1, document.token[partition] + 1, now)
    return _changed(document, token=document.token | {partition: token})


# -- the parts they are made of --------------------------------------------------------------------------------------------------

_Queues = Mapping[str, tuple[str, ...]]  # name -> who holds it, then who waits for it; never empty


def _queue(document: Document, name: str) -> tuple[str, ...]:
    entry = document.members.get(name)
    return () if entry is None else (entry.incarnation, *entry.successors)


def _queues(document: Document) -> dict[str, tuple[str, ...]]:
    return {name: _queue(document, name) for name in document.members}


def _name_of(document: Document, incarnation: str) -> str | None:
    return next((name for name, queue in _queues(document).items() if incarnation in queue), None)


def _without(document: Document, gone: Collection[str]) -> Document:
    """Take incarnations out of their queues and drop their leases; the next in a queue has the name."""
    queues = {name: tuple(one for one in queue if one not in gone) for name, queue in _queues(document).items()}
    lease = {partition: holder for partition, holder in document.lease.items() if holder not in gone}
    return _settled(document, {name: queue for name, queue in queues.items() if queue}, lease, document.partitions)


def _settled(document: Document, queues: _Queues, lease: dict[int, str], partitions: int) -> Document:
    """Return the document with these members and leases, its target computed for the names that are left."""
    partitions = max(partitions, document.partitions)
    members = {name: MemberEntry(queue[0], queue[1:]) for name, queue in sorted(queues.items())}
    return _changed(document, members=members, partitions=partitions, target=assign(members, partitions, document.target), lease=lease)


def _changed(document: Document, **columns: object) -> Document:
    """Return the document with these columns under the next epoch; itself if they are what it has."""
    after = msgspec.structs.replace(document, **columns)
    return document if after == document else msgspec.structs.replace(after, epoch=document.epoch + 1)
