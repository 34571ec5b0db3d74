"""What a consumer does while the server does not answer: repeats its steps, restarts its actors, reports it.

After its first connection a consumer never gives up. What bounds the waiting is the lease, whose scope cancels it.

- `insist` repeats a step, and the policy `forever` restarts an actor, after the errors in `PASSING`. Any other error ends the consumer.
- `Contact` knows whether the server answers the steps that make the consumer a member of its group, and keep it one. Out: Disconnected,
  again each minute for as long as it lasts, and Reconnected. Always: an overdue step is reported, and still waited for.
- `Trouble` notices that one owned partition cannot be taken or read, although its owner lives. Out, after a ttl without a read that came
  back: PartitionStuck, again each minute, and a word to the coordinator, which lets another member have the partition. Always: a partition
  that nothing was asked of (its group is paused, its handlers are slow) is in no trouble.
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
"""What a consumer's own steps are repeated after, forever: a server that cannot be reached, refuses a log-in or is busy, and one whose
memory is full. Any other error ends the consumer."""

FIRST_REST, LONGEST_REST = 0.05, 1.0  # seconds: bounds of the rest after one failure, and after many in a row


def forever(*, first: float = FIRST_REST, longest: float = LONGEST_REST, reset_after: float) -> RestartPolicy:
    """Return the policy of a consumer's own actor: it runs again after each error that passes; see RestartPolicy for the times."""
    return RestartPolicy(on=PASSING, max_restarts=math.inf, within=60.0, backoff=first, max_backoff=longest, reset_after=reset_after)


async def insist(step: Callable[[], Awaitable[T]], environment: Environment, failed: Callable[[str], None] = lambda _: None) -> T:
    """Return what `step` answers, repeating it after errors that pass, with full jitter.

    `failed` is told the reason of each failure.
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
    """Enclose a step that is repeated elsewhere: tell `failed` the reason of an error that passes, and raise it."""
    try:
        yield
    except PASSING as error:
        failed(reason_of(error))
        raise


def reason_of(error: Exception) -> str:
    """Return why a step failed, in words, without the server's address."""
    return str(getattr(error, "reason", "") or error) or type(error).__name__


HEARTBEAT, GROUP = "heartbeat", "group"
"""What may fail each by itself: staying a member (or becoming one), and changing the group's document."""

REMIND = 60.0  # seconds between two reports of what lasts


class Contact:
    """Whether the server answers this consumer.

    Attributes:
        heartbeat: local clock at which the last heartbeat that was answered had been sent, None before the first.
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
        """Note that it failed, or is overdue."""
        now = self._clock()
        if not self._failing or now - self._told >= REMIND:
            self._told = now
            self._bulletin.publish(events.Disconnected, reason=reason)
        self._failing.add(what)

    def answered(self, what: str) -> None:
        """Note that it was answered."""
        if what in self._failing:
            self._failing.discard(what)
            if not self._failing:
                self._bulletin.publish(events.Reconnected)

    async def ask(self, step: Callable[[], Awaitable[T]], *, within: float) -> T:
        """Return what the heartbeat `step` answers; without an answer after `within` seconds, report that and wait on.

        Raises:
            Exception: whatever the step raises; what it failed of is for the caller to report.
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
        while True:
            await anyio.sleep(within)
            self.failed(HEARTBEAT, f"the server has not answered for {within:g} s")
            within = REMIND


class Trouble:
    """Whether one partition can be read."""

    def __init__(self, bulletin: Bulletin, clock: Callable[[], float], owned: OwnedPartition, stuck: Callable[[int], None]) -> None:
        """Take the partition, and who is told that this member cannot read it."""
        self._bulletin = bulletin
        self._clock = clock
        self._owned = owned
        self._stuck = stuck
        self._since: float | None = None
        self._told = -math.inf

    def failed(self, reason: str) -> None:
        """Note that it could not be taken, or read, just now."""
        owned, now = self._owned, self._clock()
        if self._since is None:
            self._since = now
        elif now - self._since >= owned.lease.ttl and now - self._told >= REMIND and owned.may_start:
            self._told = now
            self._bulletin.publish(events.PartitionStuck, owned, reason=reason)
            self._stuck(owned.partition)

    def over(self) -> None:
        """Note that it was read."""
        self._since = None
