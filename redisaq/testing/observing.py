"""Watch a simulation and report violations: the Observer protocol, and the objects that an observer is shown.

An observer is called for everything that happens in a simulation, at the moment it happens. It reports one sentence for each violation. It
sees everything and changes nothing: a seed gives the same run with or without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from redisaq.brokers.memory.holdings import Holdings
from redisaq.brokers.steps.settling import Resolved
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import EntryId, format_id, parse_id
from redisaq.core.records import Resolution
from redisaq.events import Event
from redisaq.message import Message
from redisaq.outcomes import DeadLetter, Discard, RetryAfter
from redisaq.settings import RetryPolicy
from redisaq.testing.faults import Fault
from redisaq.testing.observed import Settle

if TYPE_CHECKING:
    from redisaq.testing.record import Record

Place: TypeAlias = tuple[GroupName, int]
"""A group and one of its topic's partitions."""


class Process(Protocol):
    """A simulated member, as observers see it. A member that crashed and starts again is another process of the same name."""

    name: str
    group: GroupName
    crashed: bool
    thawed_at: float
    ordering: str
    retry: RetryPolicy
    ttl: float
    heartbeat_interval: float
    reads_json: bool
    concurrency: int | None
    batch_size: int

    @property
    def mode(self) -> str:
        """The method of Consumer with which it consumes."""
        ...

    @property
    def suspended(self) -> bool:
        """True while none of its tasks can run."""
        ...


@dataclass(frozen=True)
class Given:
    """What a producer was given for one message."""

    payload: Any
    key: str | None
    headers: Mapping[str, str]
    timeout: float | None


@dataclass(eq=False)
class Run:
    """A run of a handler on one message.

    Attributes:
        call: one object for all messages of a batch.
        superseded: another owner began while this run's process was paused.
    """

    process: Process
    group: GroupName
    message: Message[Any]
    call: object
    started: float
    ended: float | None = None
    outcome: str = "running"
    error: Exception | None = None
    superseded: bool = False

    @cached_property
    def place(self) -> Place:
        """The group and the partition."""
        return self.group, self.message.partition

    @cached_property
    def entry_id(self) -> EntryId:
        """The message's entry id."""
        return parse_id(self.message.entry)

    @property
    def ordered(self) -> bool:
        """True if other messages share its lane."""
        return self.process.ordering == "partition" or self.by_key or self.process.mode != "process"

    @property
    def by_key(self) -> bool:
        """True if its lane is the lane of its key."""
        return self.process.mode == "process" and self.process.ordering == "key" and self.message.key is not None

    def shares_lane(self, other: Run) -> bool:
        """Return whether the two runs must not happen at once."""
        return self.ordered and other.ordered and self.call is not other.call and (not self.by_key or self.message.key == other.message.key)

    @property
    def final(self) -> bool:
        """True if it ended in such a way that its message needs no further run."""
        policy, error = self.process.retry, self.error
        if self.outcome != "raised":
            return self.outcome == "returned"
        if isinstance(error, RetryAfter):
            return False
        return isinstance(error, (DeadLetter, Discard, *policy.give_up_on)) or self.message.attempt >= policy.max_attempts

    def __str__(self) -> str:
        """Return its name for the trace and for violations."""
        return f"{self.group.topic}/{self.message.partition} {self.message.entry_id} attempt {self.message.attempt}"


@dataclass(eq=False)
class Tenure:
    """The time for which one process owns a partition.

    Attributes:
        until: when it ended; None while it lasts.
        end: how it ended: "released", "lost" or "crashed"; "" while it lasts.
    """

    process: Process
    group: GroupName
    partition: int
    token: int
    since: float
    until: float | None = None
    end: str = ""


class Observer:
    """Watch one simulation. Override the methods that you need; by default each of them does nothing.

    Each method is called at the moment the thing happens, after the record has noted it, and must not await. An observer reports violations
    with `self.record.violation("…")`, and asks the record about the past.
    """

    def __init__(self, record: Record) -> None:
        """Watch the simulation that is about to begin.

        Args:
            record: the simulation's record.
        """
        self.record = record

    # -- members and producers

    def produced(self, msg_id: str, given: Given | None) -> None:
        """A producer has learned that a message is safe. `given` is None where handlers' input cannot be predicted from outside."""

    def begun(self, run: Run) -> None:
        """A handler begins."""

    def ended(self, run: Run) -> None:
        """A run of a handler has ended."""

    def told(self, process: Process, place: Place | None, event: Event) -> None:
        """A member has published an event. `place` is the partition that the event is about, or None."""

    def happened(self, process: Process, what: str) -> None:
        """Something has happened to a member: see `Mark.what`."""

    def befell(self, fault: Fault) -> None:
        """A fault begins."""

    def disturbed(self, seconds: float) -> None:
        """Something begins that may hold up the group for this many seconds: a fault, or an admin's operation."""

    # -- the server

    def stepped(self, who: str, operation: str) -> None:
        """The server has carried out an operation."""

    def installed(self, who: str, place: Place, token: int) -> None:
        """A partition's token was installed."""

    def noticed(self, place: Place, token: int) -> None:
        """The owner of a partition has learned that an admin moved the group, and which token that has left it (S5)."""

    def settled(self, settle: Settle) -> None:
        """The server has settled messages, or refused to: see `Settle`."""

    def resolved(self, who: str, place: Place, token: int, resolutions: Sequence[Resolution], answer: Resolved) -> None:
        """The server has settled messages that did not simply succeed, or refused to. `settled` was called before with each result."""

    def sought(self, place: Place, before: EntryId, after: EntryId) -> None:
        """An admin has moved a group's position. Before, nothing up to `before` was new to it; now, nothing up to `after` is."""

    def lost(self, before: Holdings, after: Holdings, reason: str) -> None:
        """The server has lost data: what it had before, and what it has now."""

    # -- the report

    def excused(self, place: Place, tokens: Collection[int] | None, text: str) -> None:
        """A known violation was noted: two owners side by side, with these tokens, in a partition of which the server has lost data."""

    def quiet(self, groups: Sequence[GroupName]) -> None:
        """`until_quiet` has found nothing left to do for these groups."""

    def closed(self) -> None:
        """All members have left, and their leases have expired."""


ObserverType: TypeAlias = "Callable[[Record], Observer]"
"""Creates an observer of one simulation, such as a subclass of Observer."""


def show(place: Place, entry_id: EntryId) -> str:
    """Return the name of an entry in a violation."""
    return f"{format_id(entry_id).decode()} of {place[0].topic}/{place[1]}"
