"""Steps that take a partition and give it back (T)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from redisaq.brokers.steps import ShareStep
from redisaq.brokers.terms import ReaderMark

__all__ = ["Claim", "Fence", "Install", "Installed", "Page", "PendingEntry", "Release", "RemakeGroup", "SetDeliveries"]


class Installed(msgspec.Struct, frozen=True):
    """The answer to an Install (T2).

    Attributes:
        done: the caller's token is the current one now.
        token: the current token.
        holder: the incarnation that held the partition before the call, "" if it had been released.
        readers: the connections that the previous owner registered (T3).
        moved: if a Seek has spent the token that was current before, the lowest position to which the group was moved since, and the last
            entry that had been delivered to it (S5).
        opened: for which growth the group has opened the partition, 0 if for none (G4).
    """

    done: bool
    token: int
    holder: str
    readers: tuple[ReaderMark, ...] = ()
    moved: tuple[bytes, bytes] | None = None
    opened: int = 0


class PendingEntry(msgspec.Struct, frozen=True):
    """An entry that was delivered and not settled: its fields, and how many times it was delivered."""

    entry_id: bytes
    fields: Sequence[bytes]
    deliveries: int


class Page(msgspec.Struct, frozen=True):
    """Some pending entries in id order (T5).

    Attributes:
        entries: those whose bodies are still there.
        trimmed: ids whose bodies are gone. The claim has acknowledged them, since nothing can be done for them.
        last: pass it as `after` for the next page; None if this was the last page.
    """

    entries: tuple[PendingEntry, ...]
    trimmed: tuple[bytes, ...]
    last: bytes | None


class Install(ShareStep[Installed], frozen=True):
    """Put the token beside the partition's data if it is greater than the current one, or the same with the same holder (T2).

    Attributes:
        token: the fencing token.
        incarnation: its holder.
        foreign: False refuses the token while another incarnation is the holder (M7, M8).
    """

    token: int
    incarnation: str
    foreign: bool


class Fence(ShareStep[bool], frozen=True):
    """Kill these readers' connections and remove them from the list (T3); False if the server does not permit killing (T4)."""

    token: int
    readers: Sequence[ReaderMark]


class Claim(ShareStep[Page], frozen=True):
    """Return pending entries with ids above `after` (b"": from the first), without changing their delivery counts (T5).

    Raises LeaseLostError if another token is current.

    Attributes:
        token: the fencing token.
        after: an entry id.
        count: return at most this many.
    """

    token: int
    after: bytes
    count: int


class SetDeliveries(ShareStep[bool], frozen=True):
    """Set the delivery counts of pending entries (T5), ignoring ids that are not pending; False if another token is current.

    Attributes:
        token: the fencing token.
        counts: entry id -> its delivery count.
        raising: lower no count, and also answer False once the partition was released. So an earlier call that arrives late cannot undo a
            later one.
    """

    token: int
    counts: Mapping[bytes, int]
    raising: bool = False


class Release(ShareStep[bool], frozen=True):
    """Clear holder and readers, keep the token (M8); False if another token is current. All reads must have been answered before."""

    token: int


class RemakeGroup(ShareStep[None], frozen=True):
    """Make a lost group again (T6): after `last_id` if that entry is still in the stream, else from the beginning. Makes a missing stream.

    Attributes:
        last_id: an entry id; its entry proves that the stream is the same.
        start: begin after this lower id instead, so that what is in flight is delivered once more and is pending again.
    """

    last_id: bytes
    start: bytes | None = None
