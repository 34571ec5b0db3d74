"""What watches a simulation and says what must not happen: the Observer protocol, and what an observer is shown.

In: everything that a simulation does, as it happens. Out: a sentence for each thing that must not happen. An observer sees everything and
changes nothing: with it or without it a seed gives the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
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
    """A simulated member, as observers see it. One that crashed and starts again is another process of the same name."""

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
        """By which method of Consumer it consumes."""
        ...

    @property
    def suspended(self) -> bool:
        """True while none of its tasks can run."""
        ...


@dataclass(frozen=True)
class Given:
    """What a producer was given of one message."""

    payload: Any
    key: str | None
    headers: Mapping[str, str]
    timeout: float | None


@dataclass(eq=False)
class Run:
    """A handler's run on one message.

    Attributes:
        call: one for all messages of a batch.
        superseded: another owner began while this one's process stood still.
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

    @property
    def place(self) -> Place:
        """The group and the partition."""
        return self.group, self.message.partition

    @property
    def entry_id(self) -> EntryId:
        """The message's entry."""
        return parse_id(self.message.entry)

    @property
    def ordered(self) -> bool:
        """True if its lane is shared with others."""
        return self.process.ordering == "partition" or self.by_key or self.process.mode != "process"

    @property
    def by_key(self) -> bool:
        """True if its lane is that of its key."""
        return self.process.mode == "process" and self.process.ordering == "key" and self.message.key is not None

    def shares_lane(self, other: Run) -> bool:
        """Return whether the two must not run at once."""
        return self.ordered and other.ordered and self.call is not other.call and (not self.by_key or self.message.key == other.message.key)

    @property
    def final(self) -> bool:
        """True if it ended so that its message needs no other run."""
        policy, error = self.process.retry, self.error
        if self.outcome != "raised":
            return self.outcome == "returned"
        if isinstance(error, RetryAfter):
            return False
        return isinstance(error, (DeadLetter, Discard, *policy.give_up_on)) or self.message.attempt >= policy.max_attempts

    def __str__(self) -> str:
        """For the trace, and for violations."""
        return f"{self.group.topic}/{self.message.partition} {self.message.entry_id} attempt {self.message.attempt}"


@dataclass(eq=False)
class Tenure:
    """A partition's time with one process.

    Attributes:
        until: when it had ended, None while it lasts.
        end: how: "released", "lost" or "crashed"; "" while it lasts.
    """

    process: Process
    group: GroupName
    partition: int
    token: int
    since: float
    until: float | None = None
    end: str = ""


class Observer:
    """Watches one simulation. A subclass overrides the methods for what it has to know; each of these does nothing here.

    Methods are called at the moment at which the thing happens, after the record has noted it, and must not await. An observer reports with
    `self.record.violation("…")`, and asks the record for what was before.
    """

    def __init__(self, record: Record) -> None:
        """Watch the simulation that is about to begin.

        Args:
            record: what it writes down.
        """
        self.record = record

    # -- members and producers

    def produced(self, msg_id: str, given: Given | None) -> None:
        """A producer was told that a message is safe; `given` is None where it cannot be told from outside what handlers are to get."""

    def begun(self, run: Run) -> None:
        """A handler begins."""

    def ended(self, run: Run) -> None:
        """A handler's run has ended."""

    def told(self, process: Process, place: Place | None, event: Event) -> None:
        """A member published an event; `place` is the partition that it is about, if it is about one."""

    def happened(self, process: Process, what: str) -> None:
        """Something happened to a member: see `Mark.what`."""

    def befell(self, fault: Fault) -> None:
        """A fault begins."""

    def disturbed(self, seconds: float) -> None:
        """Something begins that may hold up the group for so long: a fault, or what an admin does."""

    # -- the server

    def stepped(self, who: str, operation: str) -> None:
        """The server has carried out an operation."""

    def installed(self, who: str, place: Place, token: int) -> None:
        """A partition's token was installed."""

    def settled(self, settle: Settle) -> None:
        """The server settled messages, or refused to: see `Settle`."""

    def resolved(self, who: str, place: Place, token: int, resolutions: Sequence[Resolution], answer: Resolved) -> None:
        """The server settled, or refused to, what did not simply succeed; what came of each was told to `settled` before."""

    def sought(self, place: Place, before: EntryId, after: EntryId) -> None:
        """An admin has moved a group's position: nothing up to `before` was new to it, and nothing up to `after` is now."""

    def lost(self, before: Holdings, after: Holdings, reason: str) -> None:
        """The server has lost data: what it had, and what it has."""

    # -- the report

    def excused(self, place: Place, tokens: Collection[int] | None, text: str) -> None:
        """Something was noted as known: two owners side by side, whose tokens these are, in a partition that the server lost data of."""

    def quiet(self, groups: Sequence[GroupName]) -> None:
        """`until_quiet` has found nothing left to do for these groups."""

    def closed(self) -> None:
        """All members have left, and the time of what they had is over."""


ObserverType: TypeAlias = "Callable[[Record], Observer]"
"""What makes an observer of one simulation: a class of them, say."""


def show(place: Place, entry_id: EntryId) -> str:
    """Return how an entry is named in a violation."""
    return f"{format_id(entry_id).decode()} of {place[0].topic}/{place[1]}"
