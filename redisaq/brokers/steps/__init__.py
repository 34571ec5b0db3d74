"""The narrow waist between the actors and whatever keeps the streams: steps, and the Broker that does them.

A step is one atomic change or question of the protocol, as a frozen struct: what it needs are its fields, what it answers is its type
parameter. `await broker.do(Claim(...))` returns a Page, since Claim is a Step[Page]. Steps speak of messages and leases, not of Redis
commands, and the modules beside this one hold them by subject. Numbers (M3, T5, ...) name the rules of docs/protocol.md. Each broker
registers one function for each class of step, in a module of the same name.

Times of the server are integers of microseconds since 1970 (`now`, `expiry`), ids of entries are bytes as Redis writes them
(b"1700000000000-0") and are compared by their two numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from redisaq.brokers.terms import Doorbell, GroupName, Reader, ReaderMark
from redisaq.errors import LeaseLostError

__all__ = ["Broker", "GroupStep", "PartitionStep", "ShareStep", "Step", "TopicStep"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Step(msgspec.Struct, Generic[R_co], frozen=True):
    """One step, whose answer is an R.

    Attributes:
        name: what traces call it: the class's own name in small letters, unless the class says otherwise.
    """

    name: ClassVar[str] = "step"

    def __init_subclass__(cls, **options: Any) -> None:
        """Name the class."""
        super().__init_subclass__(**options)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @property
    def place(self) -> tuple[str, int | None] | None:
        """Where it is done: in a topic's partition, or beside the topic (None for the partition), or (None) beside all topics.

        All that it touches has one hash tag, so a cluster can tell from this which server is to do it.
        """
        return None


class TopicStep(Step[R_co], Generic[R_co], frozen=True):
    """A step about a topic."""

    topic: str

    @property
    def place(self) -> tuple[str, int | None]:
        """Beside the topic."""
        return self.topic, None


class GroupStep(Step[R_co], Generic[R_co], frozen=True):
    """A step about a group's coordination."""

    group: GroupName

    @property
    def place(self) -> tuple[str, int | None]:
        """Beside the topic."""
        return self.group.topic, None


class PartitionStep(Step[R_co], Generic[R_co], frozen=True):
    """A step in a partition, whatever the group."""

    topic: str
    partition: int

    @property
    def place(self) -> tuple[str, int]:
        """In the partition."""
        return self.topic, self.partition


class ShareStep(Step[R_co], Generic[R_co], frozen=True):
    """A step about a group's share of a partition."""

    group: GroupName
    partition: int

    @property
    def place(self) -> tuple[str, int]:
        """In the partition."""
        return self.group.topic, self.partition

    def lost(self) -> LeaseLostError:
        """Return what a broker raises if the step's token is not the one that stands."""
        return LeaseLostError(f"another token stands beside partition {self.partition} of {self.group.topic} for {self.group.group}")


class Broker(Protocol):
    """Does steps, and the few things that are none: what opens a connection, what is done to connections, and the hot path of producers.

    Every call may raise ConnectionFailed (`maybe_executed` tells whether the server may have done it) and ServerError. Cancelling a call
    leaves its steps done or not done; the broker itself stays usable.
    """

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

    async def do(self, step: Step[R]) -> R:
        """Do one step and return its answer. Each may be repeated after a broken connection; its class says what that means."""
        ...

    async def do_each(self, steps: Sequence[Step[R]]) -> list[R]:
        """Do several steps of one class, in one write where that can be, and return their answers in order.

        They are independent: each is atomic, all together are not. If one raises, the others may have been done.
        """
        ...

    async def append(
        self, topic: str, entries: Sequence[tuple[int, Sequence[bytes]]], *, maxlen: int | None, approximate: bool
    ) -> list[bytes | None]:
        """Append (partition, fields) in order; return each one's entry id, None where the stream does not exist (E5).

        No step: it spans many streams, is the hot path of every producer, and is the one thing that must not be repeated blindly (E1).

        Raises:
            ServerError: an append was refused; earlier ones of the call may have happened: `error.appended` (list, same length).
        """
        ...

    async def kill(self, marks: Sequence[ReaderMark]) -> bool:
        """Kill these connections, those that are still of this server's run (E1); False if the server does not permit it."""
        ...

    async def open_reader(self, group: GroupName, partition: int, token: int, incarnation: str) -> Reader:
        """Open a reading connection and register it under the token (T3).

        Raises:
            LeaseLostError: another token stands, or another incarnation holds this one.
        """
        ...

    async def listen(self, group: GroupName) -> Doorbell:
        """Return a doorbell for the group and its topic (which need not exist)."""
        ...

    async def listen_partition(self, topic: str, partition: int) -> Doorbell:
        """Return the partition's doorbell: rung when something is delayed, or redriven, to an earlier time than what was there.

        A resolution does not ring: only the partition's owner makes those, and it knows their times.
        """
        ...
