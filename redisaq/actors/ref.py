"""The address of an actor: send it a message, or ask it and wait for the answer.

A ref stays the same when its actor restarts. Of a stopped actor it keeps only the name alive.
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
        """Make a ref.

        Args:
            mailbox: where its messages go.
        """
        self._mailbox = mailbox

    def __repr__(self) -> str:
        """Show the actor's path."""
        return f"<ActorRef {self.path}>"

    @property
    def path(self) -> str:
        """The actor's place in the tree."""
        return self._mailbox.path

    @property
    def stopped(self) -> bool:
        """True once the actor accepts no more messages: it finished, failed, was stopped, or is being stopped."""
        return self._mailbox.closed

    async def tell(self, message: M_contra) -> None:
        """Put a message into the actor's mailbox; wait for room, or until the actor is started.

        If cancelled, the message may or may not be in the mailbox. You do not learn whether it is ever handled: use `ask` for that.

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

        The actor answers with `message.reply.set(value)` or `message.reply.fail(error)`. It need not do so in the call that received the
        message. The message carries the deadline as `message.reply.deadline`.

        Args:
            make: builds a new message; a class whose only argument is the reply will do.
            timeout: seconds to wait; None to wait until the caller's own cancel scopes end it.

        Returns:
            The actor's answer.

        Raises:
            TimeoutError: no answer came in time; the actor may still handle the message.
            ActorStopped: the actor stopped, or restarted with the message in hand.
            RuntimeError: the actor asks itself.
            Exception: the actor failed with this message in hand, or answered with an error: that error. Its restart policy gets a failure
                as well.

        If cancelled, the message may or may not be handled, and the answer is dropped.
        """
        mailbox = self._mailbox
        if mailbox.owner is not None and mailbox.owner == anyio.get_current_task().id:
            raise RuntimeError(f"actor {self.path} asks itself: it would wait for its own answer forever; call the method instead")
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
