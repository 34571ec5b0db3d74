"""Where workers offer messages, one at a time each, to whoever iterates over them.

In: offers, from any number of workers. Out: what was offered, in that order. Always: what is taken is taken without waiting. So whoever is
cancelled while it waits has taken nothing, natively as well (a memory stream hands the item to one who waits, and asyncio's own
`Task.cancel()` may come before that one runs: then it is nobody's).

What must not be prepared before somebody wants it is prepared between `demand` and `forgo`.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Generic, TypeVar

import anyio
from anyio.lowlevel import checkpoint

T = TypeVar("T")


class Offer(Generic[T]):
    """One item, until it is taken."""

    __slots__ = ("item", "taken")

    def __init__(self, item: T) -> None:
        """Begin as not taken."""
        self.item = item
        self.taken = anyio.Event()


class Offers(Generic[T]):
    """See the module."""

    def __init__(self) -> None:
        """Begin open, and without offers."""
        self._offers: deque[Offer[T]] = deque()
        self._arrival: anyio.Event | None = None
        self._demand: anyio.Event | None = None
        self._takers = 0
        self._promised = 0
        self._closed = False

    async def demand(self) -> None:
        """Return once somebody waits for whom nothing is on offer, or promised; that is promised then, until `forgo`."""
        while self._takers <= len(self._offers) + self._promised:
            if self._demand is None:
                self._demand = anyio.Event()
            await self._demand.wait()
        self._promised += 1

    def forgo(self) -> None:
        """Let the promise go: it is offered now, or there is nothing to offer."""
        self._promised -= 1
        self._tell_demand()

    def _tell_demand(self) -> None:
        if self._demand is not None:
            self._demand.set()
            self._demand = None

    async def offer(self, item: T) -> None:
        """Return once it has been taken. Cancelled, it is no longer on offer, or has just been taken."""
        offer = Offer(item)
        self._offers.append(offer)
        self._wake()
        try:
            await offer.taken.wait()
        except BaseException:
            with contextlib.suppress(ValueError):
                self._offers.remove(offer)
                self._tell_demand()
            raise

    async def take(self) -> T:
        """Return the first item on offer, waiting for one. Cancelled, it takes none.

        Raises:
            anyio.EndOfStream: there is none, and there will be none.
        """
        self._takers += 1
        self._tell_demand()
        try:
            await checkpoint()
            while not self._offers:
                if self._closed:
                    raise anyio.EndOfStream
                if self._arrival is None:
                    self._arrival = anyio.Event()
                await self._arrival.wait()
            offer = self._offers.popleft()
        finally:
            self._takers -= 1
        offer.taken.set()
        return offer.item

    def close(self) -> None:
        """Let whoever waits know that nothing more comes."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        if self._arrival is not None:
            self._arrival.set()
            self._arrival = None
