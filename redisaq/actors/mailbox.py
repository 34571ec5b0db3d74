"""A bounded queue of the messages that one actor has not taken yet.

Others put messages in through an `ActorRef`; the actor takes them out, one at a time or many. The supervisor owns the mailbox, which
outlives the actor's restarts.

Taking a message out never waits, so a `receive` that is cancelled or timed out has taken nothing. (A memory stream hands the item to the
waiting receiver, and on asyncio it is lost if that one is cancelled before it runs. So receivers here wait for an event instead, and then
take.) What was taken last is "in hand" until the actor asks for the next: if the actor fails, `on_lost` gets it back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import anyio
from anyio.lowlevel import checkpoint
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from redisaq.actors.waiting import Asked, Reply, Signal
from redisaq.errors import ActorStopped, SettingsError
from redisaq.settings import is_number

M = TypeVar("M")


class Mailbox(Generic[M]):
    """The messages that wait for one actor, which reads it as `self.mailbox`; nothing else reads it.

    Args:
        capacity: the most messages that wait, 1 or more.
    """

    def __init__(self, capacity: int) -> None:
        """Make a mailbox that is not open yet."""
        given: object = capacity  # callers without type checks may pass anything
        if not (is_number(given) and given >= 1 and (isinstance(given, int) or math.isinf(given))):
            raise SettingsError(f"capacity: a whole number, 1 or more, not {capacity!r}")
        self.capacity = capacity
        self.path = ""
        self.owner: int | None = None
        """The id of the actor's task, while it has one."""
        self.hand: Sequence[M] = ()
        self.busy_since: float | None = None
        self.leftover = 0
        self._taken = 0
        self._lost = 0
        self._reading = False
        self._send: MemoryObjectSendStream[M] | None = None
        self._take: MemoryObjectReceiveStream[M] | None = None
        self._arrival = Signal()
        self._opening = Signal()
        self._closed = False
        self._asked: dict[int, Asked] = {}

    # -- the actor's side -------------------------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """The number of messages that wait."""
        return 0 if self._take is None else self._take.statistics().current_buffer_used

    @property
    def closed(self) -> bool:
        """True once no more messages can be sent. Those in it may still be received."""
        return self._closed

    @property
    def handled(self) -> int:
        """The number of messages that were taken and finished."""
        return self._taken - self._lost - len(self.hand)

    async def receive(self) -> M:
        """Return the next message; wait for one if there is none. If cancelled, nothing is lost.

        Raises:
            anyio.EndOfStream: the mailbox is closed and empty.
        """
        self.hand = ()
        self._reading = True
        await checkpoint()
        while True:
            try:
                message = self._stream().receive_nowait()
            except anyio.WouldBlock:
                await self._wait_for_arrival()
            else:
                self._hold((message,))
                return message

    def receive_nowait(self) -> M:
        """Return the next message.

        Raises:
            anyio.WouldBlock: there is none.
            anyio.EndOfStream: the mailbox is closed and empty.
        """
        self.hand = ()
        try:
            message = self._stream().receive_nowait()
        except anyio.WouldBlock:
            self.busy_since = None
            self._reading = False
            raise
        self._hold((message,))
        return message

    async def receive_many(self, limit: int) -> list[M]:
        """Return the waiting messages, at most `limit`; wait for the first if there is none. All of them are then in hand.

        Raises:
            anyio.EndOfStream: the mailbox is closed and empty.
        """
        messages = [await self.receive()]
        stream = self._stream()
        try:
            while len(messages) < limit:
                messages.append(stream.receive_nowait())
        except (anyio.WouldBlock, anyio.EndOfStream):
            pass
        self._taken -= 1
        self._hold(tuple(messages))
        return messages

    def __aiter__(self) -> Mailbox[M]:
        """Iterate over the messages until the mailbox is closed and empty."""
        return self

    async def __anext__(self) -> M:
        """Return the next message."""
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    def _stream(self) -> MemoryObjectReceiveStream[M]:
        if self._take is None:
            raise anyio.EndOfStream if self._closed else RuntimeError("the actor of this mailbox has not been started")
        return self._take

    async def _wait_for_arrival(self) -> None:
        self.busy_since = None
        await self._arrival.wait()

    def _hold(self, messages: Sequence[M]) -> None:
        self.hand = messages
        self._taken += len(messages)
        if self.busy_since is None:  # the clock is not read for each message: that would cost a tenth of the hop
            self.busy_since = anyio.current_time()
        if self._asked:
            self._mark(messages)

    def _mark(self, messages: Sequence[M]) -> None:
        for message in messages:
            if (asked := self._asked.get(id(message))) is not None:
                asked.taken = True

    # -- the senders' side, reached through an ActorRef ---------------------------------------------------------------------------

    async def put(self, message: M) -> None:
        """Put a message in; wait for room if it is full. See `ActorRef.tell`."""
        while self._send is None:
            if self._closed:
                await checkpoint()  # as for an open mailbox: a cancellation is raised first
                raise self.stopped()
            await self._opening.wait()
        try:
            await self._send.send(message)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            raise self.stopped() from None
        if self._arrival.event is not None:
            self._arrival.fire()

    def put_nowait(self, message: M) -> None:
        """Put a message in if there is room; see `ActorRef.tell_nowait`."""
        if self._send is None:
            if self._closed:
                raise self.stopped()
            raise anyio.WouldBlock
        try:
            self._send.send_nowait(message)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            raise self.stopped() from None
        if self._arrival.event is not None:
            self._arrival.fire()

    def expect(self, message: M, reply: Reply[Any]) -> Asked:
        """Record that an asker waits for the answer to this message, until `forget`."""
        if id(message) in self._asked:
            raise ValueError("ask needs a new message each time; this one is already under way")
        asked = self._asked[id(message)] = Asked(message, reply)
        return asked

    def forget(self, message: M) -> None:
        """Record that the asker no longer waits for the answer to this message."""
        self._asked.pop(id(message), None)

    def stopped(self, reason: str = "stopped") -> ActorStopped:
        """Return the error that says this actor is gone."""
        return ActorStopped(self.path, reason, leftover=self.leftover)

    # -- the supervisor's side --------------------------------------------------------------------------------------------------

    @property
    def in_use(self) -> bool:
        """True if the actor waits for a message, has one in hand, or one waits for it: the actor will notice that the mailbox is closed."""
        return bool(self._reading or self.hand or self.depth)

    @property
    def opened(self) -> bool:
        """True once its actor has been started, or has ended."""
        return self._send is not None or self._closed

    def open(self) -> None:
        """Accept messages."""
        self._send, self._take = anyio.create_memory_object_stream[M](self.capacity)
        self._opening.fire()

    def lose_hand(self, error: BaseException | None) -> Sequence[M]:
        """Return what the actor has in hand and will not finish. Its askers get the error, if there is one."""
        hand, self.hand = self.hand, ()
        self.busy_since = None
        self._lost += len(hand)
        if self._asked and isinstance(error, Exception):
            for message in hand:
                if (asked := self._asked.get(id(message))) is not None:
                    asked.reply.fail(error)
        return hand

    def fail_taken(self, reason: str) -> None:
        """Fail the askers of every message taken: the actor restarts and has forgotten them."""
        self._reading = False
        for asked in self._asked.values():
            if asked.taken:
                asked.reply.fail(self.stopped(reason))

    def close_sending(self) -> None:
        """Accept no more messages; those in it can still be received. Senders that wait for room get ActorStopped."""
        self._closed = True
        if self._send is not None:
            self._send.close()
        self._arrival.fire()

    def close(self) -> int:
        """Close it for good; return how many messages were left. Those who wait for an answer get ActorStopped."""
        self.close_sending()
        self.leftover = self.depth
        self.hand = ()
        self.busy_since = None
        self.owner = None
        if self._take is not None:
            self._take.close()
            self._take = None
        self._send = None
        for asked in self._asked.values():
            asked.reply.fail(self.stopped())
        return self.leftover
