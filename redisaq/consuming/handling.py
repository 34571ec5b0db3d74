"""Runs a handler on messages of one partition and records what came of it.

This is the one place that calls a user's handler, and so the one that catches whatever it raises. An exception (a timeout too) goes to
the retry policy, which says whether the message is tried again, when, or is dead. Cancellation is no outcome: the message stays where it
is, for the next owner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Token
from typing import Any, cast

import anyio
import msgspec

from redisaq import events
from redisaq.brokers.delivery import Body, SetAside
from redisaq.callables import unrun
from redisaq.consuming.concurrency import Abandoned
from redisaq.consuming.contact import insist
from redisaq.consuming.context import Surroundings, inside
from redisaq.consuming.handler import adapt
from redisaq.consuming.owned import OwnedPartition
from redisaq.consuming.verdicts import Held, Verdicts
from redisaq.core.codec import EntryDecoder
from redisaq.core.records import Unreadable
from redisaq.core.retry import exhausted, sole
from redisaq.error_groups import split_off
from redisaq.message import Message
from redisaq.middleware import Middleware, through
from redisaq.outcomes import PartialFailure
from redisaq.settings import RetryPolicy


class HandlerNotRun(Exception):
    """Calling the handler ran nothing of it, or not all: it returned a generator, or a coroutine that nobody awaits."""


class HandlerCancelled(Exception):
    """The handler raised a cancellation that nobody had asked for (it awaited something that was cancelled)."""


async def _never(_argument: object) -> None:
    reason = "messages that are pulled have no handler"
    raise RuntimeError(reason)


class Execution:
    """The handler, applied to one partition's messages, one or several at a time."""

    def __init__(
        self,
        surroundings: Surroundings,
        owned: OwnedPartition,
        callback: Callable[[Any], Any] | None,
        middleware: Sequence[Middleware] = (),
        *,
        decoder: EntryDecoder[Any],
        timeout: float | None,
        retry: RetryPolicy,
    ) -> None:
        """Take the user's callback (of a message, or of a list; None: messages are pulled), what is around it, and what failures do."""
        self._around = surroundings
        self.owned = owned
        self.concurrency = surroundings.concurrency
        self._gate = surroundings.gate
        self._handler = through(middleware, adapt(callback or _never, surroundings.environment, self._abandoned))
        self._timeout = timeout
        self._retry = retry
        self._blocked: set[bytes] = set()  # of which has been told that the event loop stood still over them
        self._verdicts = Verdicts(surroundings, owned, retry, decoder)
        self._detailed = surroundings.bulletin.detailed

    async def ready(self, messages: Sequence[Message[Any]]) -> list[Message[Any]]:
        """Return those on which a handler may start; for what is no first delivery, note that one does.

        The delivery count of a pending entry is raised, and its attempt is the raised count less one, since the first read already
        counted one (T5). A message of
        `retry` carries its own count. What has used up its attempts without an end, each time taking its process with it, is dead.
        """
        owned = self.owned
        if self._around.gate.closed:
            with owned.until_drain():
                await self._around.gate.wait_open()
        if not owned.may_start:
            return []
        if owned.deliveries:
            await self._raise_counts([message for message in messages if message.entry in owned.deliveries])
        if owned.bodies:
            for message in messages:
                if message.entry in owned.bodies:
                    await self._start_retry(message, owned.bodies[message.entry])
        return self._alive(messages) if owned.may_start else []

    def _alive(self, messages: Sequence[Message[Any]]) -> list[Message[Any]]:
        """Return those that have attempts left; the others are dead."""
        owned, alive = self.owned, list[Message[Any]]()
        for message in messages:
            if message.entry not in owned.queued:  # it was settled elsewhere
                continue
            if exhausted(self._retry, message.attempt):
                self._verdicts.dead_of_crashes(message)
            else:
                alive.append(message)
        return alive

    async def _raise_counts(self, messages: list[Message[Any]]) -> None:
        around, owned = self._around, self.owned
        counts = {message.entry: owned.deliveries[message.entry] + 1 for message in messages}
        if not counts:
            return
        owned.unwritten.update({entry_id: count - 1 for entry_id, count in counts.items()})  # if no handler begins after all
        step = lambda: around.broker.set_deliveries(around.group, owned.partition, owned.token, counts, raising=True)  # noqa: E731
        if not await insist(step, around.environment):
            owned.lose("another owner's token stands")
        if not owned.may_start:  # it began to drain meanwhile: no handler has seen them
            return
        for message in messages:
            if message.entry in owned.deliveries:  # not delivered as new meanwhile
                message.attempt = max(1, counts[message.entry] - 1)
                owned.deliveries[message.entry] = counts[message.entry]

    async def _start_retry(self, message: Message[Any], body: Body) -> None:
        around, owned = self._around, self.owned
        attempt = body.attempt + 1
        counted = attempt - body.unused
        if exhausted(self._retry, counted):
            message.attempt = counted
            return
        raised = owned.raised[message.entry] = msgspec.structs.replace(body, attempt=attempt)
        step = lambda: around.broker.start_retry(  # noqa: E731
            around.group, owned.partition, owned.token, entry_id=body.entry_id, life=body.life, attempt=attempt
        )
        noted = await insist(step, around.environment)
        if owned.bodies.get(message.entry) is not body:  # an admin moved the group back meanwhile: it is new again
            return
        if noted:
            message.attempt = counted
            owned.bodies[message.entry] = raised
        else:
            owned.forget(message)
            owned.ring_timer()  # it may be there under another attempt: a replica that took over may have missed the last ones

    async def one(self, message: Message[Any]) -> Held | None:
        """Run the handler on one message; return it if its lane is to wait for its next try. The caller has seen that it may start."""
        owned = self.owned
        if (owned.deliveries or owned.bodies or self._gate.closed) and not await self.ready((message,)):
            return None
        owned.start(message)
        if self._detailed:
            self._around.tell(events.MessageStarted, message)
        try:
            timeout = message.timeout if message.timeout is not None else self._timeout
            if timeout is None:
                result = await self._handler(message)
            else:
                with anyio.fail_after(timeout, reason=f"the handler took longer than {timeout:g} s"):
                    result = await self._handler(message)
            if result is not None:
                _check_run(result)
        except Exception as error:  # noqa: BLE001 -- whatever a user's handler raises goes to the retry policy
            return self.failed(message, error)
        except BaseException as error:
            if _own_cancellation(error):
                return self.failed(message, _as_failure(error))
            end, interruption = parted(error)
            if end is None:
                owned.abandon(message)
                self.look_back((message,))
                raise
            self.failed(message, end)
            raise interruption from None
        owned.succeed(message)
        if self._detailed:
            self._around.tell(events.MessageSucceeded, message)
        return None

    async def many(self, messages: list[Message[Any]]) -> Held | None:
        """Run a handler of batches on some messages; return those whose lane is to wait. The caller has seen that they may start."""
        owned = self.owned
        if owned.deliveries or owned.bodies or self._gate.closed:
            messages = await self.ready(messages)
            if not messages:
                return None
        owned.start_all(messages)
        if self._detailed:
            for message in messages:
                self._around.tell(events.MessageStarted, message)
        errors = await self._errors_of(messages)
        if not errors and not self._detailed:
            owned.succeed_all(messages)
            return None
        held: list[Held] = []
        for message in messages:
            if message in errors:
                held += filter(None, (self.failed(message, errors[message]),))
            else:
                self.succeeded(message)
        return (max(pause for pause, _ in held), [message for _, some in held for message in some]) if held else None

    async def _errors_of(self, messages: list[Message[Any]]) -> dict[Message[Any], Exception]:
        """Run the handler on a batch; return what failed of it."""
        timeouts = [message.timeout for message in messages if message.timeout is not None]
        if len(timeouts) < len(messages) and self._timeout is not None:
            timeouts.append(self._timeout)
        timeout = min(timeouts) if timeouts else None
        try:
            if timeout is None:
                result = await self._handler(messages)
            else:
                with anyio.fail_after(timeout, reason=f"the handler took longer than {timeout:g} s"):
                    result = await self._handler(messages)
            if result is not None:
                _check_run(result)
        except Exception as error:  # noqa: BLE001 -- as above, for all of the batch
            cause = sole(error)
            return cast("PartialFailure", cause).of(messages) if issubclass(type(cause), PartialFailure) else dict.fromkeys(messages, error)
        except BaseException as error:
            if _own_cancellation(error):
                return dict.fromkeys(messages, _as_failure(error))
            end, interruption = parted(error)
            for message in messages:
                if end is None:
                    self.owned.abandon(message)
                else:
                    self.failed(message, end)
            if end is None:
                self.look_back(messages)
                raise
            raise interruption from None
        return {}

    async def rest(self, held: Held) -> None:
        """Wait before the next try of a lane, or until the partition is to be given back (T7).

        First the failures are written down, so that whoever takes over goes on counting.
        """
        around, owned = self._around, self.owned
        with owned.until_drain():
            # Of one whose attempt does not count (RetryAfter) the server's number is too high: that is set back with the partition (T5).
            deliveries = owned.deliveries
            counts = {message.entry: deliveries[message.entry] for message in held[1] if deliveries.get(message.entry, 0) > message.attempt}
            if counts:
                step = lambda: around.broker.set_deliveries(around.group, owned.partition, owned.token, counts, raising=True)  # noqa: E731
                await insist(step, around.environment)
                for entry_id in counts:
                    owned.unwritten.pop(entry_id, None)
            await anyio.sleep(held[0])

    # -- what came of it -----------------------------------------------------------------------------------------------------------

    def enter_body(self) -> Token[Surroundings | None]:
        """Mark the user's task as working on a message; undo it with `inside.reset`."""
        return inside.set(self._around)

    def timeout_of(self, message: Message[Any]) -> float | None:
        """Return how long work on it may take, seconds; None: as long as it likes. For a body: `one` sees to it by itself."""
        return message.timeout if message.timeout is not None else self._timeout

    def began(self, message: Message[Any]) -> None:
        """Record that work on it begins."""
        self.owned.start(message)
        if self._detailed:
            self._around.tell(events.MessageStarted, message)

    def succeeded(self, message: Message[Any]) -> None:
        """Record that it is done: it is to be acknowledged."""
        self.owned.succeed(message)
        if self._detailed:
            self._around.tell(events.MessageSucceeded, message)

    def failed(self, message: Message[Any], error: Exception) -> Held | None:
        """Record a failure; return the message if its lane is to wait for it here. Nothing is recorded once the lease has ended."""
        owned = self.owned
        if owned.lost or not owned.lease.alive():
            owned.abandon(message)
            self.look_back((message,))
            return None
        return self._verdicts.failed(message, error)

    def look_back(self, messages: Sequence[Message[Any]]) -> None:
        """If the lease has ended because the event loop stood still while these were handled, say so, and remember it."""
        lease = self.owned.lease
        if lease.alive() or not lease.stood_still:
            return
        for message in messages:
            if message.entry in self._blocked:  # its handler has failed, too late
                continue
            self._blocked.add(message.entry)
            self._around.note_blocked(self.owned.partition, message.entry, lease.stood_still)
            self._around.tell(events.HandlerBlocked, message, seconds=round(lease.stood_still, 3))

    def unreadable(self, entry: Unreadable, body: Body | None = None) -> None:
        """Send what cannot be read to the dead letters, with the reason."""
        self._verdicts.unreadable(entry, body)

    def set_aside(self, damaged: SetAside) -> None:
        """Tell of a record that the broker has set aside."""
        self._verdicts.set_aside(damaged)

    def _abandoned(self, argument: Message[Any] | list[Message[Any]], thread: Abandoned) -> None:
        self.concurrency.keep_for(thread)
        for message in argument if isinstance(argument, list) else (argument,):
            self._around.tell(events.HandlerAbandoned, message)


def _check_run(result: object) -> None:
    """Raise HandlerNotRun if a handler's result shows that it has not run: with a `yield` in it, say, behind a decorator."""
    if made := unrun(result):
        raise HandlerNotRun(f"the handler returned {made}: what it would do has not been done")


def _own_cancellation(error: BaseException) -> bool:
    """True if it is a cancellation that nobody outside the handler asked for (asyncio alone has such)."""
    return isinstance(error, anyio.get_cancelled_exc_class()) and not anyio.get_current_task().has_pending_cancellation()


def parted(error: BaseException) -> tuple[Exception | None, BaseException]:
    """Return what a handler failed of while it was being cancelled, None if of nothing, and what is to be raised.

    Trio raises both as one group. What is no cancellation must not go on with it: the scopes above would let it through, up to the user.
    """
    if not issubclass(type(error), BaseExceptionGroup):
        return None, error
    cancelled, rest = split_off(error, anyio.get_cancelled_exc_class())
    return (rest, cancelled) if cancelled is not None and isinstance(rest, Exception) else (None, error)


def _as_failure(error: BaseException) -> HandlerCancelled:
    failure = HandlerCancelled("the handler was cancelled from within")
    failure.__cause__ = error
    return failure
