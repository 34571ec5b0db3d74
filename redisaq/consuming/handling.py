"""Runs a handler on messages of one partition and records the result.

Only this module calls a user's handler, so it catches whatever the handler raises. An exception (also a timeout) goes to the record of what
is in flight. There the retry policy decides whether and when the message is tried again, or that it is dead. Cancellation is not a result:
the message stays where it is, for the next owner.

Whatever a user passes as a handler becomes one coroutine function (`adapt`). An async function, a partial of one, or an object with an
async `__call__` is called in the event loop. Anything else runs in a worker thread; if it returns an awaitable, that is awaited in the
event loop. A thread cannot be stopped: when the lease or the timeout ends, it is abandoned.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Token
from functools import partial
from typing import Any, TypeVar, cast

import anyio

from redisaq import events
from redisaq.brokers.steps.leases import SetDeliveries
from redisaq.brokers.steps.retrying import StartRetry
from redisaq.callables import is_async, unrun
from redisaq.consuming.concurrency import Abandoned
from redisaq.consuming.contact import insist
from redisaq.consuming.context import Surroundings, inside
from redisaq.consuming.owned import OwnedPartition
from redisaq.consuming.standing import spent, still_owned
from redisaq.core.in_flight import WAITING, Counting, Flight
from redisaq.core.records import Body
from redisaq.core.retry import sole
from redisaq.describing import shown
from redisaq.environment import Environment
from redisaq.error_groups import leaves_of, split_off
from redisaq.message import Message
from redisaq.middleware import Middleware, through
from redisaq.outcomes import INSTRUCTIONS, PartialFailure

A = TypeVar("A")


def adapt(
    callback: Callable[[A], Any], environment: Environment, abandoned: Callable[[A, Abandoned], None]
) -> Callable[[A], Awaitable[Any]]:
    """Return the handler as a coroutine function.

    Args:
        callback: the user's handler.
        environment: runs plain functions.
        abandoned: called with the argument and the thread when a plain function is left running.
    """
    if is_async(callback):
        return callback
    limiter = anyio.CapacityLimiter(math.inf)  # `Concurrency` limits how many run at once

    async def call(argument: A) -> object:
        thread = Abandoned()

        def run() -> tuple[Any]:  # boxed, since trio refuses a coroutine as a thread's result
            thread.started = True
            try:
                # If it was cancelled before the thread had begun, the function is not called.
                return (None if thread.dropped else callback(argument),)
            finally:
                thread.returned = True  # in both cases: who is cancelled in this moment takes the thread for one that runs

        try:
            (result,) = await environment.run_plain(run, limiter)
        except BaseException:
            thread.dropped = True
            if thread.started and not thread.returned:
                abandoned(argument, thread)
            raise
        if inspect.isawaitable(result):
            return await result
        return result

    return call


class HandlerNotRun(Exception):
    """Calling the handler did not run it, or not all of it: it returned a generator, or a coroutine that is never awaited."""


class HandlerCancelled(Exception):
    """The handler raised a cancellation that was not requested from outside: it awaited something that was cancelled."""


Held = tuple[float, list[Flight]]
"""Messages for which their key queue waits, and for how many seconds."""


async def _never(_argument: object) -> None:
    reason = "messages that are pulled have no handler"
    raise RuntimeError(reason)


class Execution:
    """Runs the handler on one partition's messages, one or several at a time."""

    def __init__(
        self,
        surroundings: Surroundings,
        owned: OwnedPartition,
        callback: Callable[[Any], Any] | None,
        middleware: Sequence[Middleware] = (),
        *,
        timeout: float | None,
    ) -> None:
        """Wrap the handler.

        Args:
            surroundings: the consumer's.
            owned: the partition.
            callback: the user's handler, of a message or of a list; None: messages are pulled.
            middleware: wraps the handler, outermost first.
            timeout: seconds that one call may take; None: no limit.
        """
        self._around = surroundings
        self.owned = owned
        self._flights = owned.flights
        self.concurrency = surroundings.concurrency
        self.gate = surroundings.gate
        self._handler = through(middleware, adapt(callback or _never, surroundings.environment, self._abandoned))
        self._timeout = timeout
        self._blocked: set[bytes] = set()  # entries for which HandlerBlocked has been reported
        self._detailed = surroundings.bulletin.detailed

    async def ready(self, messages: Sequence[Flight]) -> list[Flight]:
        """Return the messages on which a handler may start, after the server has counted those that the read did not count (T5).

        A message that has used up its attempts without an end, each time together with its process, is dead.
        """
        owned = self.owned
        if self.gate.closed:
            await self.resumed()
        if not owned.may_start:
            return []
        counting = self._flights.prepare(messages)
        if counting is not None:
            await self._count(counting)
            if self.gate.closed:  # the group was paused meanwhile
                await self.resumed()
        return self._alive(messages) if owned.may_start else []

    async def resumed(self) -> None:
        """Return once the group is not paused, or the partition begins to drain."""
        with self.owned.until_drain():
            await self.gate.wait_open()

    def _alive(self, messages: Sequence[Flight]) -> list[Flight]:
        """Return the messages that are still there and have attempts left; the others are dead."""
        alive: list[Flight] = []
        for message in messages:
            if message.state not in WAITING:  # it was purged
                continue
            if self._flights.exhausted(message):
                self._bury(message)
            else:
                alive.append(message)
        return alive

    async def _count(self, counting: Counting) -> None:
        around, owned = self._around, self.owned
        if counting.counts:
            await self._raise_counts(lambda: self._flights.still_counting(counting))
            self._flights.counted(counting)
        for flight in counting.retries:
            if flight.body is not None:  # else an administrator moved the group back meanwhile, and it is new again
                found = await insist(partial(self._note, flight.body), around.environment)
                if not self._flights.noted(flight, found=found):
                    owned.changed()
                    owned.ring_timer()  # it may be there under another attempt

    async def _raise_counts(self, to_raise: Callable[[], Mapping[bytes, int]]) -> None:
        around, owned = self._around, self.owned

        async def step() -> None:
            while counts := to_raise():  # fewer, if the group was moved (S5)
                token = owned.standing
                done = await around.broker.do(SetDeliveries(around.group, owned.partition, token, counts, raising=True))
                if done or not await still_owned(around, owned, token, "another owner's token is current"):
                    return

        await insist(step, around.environment)

    async def _note(self, body: Body) -> bool:
        around, owned = self._around, self.owned
        while True:
            token = owned.standing
            step = StartRetry(around.group, owned.partition, token, entry_id=body.entry_id, life=body.life, attempt=body.attempt)
            if await around.broker.do(step):
                return True
            if owned.lost or not await spent(around, owned, token):
                return False

    def _bury(self, message: Flight) -> None:
        """Record that the message is dead: as many handlers as allowed began on it, and none ended under the lease under which it began.

        This process knows only what it has seen itself. Another process, whose event loop was blocked, could not record anything meanwhile,
        and may not afterwards.
        """
        attempts = message.attempt - 1
        blocked = self._around.blocked.pop((self.owned.partition, message.entry), None)
        if blocked is None:
            kind = "CrashedDeliveries"
            reason = f"{attempts} handlers were begun on it, and none ended: each time its process did, or lost its lease"
        else:
            kind, begun = "HandlerBlocked", max(attempts, blocked.times)
            reason = (
                f"{begun} handlers were begun on it, and none ended in time: the event loop of this process was blocked "
                f"{blocked.times} time(s), for up to {blocked.seconds:.1f} s, until the lease was lost (call what blocks in a thread)"
            )
            if blocked.times < attempts:
                reason += "; the other times the process ended, or lost its lease"
        self._flights.crashed(message, kind, reason, attempts, self.owned.lease.server_now())
        self.owned.changed()

    async def one(self, message: Flight) -> Held | None:  # noqa: C901 -- a function of its own would be a step more for each message
        """Run the handler on one message; return the message if its lane is to wait for its next try.

        The caller has checked that it may start.
        """
        owned, flights = self.owned, self._flights
        if (message.state != "new" or self.gate.closed) and not await self.ready((message,)):
            return None
        flights.start(message)
        if flights.waiting <= owned.room_at:
            owned.changed()
        if self._detailed:
            self._tell_started(message)
        try:
            timeout = message.timeout if message.timeout is not None else self._timeout
            call = self._handler(message)
            result = await (call if timeout is None else _within(timeout, call))
            if result is not None:
                _check_result(result)
        except Exception as error:  # noqa: BLE001 -- whatever a user's handler raises goes to the retry policy
            return self.failed(message, error)
        except BaseException as error:
            if _own_cancellation(error):
                return self.failed(message, _as_failure(error))
            end, interruption = parted(error)
            if end is None:
                self.cancelled(message)
                self.look_back((message,))
                raise
            self.failed(message, end)
            raise interruption from None
        flights.returned(message)
        if not owned.dirty or owned.finished.event is not None:
            owned.changed()
        if self._detailed:
            self._tell_succeeded(message)
        return None

    async def many(self, messages: list[Flight]) -> Held | None:
        """Run a handler of batches on some messages; return those for which their lane is to wait.

        The caller has checked that they may start.
        """
        owned, flights = self.owned, self._flights
        if self.gate.closed or not flights.start_new(messages):
            messages = await self.ready(messages)
            if not messages:
                return None
            flights.start_all(messages)
        owned.changed()
        if self._detailed:
            for message in messages:
                self._tell_started(message)
        errors = await self._errors_of(messages)
        if not errors and not self._detailed:
            flights.returned_all(messages)
            owned.changed()
            return None
        held: list[Held] = []
        for message in messages:
            if message in errors:
                held += filter(None, (self.failed(message, errors[message]),))
            else:
                self.succeeded(message)
        return (max(pause for pause, _ in held), [message for _, some in held for message in some]) if held else None

    async def _errors_of(self, messages: list[Flight]) -> dict[Message[Any], Exception]:
        """Run the handler on a batch; return the errors by message."""
        timeouts = [message.timeout for message in messages if message.timeout is not None]
        if len(timeouts) < len(messages) and self._timeout is not None:
            timeouts.append(self._timeout)
        timeout = min(timeouts) if timeouts else None
        try:
            call = self._handler(messages)
            result = await (call if timeout is None else _within(timeout, call))
            if result is not None:
                _check_result(result)
        except Exception as error:  # noqa: BLE001 -- as above, for all of the batch
            cause = sole(error)
            named = issubclass(type(cause), PartialFailure)
            return PartialFailure.of(cast("PartialFailure", cause), messages) if named else dict.fromkeys(messages, error)
        except BaseException as error:
            if _own_cancellation(error):
                return dict.fromkeys(messages, _as_failure(error))
            end, interruption = parted(error)
            for message in messages:
                if end is None:
                    self.cancelled(message)
                else:
                    self.failed(message, end)
            if end is None:
                self.look_back(messages)
                raise
            raise interruption from None
        return {}

    async def rest(self, held: Held) -> None:
        """Wait before the next try of a lane, or until the partition is to be given back (T7).

        First the failures are stored, so that the next owner counts on from there.
        """
        pause, flights = held
        with self.owned.until_drain():
            await self._raise_counts(lambda: self._flights.to_write(flights))
            self._flights.written(flights)
            await anyio.sleep(pause)

    # -- what came of it -----------------------------------------------------------------------------------------------------------

    def enter_body(self) -> Token[Surroundings | None]:
        """Mark the user's task as working on a message; undo it with `inside.reset`."""
        return inside.set(self._around)

    def timeout_of(self, message: Message[Any]) -> float | None:
        """Return how many seconds the body of a pulled message may take; None: no limit. `one` applies the limit itself."""
        return message.timeout if message.timeout is not None else self._timeout

    def began(self, message: Flight) -> None:
        """Record that a body begins."""
        self._flights.start(message)
        self.owned.changed()
        if self._detailed:
            self._tell_started(message)

    def succeeded(self, message: Flight) -> None:
        """Record that a message is done, so that it is acknowledged."""
        self._flights.returned(message)
        self.owned.changed()
        if self._detailed:
            self._tell_succeeded(message)

    def cancelled(self, message: Flight) -> None:
        """Record that its handler was cancelled: it stays where it is, for the next owner."""
        self._flights.cancelled(message)
        self.owned.changed()

    def taken_back(self, message: Flight) -> None:
        """Record that work on it was cancelled, and that it waits here for what comes next."""
        self._flights.taken_back(message)
        self.owned.changed()

    def failed(self, message: Flight, error: Exception) -> Held | None:
        """Record a failure; return the message if its lane is to wait for it here. Once the lease has ended, nothing is recorded."""
        around, owned = self._around, self.owned
        if owned.lost or not owned.lease.alive():
            self.cancelled(message)
            self.look_back((message,))
            return None
        took, waited = around.runs.ended(message)
        around.tell(events.MessageFailed, message, error=error, took=took, waited=waited)
        hold = self._flights.failed(message, error, owned.lease.server_now(), around.environment.random)
        owned.changed()
        if hold is None:
            return None
        around.tell(events.MessageRetried, hold.flight, again_in=hold.pause, blocking=True)
        return hold.pause, [hold.flight]

    def _tell_started(self, message: Flight) -> None:
        self._around.tell(events.MessageStarted, message, waited=self._around.runs.began(message, self.owned))

    def _tell_succeeded(self, message: Flight) -> None:
        took, waited = self._around.runs.ended(message)
        self._around.tell(events.MessageSucceeded, message, took=took, waited=waited)

    def look_back(self, messages: Sequence[Message[Any]]) -> None:
        """If the lease has ended because the event loop was blocked while these were handled, report and remember that."""
        lease = self.owned.lease
        if lease.alive() or not lease.stood_still:
            return
        for message in messages:
            if message.entry in self._blocked:  # its handler has failed too late
                continue
            self._blocked.add(message.entry)
            self._around.note_blocked(self.owned.partition, message.entry, lease.stood_still)
            self._around.tell(events.HandlerBlocked, message, seconds=round(lease.stood_still, 3))

    def _abandoned(self, argument: Message[Any] | list[Message[Any]], thread: Abandoned) -> None:
        self.concurrency.keep_for(thread)
        for message in argument if isinstance(argument, list) else (argument,):
            self._around.tell(events.HandlerAbandoned, message)


async def _within(timeout: float, call: Awaitable[object]) -> object:
    """Await a handler's call; TimeoutError after so many seconds."""
    with anyio.fail_after(timeout, reason=f"the handler took longer than {timeout:g} s"):
        return await call


def _check_result(result: object) -> None:
    """Raise what a handler's result shows to be wrong: else the message would count as handled.

    Raises:
        HandlerNotRun: it did not run, for example because it contains a `yield` and is decorated.
        TypeError: it says what to do with the message, and had to raise that.
    """
    if made := unrun(result):
        raise HandlerNotRun(f"the handler returned {made}: what it would do has not been done")
    if issubclass(type(result), INSTRUCTIONS):
        raise TypeError(f"the handler returned {shown(result)}: raise it, since what a handler returns is ignored")


def _own_cancellation(error: BaseException) -> bool:
    """True if it is a cancellation that nothing outside the handler requested (which occurs only on asyncio), or a group with such."""
    cancelled = anyio.get_cancelled_exc_class()
    leaves = list(leaves_of(error))
    if not any(isinstance(leaf, cancelled) for leaf in leaves) or not all(isinstance(leaf, (cancelled, Exception)) for leaf in leaves):
        return False
    return not anyio.get_current_task().has_pending_cancellation()


def parted(error: BaseException) -> tuple[Exception | None, BaseException]:
    """Split what a handler raised while it was being cancelled: its own failure, or None, and what to raise.

    Trio raises both as one group. Only the cancellation must propagate: the scopes above would let the rest through, up to the user.
    """
    if not issubclass(type(error), BaseExceptionGroup):
        return None, error
    cancelled, rest = split_off(error, anyio.get_cancelled_exc_class())
    return (rest, cancelled) if cancelled is not None and isinstance(rest, Exception) else (None, error)


def _as_failure(error: BaseException) -> HandlerCancelled:
    failure = HandlerCancelled("the handler was cancelled from within")
    failure.__cause__ = error
    return failure
