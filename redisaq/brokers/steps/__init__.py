"""The narrow waist between the actors and the streams: steps, and the Broker that does them.

A step is one atomic change or question of the protocol, as a frozen struct. Its fields are what it needs, and its type parameter is its
answer: `await broker.do(Claim(...))` returns a Page, since Claim is a Step[Page]. Steps speak of messages and leases, not of Redis
commands. The modules of this package hold them by subject, and each broker registers one function for each class of step, in a module of
the same name. Numbers (M3, T5, ...) name the rules of docs/understand/protocol.md.

The server's times are integers, microseconds since 1970 (`now`, `expiry`). Ids of entries are bytes as Redis writes them
(b"1700000000000-0"), and are compared by their two numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from redisaq.brokers.terms import Doorbell, GroupName, Reader, ReaderMark, lease_lost
from redisaq.errors import LeaseLostError

__all__ = ["Broker", "GroupStep", "PartitionStep", "ShareStep", "Step", "TopicStep"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Step(msgspec.Struct, Generic[R_co], frozen=True):
    """One step, whose answer is an R.

    Attributes:
        name: what traces call the step: the class's own name in snake case, unless the class sets another.
    """

    name: ClassVar[str] = "step"

    def __init_subclass__(cls, **options: Any) -> None:
        """Name the class."""
        super().__init_subclass__(**options)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @property
    def place(self) -> tuple[str, int | None] | None:
        """The slot in which the step is done: a topic and a partition, or a topic and None for its own keys, or None for the topic list.

        All keys that the step touches have one hash tag, so in a cluster the place tells which server does it.
        """
        return None


class TopicStep(Step[R_co], Generic[R_co], frozen=True):
    """A step on a topic's own keys."""

    topic: str

    @property
    def place(self) -> tuple[str, int | None]:
        """The topic's own keys."""
        return self.topic, None


class GroupStep(Step[R_co], Generic[R_co], frozen=True):
    """A step on a group's coordination."""

    group: GroupName

    @property
    def place(self) -> tuple[str, int | None]:
        """The keys of the group's topic."""
        return self.group.topic, None


class PartitionStep(Step[R_co], Generic[R_co], frozen=True):
    """A step in a partition, for no particular group."""

    topic: str
    partition: int

    @property
    def place(self) -> tuple[str, int]:
        """The partition."""
        return self.topic, self.partition


class ShareStep(Step[R_co], Generic[R_co], frozen=True):
    """A step on one group's share of a partition."""

    group: GroupName
    partition: int

    @property
    def place(self) -> tuple[str, int]:
        """The partition."""
        return self.group.topic, self.partition

    def lost(self) -> LeaseLostError:
        """Return what a broker raises if the step's token is not the current one."""
        return lease_lost(self.group, self.partition)


class Broker(Protocol):
    """Does steps, and the few things that are not steps: opening connections, killing them, and the hot path of producers.

    Every call may raise ConnectionFailed (`maybe_executed` says whether the server may have done it) and ServerError. If you cancel a call,
    its steps may be done or not done; the broker itself stays usable.
    """

    @property
    def run_id(self) -> str:
        """The run of the server at the other end of the shared connection.

        If it is the same before and after a call, that run answered the call.
        """
        ...

    async def connect(self) -> None:
        """Connect to the server, once; further calls do nothing. Raises ConnectionFailed at once if it cannot be reached."""
        ...

    async def close(self) -> None:
        """Close every connection of this broker; calls under way raise ConnectionFailed.

        You may call it at any time, from any task, twice.
        """
        ...

    async def do(self, step: Step[R]) -> R:
        """Do one step and return its answer. You can repeat any step after a broken connection; its class says what that means."""
        ...

    async def do_each(self, steps: Sequence[Step[R]]) -> list[R]:
        """Do several steps of one class, in one write if possible, and return their answers in order.

        They are independent: each is atomic, all together are not. If one raises, the others may have been done.
        """
        ...

    async def append(
        self, topic: str, entries: Sequence[tuple[int, Sequence[bytes]]], *, maxlen: int | None, approximate: bool, cuts: int = 0
    ) -> list[bytes | None]:
        """Append (partition, fields) in order; return each entry's id, or None where the stream does not exist (E5).

        `cuts` is the number of the topic's cuts when the partitions were chosen: a stream that was cut since does not exist for it (E6).

        This is no step: it spans many streams, it is the hot path of every producer, and you must not repeat it blindly (E1).

        Raises:
            ServerError: the server refused an append. Others of the call may have happened: see `error.appended` (a list of the same
                length).
            ConnectionFailed: as of any call; with `appended`, what is not there was refused for a while, and may be sent again (C3).
        """
        ...

    async def kill(self, marks: Sequence[ReaderMark]) -> bool:
        """Kill those of these connections that belong to the server's current run (E1); False if the server does not permit it."""
        ...

    async def open_reader(self, group: GroupName, partition: int, token: int, incarnation: str) -> Reader:
        """Open a reading connection and register it under the token (T3).

        Raises:
            LeaseLostError: another token is current, or another incarnation holds this one.
        """
        ...

    async def listen(self, group: GroupName) -> Doorbell:
        """Return a doorbell for the group and its topic, neither of which need exist."""
        ...

    async def listen_partition(self, topic: str, partition: int) -> Doorbell:
        """Return the partition's doorbell: it is rung when a message is delayed, or redriven, to an earlier due time than any before.

        A resolution does not ring it: only the partition's owner makes resolutions, and it knows their times.
        """
        ...
