"""Where workers offer messages, one at a time each, to whoever iterates over them; what was handed out is known here until it is settled.

In: offers, from any number of workers. Out: what was offered, in that order, to one who asks while fewer than so many are handed out and
not settled. Beyond those one more is handed out if nobody works on one of them: the variable of a loop holds a message that `continue`
has dropped until the next one is there.

Always: what is taken is taken without waiting. So whoever is cancelled while it waits has taken nothing, natively as well (a memory
stream hands the item to one who waits, and asyncio's own `Task.cancel()` may come before that one runs: then it is nobody's).

Whoever asks, and is not cancelled, first looks at what was handed out and nobody works on, and again whenever that may have changed. That
is how a loop shows that it goes on: what it dropped has failed then. If it ends instead, nobody looks.

What must not be prepared before somebody wants it is prepared between `demand` and `forgo`.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Generic, Protocol, TypeVar

import anyio
from anyio.lowlevel import checkpoint

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

LOOK_AGAIN = 0.5  # seconds: nobody says that a message is not referenced any more


class Offered(Protocol[T_co]):
    """What a worker offers."""

    def hand_out(self) -> T_co | None:
        """Return the message for the iterator, None if its partition has begun to go."""
        ...

    def look(self) -> None:
        """See whether somebody may still work on it; it has failed otherwise."""
        ...


class Offer(Generic[T]):
    """One item, until it is taken."""

    __slots__ = ("item", "taken")

    def __init__(self, item: Offered[T]) -> None:
        """Begin as not taken."""
        self.item = item
        self.taken = anyio.Event()


class Offers(Generic[T]):
    """See the module."""

    def __init__(self, most: int) -> None:
        """Begin open, and without offers; so `most` may be handed out and not settled."""
        self._most = most
        self._offers: deque[Offer[T]] = deque()
        self._out = 0  # handed out, and not settled
        self._idle: dict[Offered[T], None] = {}  # of these, those that nobody works on: never begun, or left by a cancellation
        self._change: anyio.Event | None = None
        self._demand: anyio.Event | None = None
        self._takers = 0
        self._promised = 0
        self._closed = False

    # -- workers -----------------------------------------------------------------------------------------------------------------

    async def demand(self) -> None:
        """Return once somebody waits for whom nothing is on offer, or promised; that is promised then, until `forgo`."""
        while min(self._takers, self._room) <= len(self._offers) + self._promised:
            if self._demand is None:
                self._demand = anyio.Event()
            await self._demand.wait()
        self._promised += 1

    def forgo(self) -> None:
        """Let the promise go: it is offered now, or there is nothing to offer."""
        self._promised -= 1
        self._changed()

    async def offer(self, item: Offered[T]) -> None:
        """Return once it has been taken. Cancelled, it is no longer on offer, or has just been taken."""
        offer = Offer(item)
        self._offers.append(offer)
        self._changed()
        try:
            await offer.taken.wait()
        except BaseException:
            with contextlib.suppress(ValueError):
                self._offers.remove(offer)
                self._changed()
            raise

    def close(self) -> None:
        """Let whoever waits know that nothing more comes."""
        self._closed = True
        self._changed()

    # -- what was handed out -----------------------------------------------------------------------------------------------------

    def begun(self, item: Offered[T]) -> None:
        """Note that somebody works on it."""
        self._idle.pop(item, None)

    def left(self, item: Offered[T]) -> None:
        """Note that it is not settled, and that nobody works on it any more."""
        self._idle[item] = None
        self._changed()

    def settled(self, item: Offered[T]) -> None:
        """Note that it is settled, or somebody else's."""
        self._idle.pop(item, None)
        self._out -= 1
        self._changed()

    # -- who iterates ------------------------------------------------------------------------------------------------------------

    async def take(self) -> T:
        """Return the first item on offer, waiting for one. Cancelled, it takes none, and does not look.

        Raises:
            anyio.EndOfStream: there is none, and there will be none.
        """
        await checkpoint()
        self._takers += 1
        self._tell_demand()
        try:
            while True:
                for item in tuple(self._idle):  # nothing is awaited since it was last seen that this is not cancelled
                    item.look()
                if self._offers and self._room > 0:
                    offer = self._offers.popleft()
                    offer.taken.set()
                    message = offer.item.hand_out()
                    if message is None:
                        continue
                    self._out += 1
                    self._idle[offer.item] = None
                    return message
                if self._closed:
                    raise anyio.EndOfStream
                if self._change is None:
                    self._change = anyio.Event()
                change = self._change
                if self._idle:
                    with anyio.move_on_after(LOOK_AGAIN):
                        await change.wait()
                    await checkpoint()  # cancelled just now, it does not look
                else:
                    await change.wait()
        finally:
            self._takers -= 1

    @property
    def _room(self) -> int:
        """How many more may be handed out."""
        return self._most - self._out + bool(self._idle)

    def _changed(self) -> None:
        if self._change is not None:
            self._change.set()
            self._change = None
        self._tell_demand()

    def _tell_demand(self) -> None:
        if self._demand is not None:
            self._demand.set()
            self._demand = None
