"""Rings: the smallest message, "look again"; and the actor that receives the server's notifications and passes them on.

Input: notifications from a group's doorbell, or from one partition's. Output: a call for each. A ring is a hint: missing one costs time,
never correctness. If the server does not permit listening, the listener rings every second instead, and tries once a minute whether it may
listen by now.

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
    """There is something to look at; the ring does not say what."""


RING = Ring()


def ring(ref: ActorRef[Ring]) -> None:
    """Make the actor look again. Do nothing if it has an unread ring, or has stopped."""
    with contextlib.suppress(anyio.WouldBlock, ActorStopped):
        ref.tell_nowait(RING)


LOOK_EVERY = 1.0  # seconds between two looks without notifications
LOOKS = 60  # how many of them before it tries to listen again


class SignalListener(Actor[None]):
    """Listens to one doorbell."""

    def __init__(
        self,
        listen: Callable[[], Awaitable[Doorbell]],
        look: Callable[[], None],
        refused: Callable[[str], None],
        *,
        name: str = "signal_listener",
    ) -> None:
        """Begin without listening.

        Args:
            listen: opens the doorbell.
            look: called at each ring.
            refused: called with the reason each time the server does not permit listening.
            name: its name in the tree of actors.
        """
        super().__init__(name=name, restart=forever(first=0.1, longest=5.0, reset_after=10.0))
        self._listen = listen
        self._look = look
        self._refused = refused
        self._doorbell: Doorbell | None = None

    async def run(self) -> None:
        """Call `look` at each ring, and once when listening begins, since changes before that were not heard."""
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
