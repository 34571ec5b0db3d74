"""Runs a handler on messages of one partition and records what came of it.

This is the one place that calls a user's handler, and so the one that catches whatever it raises. An exception (a timeout too) is a
failure: the message stays pending and comes back after a pause. Cancellation is no outcome: the message stays pending for the next owner.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any

import anyio

from redisaq import events
from redisaq.actors.bulletin import Bulletin
from redisaq.actors.handler import adapt
from redisaq.actors.handler_pool import Abandoned, HandlerPool
from redisaq.actors.insist import insist
from redisaq.actors.owned import OwnedPartition
from redisaq.brokers.base import Broker, GroupName
from redisaq.environment import Environment
from redisaq.message import Message

FIRST_PAUSE, MOST_PAUSE = 1.0, 60.0  # seconds before a failed message comes back: doubling with each attempt


@dataclass
class Surroundings:
    """What every actor of one consumer is given."""

    group: GroupName
    broker: Broker
    environment: Environment
    bulletin: Bulletin
    pool: HandlerPool
    kill_refused: bool = False  # the server does not permit CLIENT KILL (T4), and that has been told


inside: ContextVar[Surroundings | None] = ContextVar("redisaq_inside", default=None)
"""Set in a consumer's own tasks, its handlers, and bodies of pulled messages: who waits there for the consumer's end would wait for
ever."""


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
        *,
        timeout: float | None,
        parked: Callable[[], None],
    ) -> None:
        """Take the user's callback (of a message, or of a list of them; None where messages are pulled) and who is told of a failure."""
        self._around = surroundings
        self.owned = owned
        self.pool = surroundings.pool
        self._handler: Callable[[Any], Awaitable[Any]] = adapt(callback or _never, surroundings.environment, self._abandoned)
        self._timeout = timeout
        self._parked = parked
        self._detailed = surroundings.bulletin.detailed

    async def ready(self, messages: Sequence[Message[Any]]) -> bool:
        """Raise the delivery counts of messages that had been delivered before (T5); False if no handler may start.

        A message's attempt is the raised count less one, since the first read already counted one.
        """
        owned = self.owned
        if owned.deliveries:
            counts = {m.entry: owned.deliveries[m.entry] + 1 for m in messages if m.entry in owned.deliveries}
            if counts:
                around = self._around
                step = lambda: around.broker.set_deliveries(around.group, owned.partition, owned.token, counts)  # noqa: E731
                if not await insist(step, around.environment):
                    owned.lose("another owner's token stands")
                if not owned.may_start:  # it began to drain meanwhile: no handler has seen them
                    owned.undo.update({entry_id: count - 1 for entry_id, count in counts.items()})
                    return False
                for message in messages:
                    if message.entry in counts:
                        message.attempt = max(1, counts[message.entry] - 1)
                        owned.deliveries[message.entry] = counts[message.entry]
        return owned.may_start

    async def one(self, message: Message[Any]) -> None:
        """Run the handler on one message; the caller has seen that it may start."""
        owned = self.owned
        if owned.deliveries and not await self.ready((message,)):
            return
        self.began(message)
        try:
            timeout = message.timeout if message.timeout is not None else self._timeout
            if timeout is None:
                await self._handler(message)
            else:
                with anyio.fail_after(timeout):
                    await self._handler(message)
        except Exception as error:  # noqa: BLE001 -- whatever a user's handler raises is a failure of its message
            self.failed(message, error)
        except BaseException:
            owned.abandon(message)
            raise
        else:
            self.succeeded(message)

    async def many(self, messages: list[Message[Any]]) -> None:
        """Run a handler of batches on some messages; the caller has seen that they may start."""
        owned = self.owned
        if owned.deliveries and not await self.ready(messages):
            return
        for message in messages:
            self.began(message)
        timeouts = [m.timeout for m in messages if m.timeout is not None]
        try:
            timeout = min(timeouts) if timeouts else self._timeout
            if timeout is None:
                await self._handler(messages)
            else:
                with anyio.fail_after(timeout):
                    await self._handler(messages)
        except Exception as error:  # noqa: BLE001 -- as above, for all of the batch
            for message in messages:
                self.failed(message, error)
        except BaseException:
            for message in messages:
                owned.abandon(message)
            raise
        else:
            for message in messages:
                self.succeeded(message)

    def enter_body(self) -> Token[Surroundings | None]:
        """Mark the user's task as working on a message; undo it with `inside.reset`."""
        return inside.set(self._around)

    def began(self, message: Message[Any]) -> None:
        """Record that work on it begins."""
        self.owned.start(message)
        if self._detailed:
            self._tell(events.MessageStarted, message)

    def succeeded(self, message: Message[Any]) -> None:
        """Record that it is done: it is to be acknowledged."""
        self.owned.succeed(message)
        if self._detailed:
            self._tell(events.MessageSucceeded, message)

    def failed(self, message: Message[Any], error: Exception) -> None:
        """Record a failure: it comes back here after a pause, unless the lease has ended."""
        if not self.owned.lease.alive() or self.owned.lost:
            self.owned.abandon(message)
            return
        pause = min(MOST_PAUSE, FIRST_PAUSE * 2.0 ** min(message.attempt - 1, 16))
        self.owned.fail(message, self._around.environment.clock() + pause)
        self._tell(events.MessageFailed, message, error=error, again_in=pause)
        self._parked()

    def _abandoned(self, argument: Message[Any] | list[Message[Any]], thread: Abandoned) -> None:
        self.pool.keep_for(thread)
        for message in argument if isinstance(argument, list) else (argument,):
            self._tell(events.HandlerAbandoned, message)

    def _tell(self, kind: type[events.MessageEvent], message: Message[Any], **more: Any) -> None:
        bulletin = self._around.bulletin
        bulletin.tell(
            kind(
                topic=bulletin.topic,
                group=bulletin.group,
                member=bulletin.member,
                partition=message.partition,
                msg_id=message.msg_id,
                entry_id=message.entry_id,
                attempt=message.attempt,
                **more,
            )
        )
