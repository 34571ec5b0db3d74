"""The group's document: its members, who should own which partition, who does own it; and every change of it.

There is one pure function for each reason to change the document. Nothing else builds one.

Input: the document as a member last saw it, and what else the member knows (its incarnation, the server's time, the expired members).
Output: the next document, with which the broker replaces exactly the one that was seen (M3). If another member was faster, the commit is
refused, and the member looks again and computes again. So nothing here waits, merges or needs a leader.

The rules. A *name* is a place in the target. The first incarnation to join under a name holds it. Later ones are its successors and wait in
a queue (M1). Every function below changes the columns of this table, and nothing else does:

    reason   who does it             members            target            lease                    token
    -------  ----------------------  -----------------  ----------------  -----------------------  ------------------
    join     the new member          at the end of its  computed again    those of its own former  -
                                     name's queue                         starts are dropped
    leave    the one that leaves     out of its queue   computed again    those that it still has  -
                                                                          are dropped
    expire   any live member, not    out of its queue   computed again    those of the expired     -
             while frozen (M7)                                            are dropped
    grow     any live member         -                  computed again    -                        -
    acquire  the name's holder       -                  -                 of a free partition      max(last + 1, now)
                                                                          meant for that name
    admit    one that joins, for     as join            as join           as join                  -
             all that wait (M11)
    grant    in a crowd (M12), who   -                  -                 of partitions that this  max(last + 1, now)
             frees or moves them                                          change frees or moves
    release  the lease's holder      -                  -                 dropped                  -
    free     any live member, for    as release         -                 dropped                  -
             holders that gave it
             back (M13)
    raise    the lease's holder      -                  -                 -                        above the one
                                                                                                   beside the data (T2)
    unable   the lease's holder      -                  computed again    -                        -

`unable` is a column of its own. `enter_unable` adds an entry; it is removed with its incarnation, or when `advance` finds it older than
FORGET_US.

`assign` computes the target. The target is

- *able*: no member should own a partition that it cannot read, while another member can read it;
- *balanced*: the loads of two members differ by at most one, unless none of the greater one's partitions could move to the other;
- *sticky*: if all members can read all partitions, no balanced assignment moves fewer partitions away from a member that is still there
  (the idea of KIP-54);
- *a fixed point*: applied to its own result it changes nothing;
- *deterministic*: it does not depend on the order of its input. Two members that see the same document compute the same target.

Computing the target again gives the same target unless the set of names, the partition count or `unable` has changed. So a name that has a
successor keeps its place.

Invariants:

- A lease is dropped by its holder, by a later start of the same process, or because its holder has expired. It is never dropped because
  another member should have the partition: the holder is only asked, by a target with another name.
- A partition that is leased is not leased again before that.
- A token only grows, and stays when its lease is dropped (M6).
- The partition count only grows. The epoch grows by one with each change.
- When nothing is left to do, every function returns the document that it was given, and `advance` an empty step.

`advance` does everything that a live member can do about one document, so that a crash costs one commit for each member that takes over.
You can also chain `join`, `leave` and `advance`, and commit the result as one change.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from redisaq.core.records import MOST_NUMBER, UNREADABLE
from redisaq.settings import MOST_PARTITIONS


class MemberEntry(msgspec.Struct, frozen=True):
    """One name in the group (M1, M2).

    Attributes:
        incarnation: the running start that holds the name now.
        successors: later starts under the same name that wait for it, oldest first.
    """

    incarnation: str
    successors: tuple[str, ...] = ()


class Document(msgspec.Struct, frozen=True):
    """What the group agrees on.

    Attributes:
        epoch: grows by one with every change.
        members: member name -> its holder and successors. A consumer without a name of its own uses its incarnation as its name.
        partitions: the partition count for which the target was computed.
        target: partition -> the member name that should own it.
        lease: partition -> the incarnation that does own it; absent while none does.
        token: partition -> the last fencing token given; a release keeps it (M6).
        unable: partition -> incarnations that owned it and could not read it, each with the server's time at which it reported this.
            Members of an older version ignore this and drop it with their next change.
    """

    epoch: int = 0
    members: dict[str, MemberEntry] = {}
    partitions: int = 0
    target: dict[int, str] = {}
    lease: dict[int, str] = {}
    token: dict[int, int] = {}
    unable: dict[int, dict[str, int]] = {}


EMPTY = Document()
_decoder = msgspec.msgpack.Decoder(Document)
_encoder = msgspec.msgpack.Encoder()


def encode_document(document: Document) -> bytes:
    """Return the document as msgpack."""
    return _encoder.encode(document)


def decode_document(data: bytes) -> Document:
    """Return the document that `encode_document` wrote; ValueError, or one of UNREADABLE, for other bytes."""
    document = _decoder.decode(data)
    numbers = (*document.target, *document.lease, *document.token, *document.unable)
    said = (at for entries in document.unable.values() for at in entries.values())
    check_bounds(document.partitions, numbers, (document.epoch, *document.token.values(), *said))
    if any(holder and partition not in document.token for partition, holder in document.lease.items()):
        raise ValueError("a lease has no token")
    if not all(number < document.partitions for number in document.target):
        raise ValueError("the target is of other partitions")
    return document


def check_bounds(partitions: int, numbers: Iterable[int], values: Iterable[int]) -> None:
    """Raise ValueError if the count of partitions, a partition's number, or a token, time or epoch cannot be one."""
    if not 0 <= partitions <= MOST_PARTITIONS or not all(0 <= number < MOST_PARTITIONS for number in numbers):
        raise ValueError("a partition's number is out of bounds")
    if not all(0 <= value < MOST_NUMBER for value in values):
        raise ValueError("a token, a time or the epoch is out of its bounds")


def read_document(data: bytes | None) -> Document | None:
    """Return the document, None if there is none or it cannot be read."""
    try:
        return None if data is None else decode_document(data)
    except UNREADABLE:
        return None


def assign(
    members: Collection[str], partitions: int, current: Mapping[int, str], unable: Mapping[int, Collection[str]] | None = None
) -> dict[int, str]:
    """Return partition -> member for the partitions 0 to `partitions` - 1.

    Args:
        members: names; duplicates count once.
        partitions: how many there are.
        current: the target so far. Members that are gone and partitions outside the range are ignored.
        unable: partition -> members that cannot read it. If no member can, this is ignored.

    Returns:
        A member for every partition, in the order of the partitions; nothing if there are no members.
    """
    owned: dict[str, list[int]] = {member: [] for member in sorted(set(members))}
    if not owned:
        return {}
    barred = {partition: owned.keys() & set(names) for partition, names in (unable or {}).items()}
    barred = {partition: names for partition, names in barred.items() if names and len(names) < len(owned)}
    unplaced: list[int] = []
    for partition in range(partitions):
        owner = current.get(partition)
        if owner in owned and owner not in barred.get(partition, ()):
            owned[owner].append(partition)
        else:
            unplaced.append(partition)

    # First the partitions that some members cannot read. Each goes to the able member with the least.
    for partition in [one for one in unplaced if one in barred]:
        able = owned.keys() - barred[partition]
        owned[min(able, key=lambda member: (len(owned[member]), member))].append(partition)
    hands = [(len(kept), member) for member, kept in owned.items()]
    heapq.heapify(hands)
    for partition in [one for one in unplaced if one not in barred]:
        load, member = hands[0]
        owned[member].append(partition)
        heapq.heapreplace(hands, (load + 1, member))

    while _level(owned, barred):
        pass
    return dict(sorted((partition, member) for member, kept in owned.items() for partition in kept))


def _level(owned: dict[str, list[int]], barred: Mapping[int, Collection[str]]) -> bool:
    """Move one partition from the member with the most to the one with the least, or between the nearest two; False if no move helps."""
    ranks = sorted((len(kept), member) for member, kept in owned.items())
    for most, giver in reversed(ranks):
        if most < ranks[0][0] + 2:
            break
        for least, taker in ranks:
            if most < least + 2:
                break
            for place in reversed(range(most)):
                if taker not in barred.get(owned[giver][place], ()):
                    owned[taker].append(owned[giver].pop(place))
                    return True
    return False


UNKNOWN = ""
"""Holds the leases of a document made again after a loss: an unknown owner may still be at work there (M8)."""

CROWD = 3
"""Members above which a group is a crowd."""

FORGET_US = 300 * 1_000_000
"""Microseconds after which a member that could not read a partition may own it again."""


@dataclass(frozen=True)
class Step:
    """What a live member should commit.

    Attributes:
        document: the next document; None if there is nothing to change.
        expired: incarnations that this step drops; the commit checks again that each has expired (M5).
        acquired: partition -> new token, for the leases that this step gives to the caller.
    """

    document: Document | None = None
    expired: tuple[str, ...] = ()
    acquired: Mapping[int, int] = field(default_factory=dict[int, int])


@dataclass(frozen=True)
class Duties:
    """What the document asks of one member, compared with the partitions that it holds.

    Attributes:
        lost: held, but no longer leased to it under that token: end the partition's scope at once, release nothing (M4).
        revoke: held and leased to it, but meant for another member: drain, then release.
        take: partition -> token: leased to it and meant for it, but not held. The answer to its commit was lost; take the partition as if
            it had just been acquired.
        vacate: leased to it, meant for another member and not held: release, there is nothing to drain.
    """

    lost: frozenset[int] = frozenset()
    revoke: frozenset[int] = frozenset()
    take: Mapping[int, int] = field(default_factory=dict[int, int])
    vacate: frozenset[int] = frozenset()


# -- what a member reads ---------------------------------------------------------------------------------------------------------


def is_member(document: Document, incarnation: str) -> bool:
    """Return whether the incarnation is listed, as a name's holder or successor."""
    return _name_of(document, incarnation) is not None


def duties(document: Document, *, incarnation: str, held: Mapping[int, int]) -> Duties:
    """Compare the document with the partitions that a member holds.

    Args:
        document: the newest one that the member has seen.
        incarnation: the member.
        held: partition -> token, for the partitions whose scopes it has open, including those that drain.
    """
    name = _name_of(document, incarnation)
    held_by = incarnation if name is not None else None  # a lease counts only while its holder is listed
    mine = {partition: document.token[partition] for partition, holder in document.lease.items() if holder == held_by}
    meant = {partition for partition in mine if document.target.get(partition) == name}
    kept = {partition for partition, token in held.items() if mine.get(partition) == token}
    return Duties(
        lost=frozenset(held.keys() - kept),
        revoke=frozenset(kept - meant),
        take={partition: mine[partition] for partition in sorted(meant - held.keys())},
        vacate=frozenset(mine.keys() - meant - held.keys()),
    )


def lease_deadline(sent: float, ttl: float) -> float:
    """Return the time until which a member may work, on its own clock (M5).

    Args:
        sent: when it sent its last successful heartbeat (not when that was answered): on the server's clock, the lease began no earlier.
        ttl: seconds; a sixth of it is the margin for clocks that differ in speed.
    """
    return sent + ttl - ttl / 6


def may_acquire_foreign(now: int, *, frozen_until: int, born: int, ttl_us: int) -> bool:
    """Return whether a partition may be taken while another incarnation is still the holder beside its data (M7, M8).

    A holder that is not in the document may be an owner whose group was lost while its lease still runs.

    Args:
        now: the server's time in microseconds, as all times here.
        frozen_until: until then no current lease is taken; 0 if not frozen.
        born: when the group's document was made.
        ttl_us: how long a lease lasts.
    """
    return now >= frozen_until and now >= born + ttl_us


# -- what changes it -------------------------------------------------------------------------------------------------------------


def made_again(known: Document | None, *, partitions: int) -> Document:
    """Return the document from which `join` starts in a group that has none (M8).

    A member that saw an earlier document knows that there may be owners whose leases still run. It does not know who owns what now, since
    it may have missed the last change. So every partition is leased to UNKNOWN until the freeze is over. The tokens are kept, so that none
    repeats if the server's clock was set back.

    Args:
        known: the group's last document that the caller saw, None if it never saw one. If it did, the commit must freeze.
        partitions: how many the topic has.
    """
    if known is None:
        return EMPTY
    return Document(epoch=known.epoch, partitions=partitions, lease=dict.fromkeys(range(partitions), UNKNOWN), token=known.token)


def join(
    document: Document,
    *,
    name: str | None,
    incarnation: str,
    partitions: int,
    former: Collection[str] = (),
    held: Collection[int] = (),
) -> Document:
    """Enter the group (M1, M2).

    Args:
        document: from the last heartbeat, or from `made_again` if there is none.
        name: the name to hold or to wait for; None: the incarnation is its name.
        incarnation: the member.
        partitions: how many the topic has, 0 if it does not exist.
        former: earlier incarnations of this same process. They have ended, and nothing runs under them. Their place and their target go to
            the new one, and their leases are dropped at once. Other members would have to wait until they expire.
        held: the partitions that the process owned when a heartbeat, answered before its deadline, showed that the group's document was
            lost. No other member can own these, so they need not stay with UNKNOWN.

    Returns:
        The next document; the same one if the incarnation is already listed (its join succeeded, and the answer was lost).
    """
    if is_member(document, incarnation):
        return document
    name = incarnation if name is None else name
    queues = _without(document, former)
    queues[name] = (*queues.get(name, ()), incarnation)
    lease = {p: holder for p, holder in document.lease.items() if holder not in former and not (holder == UNKNOWN and p in held)}
    target = {p: name if owner in former else owner for p, owner in document.target.items()}
    return _settled(document, queues, lease, partitions, target)


def admit(document: Document, newcomers: Iterable[tuple[str, str | None, Collection[str]]], *, partitions: int) -> Document:
    """Let several enter that wait together (M11). It is as if each joined after the other, at the cost of one.

    Args:
        document: with the caller in it.
        newcomers: the incarnation, the name that it wants or None, and the former incarnations of each, as `join` has them.
        partitions: how many the topic has.
    """
    target, lease = dict(document.target), dict(document.lease)
    queues: dict[str, tuple[str, ...]] = _queues(document)
    for incarnation, wanted, former in newcomers:
        name = incarnation if wanted is None else wanted
        if former:
            queues = {one: kept for one, queue in queues.items() if (kept := tuple(each for each in queue if each not in former))}
            lease = {p: holder for p, holder in lease.items() if holder not in former}
            target = {p: name if owner in former else owner for p, owner in target.items()}
        if not any(incarnation in queue for queue in queues.values()):
            queues[name] = (*queues.get(name, ()), incarnation)
    return _settled(document, queues, lease, partitions, target)


def grant(before: Document, after: Document, *, now: int) -> Document:
    """Lease what a change frees, or means for another, to those for whom it is meant (M12): they need no change of their own to acquire it.

    What was free before, for the same name, is left alone: its holder may be about to leave.

    Args:
        before: the document that the change replaces.
        after: the one that it puts in its place.
        now: the server's time, microseconds.
    """
    free = {
        p: after.members[name].incarnation
        for p, name in after.target.items()
        if p not in after.lease and (p in before.lease or before.target.get(p) != name)
    }
    if not free:
        return after
    tokens = {p: _next_token(after, p, now) for p in free}
    return _changed(after, lease=after.lease | free, token=after.token | tokens)


def is_crowd(document: Document) -> bool:
    """Return whether the group is so large that its members spread what they do at a change, and spare each other changes (M12)."""
    return len(document.members) > CROWD


def leave(document: Document, *, incarnation: str) -> Document:
    """Leave the group for good, or stop waiting for a name; leases that were not released are dropped.

    Returns:
        The next document, in which the first successor has the name and the target; the same one if the incarnation was not there.
    """
    queues = _without(document, {incarnation})
    return _settled(document, queues, _leases_without(document, {incarnation}), document.partitions, document.target)


def advance(document: Document, *, incarnation: str, now: int, expired: Collection[str], partitions: int, frozen: bool) -> Step:
    """Do everything that a live member can do about the document.

    Args:
        document: the newest one that the member has seen.
        incarnation: the member. One that is not listed, or has expired itself, can do nothing.
        now: the server's time at its last heartbeat, microseconds.
        expired: incarnations whose time has run out, as reported by the server.
        partitions: how many the topic has.
        frozen: the group's leases must stay (M7): no member is dropped.
    """
    name = _name_of(document, incarnation)
    if name is None or incarnation in expired:
        return Step()
    gone = frozenset[str]() if frozen else frozenset(expired)
    dropped = gone if frozen else gone | {UNKNOWN}
    lease = document.lease if dropped.isdisjoint(document.lease.values()) else _leases_without(document, dropped)
    if not gone and lease is document.lease and partitions <= document.partitions and _is_level(document):
        after = document  # as nearly always: the member that changed it last has computed the target
    else:
        after = _settled(document, _without(document, gone), lease, partitions, document.target, since=now - FORGET_US)
    acquired: dict[int, int] = {}
    if after.members[name].incarnation == incarnation:
        free = (p for p, owner in after.target.items() if owner == name and p not in after.lease)
        acquired = {p: _next_token(after, p, now) for p in free}
    if acquired:
        after = _changed(after, lease=after.lease | dict.fromkeys(acquired, incarnation), token=after.token | acquired)
    if after is document:
        return Step()
    return Step(msgspec.structs.replace(after, epoch=document.epoch + 1), tuple(sorted(gone)), acquired)


def release(document: Document, *, incarnation: str, partitions: Collection[int]) -> Document:
    """Release partitions that have been drained; those that the incarnation does not hold are ignored."""
    lease = {p: holder for p, holder in document.lease.items() if holder != incarnation or p not in partitions}
    return _changed(document, lease=lease)


def free(document: Document, *, leases: Collection[tuple[int, str, int]]) -> Document:
    """Release what its holders have given back (M13).

    Args:
        document: the newest one that the caller has seen.
        leases: partition, incarnation and token, of what nobody works on any more. What is leased otherwise by now is ignored.
    """
    lease = {p: holder for p, holder in document.lease.items() if (p, holder, document.token.get(p)) not in leases}
    return _changed(document, lease=lease)


def raise_token(document: Document, *, incarnation: str, partition: int, above: int, now: int) -> Document | None:
    """Give a lease a greater token, because the one beside the data is greater (T2).

    Args:
        document: the newest one that the member has seen.
        incarnation: the member.
        partition: whose token.
        above: the token beside the data.
        now: the server's time at its last heartbeat, microseconds.

    Returns:
        The next document, with the new token in `token`; None if the partition is not leased to the incarnation.
    """
    if document.lease.get(partition) != incarnation:
        return None
    token = max(above + 1, document.token[partition] + 1, now)
    return _changed(document, token=document.token | {partition: token})


def enter_unable(document: Document, *, incarnation: str, partitions: Collection[int], now: int) -> Document:
    """Report that the incarnation owns these partitions and cannot read them, so that a member which can read them gets them.

    Args:
        document: the newest one that the member has seen.
        incarnation: the member.
        partitions: those that it does not hold, or has already reported, are ignored.
        now: the server's time at its last heartbeat, microseconds.
    """
    mine = {p for p in partitions if document.lease.get(p) == incarnation and incarnation not in document.unable.get(p, ())}
    if not mine:
        return document
    unable = document.unable | {p: {**document.unable.get(p, {}), incarnation: now} for p in sorted(mine)}
    after = msgspec.structs.replace(document, unable=unable)
    lease = dict(document.lease)
    return msgspec.structs.replace(_settled(after, _queues(after), lease, document.partitions, document.target), epoch=document.epoch + 1)


def next_forgotten(document: Document) -> int | None:
    """Return the server's time at which the first entry of `unable` expires, None if there is none."""
    return min((said + FORGET_US for entry in document.unable.values() for said in entry.values()), default=None)


# -- the parts they are made of --------------------------------------------------------------------------------------------------

_Queues = Mapping[str, tuple[str, ...]]  # name -> its holder, then those that wait for it; never empty


def _next_token(document: Document, partition: int, now: int) -> int:
    """Return a token above the last one (M6)."""
    last = document.token.get(partition)
    return now if last is None else max(last + 1, now)


def _queue(document: Document, name: str) -> tuple[str, ...]:
    entry = document.members.get(name)
    return () if entry is None else (entry.incarnation, *entry.successors)


def _queues(document: Document) -> dict[str, tuple[str, ...]]:
    return {name: _queue(document, name) for name in document.members}


def _name_of(document: Document, incarnation: str) -> str | None:
    entries = document.members.items()
    return next((name for name, entry in entries if entry.incarnation == incarnation or incarnation in entry.successors), None)


def _without(document: Document, gone: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the queues without these incarnations, and without names that have no incarnation left."""
    left = {name: tuple(one for one in queue if one not in gone) for name, queue in _queues(document).items()}
    return {name: queue for name, queue in left.items() if queue}


def _leases_without(document: Document, gone: Collection[str]) -> dict[int, str]:
    return {partition: holder for partition, holder in document.lease.items() if holder not in gone}


def _is_level(document: Document) -> bool:
    """Return whether the target that follows from the document is the one that it has: `assign` moves nothing that is balanced."""
    loads = Counter(document.target.values())
    least, more = divmod(document.partitions, len(document.members))
    complete = len(document.target) == document.partitions and loads.keys() <= document.members.keys()
    level = sum(load == least + 1 for load in loads.values()) == more and all(least <= load <= least + 1 for load in loads.values())
    return complete and level and not document.unable


def _settled(
    document: Document, queues: _Queues, lease: dict[int, str], partitions: int, target: Mapping[int, str], *, since: int | None = None
) -> Document:
    """Return the document with these members and leases, and with the target that follows from them and from the previous one.

    Entries of `unable` up to the time `since` are forgotten.
    """
    partitions = max(partitions, document.partitions)
    members = {name: MemberEntry(queue[0], queue[1:]) for name, queue in sorted(queues.items())}
    unable = document.unable
    if not unable:
        target = assign(members, partitions, target)
    else:
        names = {entry.incarnation: name for name, entry in members.items()}
        unable = {
            p: kept
            for p, entry in unable.items()
            if (kept := {one: said for one, said in entry.items() if one in names and (since is None or said > since)})
        }
        target = assign(members, partitions, target, {p: [names[one] for one in entry] for p, entry in unable.items()})
    return _changed(document, members=members, partitions=partitions, target=target, lease=lease, unable=unable)


def _changed(document: Document, **columns: object) -> Document:
    """Return the document with these columns under the next epoch, or the document itself if it already has them."""
    after = msgspec.structs.replace(document, **columns)
    return document if after == document else msgspec.structs.replace(after, epoch=document.epoch + 1)
