"""Rings: the smallest message, "look again"; and the actor that hears the server's and passes them on.

In: rings of a group's doorbell, or of one partition's. Out: a call for each. A ring is a hint: missing one costs time, never correctness.
Where the server does not let us listen, the listener rings every second instead, and asks once a minute whether it may by now.

One ring at a time is enough, so a mailbox for rings has room for one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import anyio

from redisaq.actors.actor import Actor
from redisaq.actors.ref import ActorRef
from redisaq.brokers.terms import Doorbell
from redisaq.consuming.contact import forever
from redisaq.errors import ActorStopped, ServerError


class Ring:
    """There is something to look at; what it is stands elsewhere."""


RING = Ring()


def ring(ref: ActorRef[Ring]) -> None:
    """Let the actor look again; one that has been rung and has not looked yet, or has stopped, is left alone."""
    with contextlib.suppress(anyio.WouldBlock, ActorStopped):
        ref.tell_nowait(RING)


LOOK_EVERY = 1.0  # seconds between two looks where nobody tells when to look
LOOKS = 60  # so many of them before it is tried again to listen


class SignalListener(Actor[None]):
    """See the module."""

    def __init__(
        self,
        listen: Callable[[], Awaitable[Doorbell]],
        look: Callable[[], None],
        refused: Callable[[str], None],
        *,
        name: str = "signal_listener",
    ) -> None:
        """Make one.

        Args:
            listen: opens the doorbell.
            look: whom it concerns.
            refused: is told why the server does not let us listen, each time.
            name: its name in the tree of actors.
        """
        super().__init__(name=name, capacity=1, restart=forever(first=0.1, longest=5.0, reset_after=10.0))
        self._listen = listen
        self._look = look
        self._refused = refused
        self._doorbell: Doorbell | None = None

    async def run(self) -> None:
        """Ring at each ring, and once when the listening begins: what changed before was not heard."""
        while True:
            await self.on_stop()
            try:
                self._doorbell = await self._listen()
                self._look()
                while True:
                    await self._doorbell.wait()
                    self._look()
            except ServerError as error:
                if not error.forbidden:
                    raise
                self._refused(error.text)
            for _ in range(LOOKS):
                self._look()
                await anyio.sleep(LOOK_EVERY)

    async def on_stop(self) -> None:
        """Stop listening."""
        if self._doorbell is not None:
            doorbell, self._doorbell = self._doorbell, None
            await doorbell.close()
