"""What an observer of a simulation is shown: processes, runs of handlers, ownerships of partitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import EntryId, format_id, parse_id
from redisaq.message import Message
from redisaq.outcomes import DeadLetter, Discard, RetryAfter
from redisaq.settings import RetryPolicy

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


def show(place: Place, entry_id: EntryId) -> str:
    """Return the name of an entry in a violation."""
    return f"{format_id(entry_id).decode()} of {place[0].topic}/{place[1]}"
