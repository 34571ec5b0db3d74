"""How others reach an actor: tell it something, or ask it and wait for the answer.

In: messages. Out: answers. A ref stays the same when its actor restarts, and keeps nothing of a stopped actor alive but its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

from redisaq.actors.waiting import Reply

if TYPE_CHECKING:
    from redisaq.actors.mailbox import Mailbox

M_contra = TypeVar("M_contra", contravariant=True)
R = TypeVar("R")


class ActorRef(Generic[M_contra]):
    """The address of one actor. Made by the actor; `Supervisor.start` returns it."""

    def __init__(self, mailbox: Mailbox[Any]) -> None:
        """Take the mailbox that messages go to."""
        self._mailbox = mailbox

    def __repr__(self) -> str:
        """Name the actor."""
        return f"<ActorRef {self.path}>"

    @property
    def path(self) -> str:
        """The actor's place in the tree."""
        return self._mailbox.path

    @property
    def stopped(self) -> bool:
        """True once the actor accepts nothing more: it finished, failed, was stopped, or is being stopped."""
        return self._mailbox.closed

    async def tell(self, message: M_contra) -> None:
        """Put a message into the actor's mailbox, waiting for room, or for the actor to be started.

        When it is cancelled, the message may be in the mailbox or not. Nothing tells whether it is ever handled: use `ask` for that.

        Raises:
            ActorStopped: the actor has stopped or is stopping.
        """
        await self._mailbox.put(message)

    def tell_nowait(self, message: M_contra) -> None:
        """Put a message into the actor's mailbox.

        Raises:
            anyio.WouldBlock: it is full, or the actor has not been started.
            ActorStopped: the actor has stopped or is stopping.
        """
        self._mailbox.put_nowait(message)

    async def ask(self, make: Callable[[Reply[R]], M_contra], *, timeout: float | None) -> R:
        """Send the message that `make` builds around a reply, and wait for the answer.

        The actor answers with `message.reply.set(value)` or `message.reply.fail(error)`; it need not do so in the call that received the
        message. The deadline travels along as `message.reply.deadline`.

        Args:
            make: builds a new message; a class whose only argument is the reply will do.
            timeout: seconds to wait; None for as long as the caller's own cancel scopes let it.

        Returns:
            What the actor answered.

        Raises:
            TimeoutError: no answer came in time; the actor may still handle the message.
            ActorStopped: the actor stopped, or restarted with the message in hand.
            RuntimeError: the actor asks itself.
            Exception: the actor failed with this message in hand, or answered with an error: that error. Its restart policy sees it as
                well.

        When it is cancelled, the message may be handled or not, and the answer is dropped.
        """
        mailbox = self._mailbox
        if mailbox.owner is not None and mailbox.owner == anyio.get_current_task().id:
            raise RuntimeError(f"actor {self.path} asks itself: it would wait for its own answer for ever; call the method instead")
        deadline = anyio.current_effective_deadline()
        if timeout is not None:
            deadline = min(deadline, anyio.current_time() + timeout)
        reply: Reply[R] = Reply(deadline)
        message = make(reply)
        mailbox.expect(message, reply)
        try:
            with anyio.move_on_after(timeout):
                await mailbox.put(message)
                await reply.wait()
        finally:
            reply.abandon()
            mailbox.forget(message)
        if not reply.answered:
            raise TimeoutError(f"actor {self.path} did not answer within {timeout} s")
        return reply.result()
