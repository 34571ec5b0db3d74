"""The smallest message: look again. One at a time is enough, so a mailbox for rings has room for one."""

from __future__ import annotations

import anyio

from redisaq.actors.ref import ActorRef


class Ring:
    """There is something to look at; what it is stands elsewhere."""


RING = Ring()


def ring(ref: ActorRef[Ring]) -> None:
    """Let the actor look again; if it has been rung and has not looked yet, that is enough."""
    try:
        ref.tell_nowait(RING)
    except anyio.WouldBlock:
        return
