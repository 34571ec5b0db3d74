"""The Broker protocol: the narrow waist between the actors and whatever keeps the streams.

Each method is one atomic step of the protocol in terms of core types, not of Redis commands. Numbers (M3, T5, ...) name the
rules of docs/protocol.md. Every method may raise ConnectionFailed (`maybe_executed` tells whether the step may have happened) and
ServerError. Cancelling a call may leave its step done or not done; the broker itself stays usable.

Times of the server are integers of microseconds since 1970 (`now`, `expiry`), ids of entries are bytes as Redis writes them
(b"1700000000000-0"), compared by their two numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from redisaq.brokers.administration import AdminBroker
from redisaq.brokers.delivery import DeliveryBroker
from redisaq.brokers.graveyard import Graveyard
from redisaq.brokers.producing import ProducingBroker
from redisaq.brokers.retention import RetentionBroker, Terms
from redisaq.brokers.terms import Doorbell, GroupName, ReaderMark
from redisaq.core.membership import Document

__all__ = [
    "Acks",
    "Beat",
    "Broker",
    "Doorbell",
    "GroupName",
    "Installed",
    "Page",
    "PendingEntry",
    "RawEntry",
    "Reader",
    "ReaderMark",
    "Remaining",
    "Settled",
    "TopicState",
]

RawEntry = tuple[bytes, Sequence[bytes] | None]
"""An entry's id and its flat list of fields and values (field, value, field, value ...)."""


class TopicState(msgspec.Struct, frozen=True):
    """How many partitions a topic has, and under which generation (G1).

    Attributes:
        generation: how often it has grown.
        partitions: how many it has.
        acked: a producer asked for `retention="acked"`.
        send_timeout: the largest of its producers' time limits, seconds; 0 if none has declared one (E3).
    """

    generation: int
    partitions: int
    acked: bool = False
    send_timeout: float = 0.0


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
        damaged: there is a document, under `version`, that cannot be read: it counts as lost, and `commit` with `freeze` replaces it (M8).
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


class Installed(msgspec.Struct, frozen=True):
    """The answer to an install (T2).

    Attributes:
        done: the caller's token stands now.
        token: the token that stands.
        holder: the incarnation that stood beside it before the call, "" if it had been released.
        readers: the connections registered by whoever held the partition before (T3).
    """

    done: bool
    token: int
    holder: str
    readers: tuple[ReaderMark, ...] = ()


class PendingEntry(msgspec.Struct, frozen=True):
    """An entry that was delivered and not settled: its fields, and how often it was delivered."""

    entry_id: bytes
    fields: Sequence[bytes]
    deliveries: int


class Page(msgspec.Struct, frozen=True):
    """Some pending entries in id order (T5).

    Attributes:
        entries: those whose bodies are still there.
        trimmed: ids whose bodies are gone; they have been acknowledged, since nothing can be done for them.
        last: give it as `after` for the next page; None if this was the last one.
    """

    entries: tuple[PendingEntry, ...]
    trimmed: tuple[bytes, ...]
    last: bytes | None


class Acks(msgspec.Struct, frozen=True):
    """Entries of one partition to acknowledge under one token (S1)."""

    partition: int
    token: int
    entry_ids: Sequence[bytes]


class Settled(msgspec.Struct, frozen=True):
    """The answer to Acks: `done` False means refused, and `token` is the one that stands (0 if none stands)."""

    done: bool
    token: int


class Remaining(msgspec.Struct, frozen=True):
    """What a partition still holds for a group.

    Attributes:
        unread: at least one entry was never delivered.
        pending: entries delivered and not settled.
        retry: messages of the group that failed and are to be tried again.
        delayed: messages that are not in the stream yet, for whatever group.
    """

    unread: bool
    pending: int
    retry: int = 0
    delayed: int = 0

    @property
    def empty(self) -> bool:
        """True if nothing is left."""
        return not self.unread and not self.pending and not self.retry and not self.delayed


class Reader(Protocol):
    """A connection that reads new entries of one partition for one group (T3): never shared."""

    async def read(self, count: int, block: float) -> Sequence[RawEntry]:
        """Return up to `count` entries never delivered before, waiting up to `block` seconds (0: do not wait) for the first.

        Cancelling brings the read to an end on the server first (bounded by a second); what it still brought is then in
        `take_leftover`.

        Raises:
            ConnectionFailed: the connection broke, entries may have been delivered unseen: fence, claim what is pending, open another.
            GroupGoneError: the group is gone, or the topic (T6); make it again before reading on.
        """
        ...

    def ask_ahead(self, count: int) -> None:
        """Let the server be asked for up to `count` more already, while the caller works on what it has: the next `read` returns them."""
        ...

    async def finish(self) -> None:
        """Wait, at most a second, for what was asked for ahead: it is then in `take_leftover`. Cancelling does not end it."""
        ...

    def take_leftover(self) -> Sequence[RawEntry]:
        """Return, once, what a cancelled read brought after all, and what `finish` did. They count as delivered."""
        ...

    @property
    def mark(self) -> ReaderMark:
        """What was registered for this reader."""
        ...

    @property
    def settled(self) -> bool:
        """True if no read is without its answer: such a reader needs no kill."""
        ...

    async def close(self) -> None:
        """Close the connection. The registration stays until `fence` or `release`."""
        ...


class Broker(AdminBroker, DeliveryBroker, Graveyard, ProducingBroker, RetentionBroker, Protocol):
    """See the module; what it includes stands in modules of its own."""

    @property
    def run_id(self) -> str:
        """The run of the server over the connection that all calls share: if it is the same before and after a call, it answered that."""
        ...

    async def connect(self) -> None:
        """Reach the server, once; further calls do nothing. Raises ConnectionFailed at once if it cannot be reached."""
        ...

    async def close(self) -> None:
        """Close every connection of this broker; calls under way raise ConnectionFailed. In any order, from any task, twice."""
        ...

    # -- topics ---------------------------------------------------------------------------------------------------------------

    async def topics(self) -> Sequence[str]:
        """Return the names of all topics of the namespace, sorted."""
        ...

    async def topic(self, topic: str) -> TopicState | None:
        """Return the topic's state, None if it does not exist."""
        ...

    async def make_topic(self, topic: str, partitions: int, *, terms: Terms | None = None) -> TopicState:
        """Make the topic with its empty streams if it does not exist (E5); return what stands. Makes missing streams again. Rings.

        With `terms`, what a producer asks is kept in the topic's meta, whether or not it was there: of times the largest of all
        producers', `acked` once any asks for it (E3).
        """
        ...

    async def grow_topic(self, topic: str, partitions: int) -> TopicState:
        """Raise the partition count, by compare-and-set on the generation (G1); a smaller count changes nothing. Makes streams. Rings."""
        ...

    async def append(
        self, topic: str, entries: Sequence[tuple[int, Sequence[bytes]]], *, maxlen: int | None, approximate: bool
    ) -> list[bytes | None]:
        """Append (partition, fields) in order; return each one's entry id, None where the stream does not exist (E5).

        Raises:
            ServerError: an append was refused; earlier ones of the call may have happened: `error.appended` (list, same length).
        """
        ...

    # -- the group's document (M) ---------------------------------------------------------------------------------------------

    async def make_groups(self, group: GroupName, partitions: Sequence[int], *, latest: bool, younger: bool = False) -> None:
        """Make the group on these partitions' streams (making the streams too) where it is not; start at the end if `latest` (G6).

        `younger`: these streams were made after the group: whatever was trimmed of them since is the group's loss (see `sight`).
        """
        ...

    async def heartbeat(self, group: GroupName, incarnation: str, ttl: float, known_version: str) -> Beat:
        """Extend the incarnation's time to now + ttl if it is a member and not expired (M5); answer what others did.

        Detects a changed server (M7): extends everybody to now + ttl, sets `frozen_until`. An unknown incarnation is only answered.
        """
        ...

    async def commit(
        self,
        group: GroupName,
        incarnation: str,
        ttl: float,
        *,
        known_version: str,
        document: Document,
        joins: bool = False,
        leaves: bool = False,
        freeze: bool = False,
        expired: Sequence[str] = (),
    ) -> str | None:
        """Replace the document if its version is `known_version` ("": if there is none); return the new version, None if refused.

        In the same step adds the incarnation to the members with now + ttl (`joins`) or removes it (`leaves`) (M2), and removes `expired`.
        Refused too if one of `expired` is not expired, or the group is frozen and `expired` is not empty (M5, M7), or the incarnation is
        neither joining nor a live member. `freeze`, for a document that is made again, sets frozen_until = now + ttl (M8). Rings on
        success.
        """
        ...

    async def listen(self, group: GroupName) -> Doorbell:
        """Return a doorbell for the group and its topic (which need not exist)."""
        ...

    # -- taking a partition (T) -------------------------------------------------------------------------------------------------

    async def install(self, group: GroupName, partition: int, token: int, incarnation: str, *, foreign: bool) -> Installed:
        """Put the token beside the partition's data if it is greater than the one there, or the same with the same holder (T2).

        With `foreign` False it is refused while another incarnation stands as holder (M7, M8).
        """
        ...

    async def fence(self, group: GroupName, partition: int, token: int, readers: Sequence[ReaderMark]) -> bool:
        """Kill these readers' connections and take them off the list (T3); return False if the server does not permit killing (T4)."""
        ...

    async def open_reader(self, group: GroupName, partition: int, token: int, incarnation: str) -> Reader:
        """Open a reading connection and register it under the token; LeaseLostError if another token stands."""
        ...

    async def claim(self, group: GroupName, partition: int, token: int, *, after: bytes, count: int) -> Page:
        """Return pending entries with ids above `after` (b"": from the first), without changing their counts (T5).

        Raises:
            LeaseLostError: another token stands.
        """
        ...

    async def set_deliveries(
        self, group: GroupName, partition: int, token: int, counts: Mapping[bytes, int], *, raising: bool = False
    ) -> bool:
        """Set the delivery counts of pending entries (T5), passing over ids that are not; False if another token stands.

        `raising`: no count is lowered by this, and it is False, too, once the partition was released. An earlier call that arrives late
        must not undo a later one.
        """
        ...

    async def settle(self, group: GroupName, acks: Sequence[Acks]) -> list[Settled]:
        """Acknowledge, each partition's entries in one atomic fenced step (S1); repeating it is harmless."""
        ...

    async def release(self, group: GroupName, partition: int, token: int) -> bool:
        """Clear holder and readers, keep the token (M8); False if another token stands. All reads must be answered before."""
        ...

    async def remake_group(self, group: GroupName, partition: int, last_id: bytes, *, start: bytes | None = None) -> None:
        """Make a lost group again (T6): after `last_id` if that entry is still in the stream, else from the beginning. Makes the stream.

        With `start` (lower than `last_id`, which then is only the evidence that the stream is the same) it begins after that instead:
        what is in flight is delivered once more, so that it is pending again.
        """
        ...

    async def remaining(self, group: GroupName, partitions: Sequence[int]) -> list[Remaining]:
        """Return what is left, each partition in one atomic step."""
        ...
