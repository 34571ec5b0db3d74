"""What a consumer does while the server does not answer: it repeats its steps, restarts its actors, and reports it.

After its first connection a consumer never gives up. The lease bounds the waiting: its scope cancels it.

- `insist` repeats a step, and the policy `forever` restarts an actor, after the errors in `PASSING`. Any other error ends the consumer.
- `Contact` knows whether the server answers the steps by which the consumer becomes and stays a member of its group. It reports
  Disconnected, again each minute for as long as it lasts, and Reconnected. It reports an overdue step, and still waits for it.
- `Trouble` notices that one owned partition cannot be taken or read, although its owner lives. After a ttl without a successful read it
  reports PartitionStuck, again each minute, and tells the coordinator, which lets another member have the partition. A partition that was
  not read (its group is paused, its handlers are slow) is in no trouble.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar

import anyio

from redisaq import events
from redisaq.actors.restart import RestartPolicy
from redisaq.consuming.bulletin import Bulletin
from redisaq.consuming.owned import OwnedPartition
from redisaq.core.retry import full_jitter
from redisaq.environment import Environment
from redisaq.errors import ServerFull

T = TypeVar("T")

PASSING: tuple[type[Exception], ...] = (ConnectionError, ServerFull)
"""The errors after which a consumer repeats its own steps forever.

The server cannot be reached, refuses a log-in, is busy, or its memory is full. Any other error ends the consumer.
"""

FIRST_REST, LONGEST_REST = 0.05, 1.0  # seconds: bounds of the rest after one failure, and after many in a row


def forever(*, first: float = FIRST_REST, longest: float = LONGEST_REST, reset_after: float) -> RestartPolicy:
    """Return the policy of a consumer's own actor: it restarts after each error that passes. See RestartPolicy for the times."""
    return RestartPolicy(on=PASSING, max_restarts=math.inf, backoff=first, max_backoff=longest, reset_after=reset_after)


async def insist(step: Callable[[], Awaitable[T]], environment: Environment, failed: Callable[[str], None] = lambda _: None) -> T:
    """Return the answer of `step`, repeating it after errors that pass, with full jitter.

    `failed` is called with the reason of each failure.
    """
    failures = 0
    while True:
        try:
            return await step()
        except PASSING as error:
            failures += 1
            failed(reason_of(error))
            await anyio.sleep(full_jitter(failures, base=FIRST_REST, most=LONGEST_REST, random=environment.random))


@contextlib.contextmanager
def reporting(failed: Callable[[str], None]) -> Generator[None]:
    """Enclose a step that is repeated elsewhere: call `failed` with the reason of an error that passes, and raise the error."""
    try:
        yield
    except PASSING as error:
        failed(reason_of(error))
        raise


def reason_of(error: Exception) -> str:
    """Return why a step failed, in words, without the server's address."""
    return str(getattr(error, "reason", "") or error) or type(error).__name__


HEARTBEAT, GROUP = "heartbeat", "group"
"""The two things that can fail independently: being a member (or becoming one), and changing the group's document."""

REMIND = 60.0  # seconds between two reports of what lasts


class Contact:
    """Whether the server answers this consumer.

    Attributes:
        heartbeat: when the last answered heartbeat was sent, by the local clock; None before the first.
    """

    def __init__(self, bulletin: Bulletin, clock: Callable[[], float]) -> None:
        """Begin connected: nothing has failed yet."""
        self.heartbeat: float | None = None
        self._bulletin = bulletin
        self._clock = clock
        self._failing: set[str] = set()
        self._told = -math.inf

    @property
    def connected(self) -> bool:
        """False while a step fails, or has had no answer for longer than it should take."""
        return not self._failing

    def failed(self, what: str, reason: str) -> None:
        """Record that this failed, or is overdue."""
        now = self._clock()
        if not self._failing or now - self._told >= REMIND:
            self._told = now
            self._bulletin.publish(events.Disconnected, reason=reason)
        self._failing.add(what)

    def answered(self, what: str) -> None:
        """Record that this was answered."""
        if what in self._failing:
            self._failing.discard(what)
            if not self._failing:
                self._bulletin.publish(events.Reconnected)

    async def ask(self, step: Callable[[], Awaitable[T]], *, within: float) -> T:
        """Return the answer to the heartbeat `step`; without an answer after `within` seconds, report that and continue to wait.

        Raises:
            Exception: whatever the step raises; the caller reports it.
        """
        answers: list[T] = []
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._overdue, within)
            try:
                answers.append(await step())
            except Exception as error:  # noqa: BLE001 -- raised again outside: a task group would wrap it
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        self.answered(HEARTBEAT)
        return answers[0]

    async def _overdue(self, within: float) -> None:
        waited = 0.0
        while True:
            await anyio.sleep(within)
            waited += within
            self.failed(HEARTBEAT, f"the server has not answered for {waited:g} s")
            within = REMIND


class Trouble:
    """Whether one partition can be read."""

    def __init__(self, bulletin: Bulletin, clock: Callable[[], float], owned: OwnedPartition, stuck: Callable[[int], None]) -> None:
        """Begin without trouble.

        Args:
            bulletin: reports the event.
            clock: the local clock.
            owned: the partition.
            stuck: called when this member cannot read the partition.
        """
        self._bulletin = bulletin
        self._clock = clock
        self._owned = owned
        self._stuck = stuck
        self._since: float | None = None
        self._told = -math.inf

    def failed(self, reason: str) -> None:
        """Record that it could not be taken or read just now."""
        owned, now = self._owned, self._clock()
        if self._since is None:
            self._since = now
        elif now - self._since >= owned.lease.ttl and now - self._told >= REMIND and owned.may_start:
            self._told = now
            self._bulletin.publish(events.PartitionStuck, owned, reason=reason)
            self._stuck(owned.partition)

    def over(self) -> None:
        """Record that it was read, or that it is not to be read for a while."""
        self._since = None
