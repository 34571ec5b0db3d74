"""The smallest message: look again. One at a time is enough, so a mailbox for rings has room for one."""

from __future__ import annotations

import contextlib

import anyio

from redisaq.actors.ref import ActorRef
from redisaq.errors import ActorStopped


class Ring:
    """There is something to look at; what it is stands elsewhere."""


RING = Ring()


def ring(ref: ActorRef[Ring]) -> None:
    """Let the actor look again; one that has been rung and has not looked yet, or has stopped, is left alone."""
    with contextlib.suppress(anyio.WouldBlock, ActorStopped):
        ref.tell_nowait(RING)
