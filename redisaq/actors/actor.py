"""The base of every actor: one task, one bounded mailbox, and what to do when it starts, stops or fails.

In: messages of its mailbox. Out: whatever it tells other actors' refs. It runs once a `Supervisor` starts it.
Always: each `on_start` that completed is followed by one `on_stop`, before a restart too; both run in the actor's own task.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from redisaq.actors.mailbox import Mailbox
from redisaq.actors.ref import ActorRef
from redisaq.actors.restart import RestartPolicy
from redisaq.actors.tree import Node, check_name, snake_case

M = TypeVar("M")


class Nested(Protocol):
    """A supervisor that runs inside an actor."""

    def tree(self) -> Node:
        """Return what it looks like now."""
        ...


class Actor(Generic[M]):
    """Something that takes messages of type M one at a time.

    Override `receive`, or `run` for another loop; `on_start`, `on_stop` and `on_lost` as needed. A subclass that has its own `__init__`
    calls this one.

    Args:
        name: unique among the actors of its supervisor; default: the class's name in snake case, with a number if that is taken.
        capacity: most messages that wait in its mailbox, 1 or more.
        restart: which failures it survives; default: none.

    Attributes:
        name: see above; final once it has been started.
        restart: see above.
        mailbox: what it reads.
        ref: what others reach it by; it can be handed out before the actor is started.
        nested: the supervisors that run inside it, see `Supervisor(parent=...)`.
    """

    def __init__(self, *, name: str | None = None, capacity: int = 64, restart: RestartPolicy | None = None) -> None:
        """Make an actor that is not started yet."""
        self.named = name is not None
        self.name = check_name(name) if name is not None else snake_case(type(self).__name__)
        self.restart = restart
        self.mailbox: Mailbox[M] = Mailbox(capacity)
        self.mailbox.path = self.name
        self.ref: ActorRef[M] = ActorRef(self.mailbox)
        self.nested: list[Nested] = []

    def __repr__(self) -> str:
        """Name its class and its place."""
        return f"<{type(self).__name__} {self.path}>"

    @property
    def path(self) -> str:
        """The names from the root supervisor down to this actor, with slashes between; its name alone before it is started."""
        return self.mailbox.path

    async def run(self) -> None:
        """Do the actor's work: by default, `receive` each message until the mailbox is closed.

        When it returns, the actor is finished. When it raises, the restart policy decides. An override that reads `self.mailbox` learns
        from its end (anyio.EndOfStream, or the end of `async for`) that it should finish; one that does not is cancelled when the
        supervisor stops it.
        """
        async for message in self.mailbox:
            await self.receive(message)

    async def receive(self, message: M) -> None:
        """Handle one message."""
        raise NotImplementedError(f"{type(self).__name__} overrides neither receive nor run; {type(message).__name__} cannot be handled")

    async def on_start(self) -> None:
        """Make ready; runs before `run`, and again at each restart. A failure here is a failure of the actor."""

    async def on_stop(self) -> None:
        """Clean up what `on_start` made; runs after `run`, however that ended.

        It is shielded from cancellation for at most the supervisor's `stop_timeout`, and it must bring nothing to an end that a restart
        needs: it runs before a restart, too. When the actor ends for good, its mailbox is closed by then, and what is left in it can still
        be taken (`self.mailbox.receive_nowait`).
        """

    async def on_lost(self, message: M, error: BaseException) -> None:
        """Learn that `message` was in hand when the actor failed.

        `error` is what it failed with, or an ActorStopped if it was a sibling's failure that took this actor down. Shielded like `on_stop`,
        and runs before it. An actor that is stopped or cancelled has not failed: its own `finally` sees to what is in hand.
        """


AnyActor = Actor[Any]
