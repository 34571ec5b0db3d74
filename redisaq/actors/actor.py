"""The base class of every actor: one task, one bounded mailbox, and methods for its start, stop and failure.

An actor handles the messages of its mailbox and sends messages to other actors' refs. It runs once a `Supervisor` starts it. Each
`on_start` that completed is followed by one `on_stop`, also before a restart; both run in the actor's own task.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from redisaq.actors.mailbox import Mailbox
from redisaq.actors.ref import ActorRef
from redisaq.actors.restart import RestartPolicy
from redisaq.actors.tree import Node, check_name, snake_case
from redisaq.errors import SettingsError

M = TypeVar("M")


class Nested(Protocol):
    """A supervisor that runs inside an actor."""

    def tree(self) -> Node:
        """Return its tree as it is now."""
        ...


class Actor(Generic[M]):
    """An object that handles messages of type M, one at a time.

    Override `receive`, or `run` for another loop; override `on_start`, `on_stop` and `on_lost` as needed. A subclass that has its own
    `__init__` calls this one.

    Args:
        name: unique among the actors of its supervisor; default: the class's name in snake case, with a number if that is taken.
        capacity: the most messages that wait in its mailbox, 1 or more.
        restart: which failures it survives; default: none.

    Attributes:
        name: see above; final once it has been started.
        restart: see above.
        mailbox: where it takes its messages from.
        ref: its address for others; you may pass it on before the actor is started.
        nested: the supervisors that run inside it, see `Supervisor(parent=...)`.
    """

    def __init__(self, *, name: str | None = None, capacity: int = 64, restart: RestartPolicy | None = None) -> None:
        """Make an actor that is not started yet."""
        self.named = name is not None
        self.name = check_name(name) if name is not None else snake_case(type(self).__name__)
        if restart is not None and not isinstance(restart, RestartPolicy):  # pyright: ignore[reportUnnecessaryIsInstance] -- callers without types
            raise SettingsError(f"restart: a RestartPolicy, not {restart!r}")
        self.restart = restart
        self.mailbox: Mailbox[M] = Mailbox(capacity)
        self.mailbox.path = self.name
        self.ref: ActorRef[M] = ActorRef(self.mailbox)
        self.nested: list[Nested] = []

    def __repr__(self) -> str:
        """Show its class and its path."""
        return f"<{type(self).__name__} {self.path}>"

    @property
    def path(self) -> str:
        """The names from the root supervisor down to this actor, with slashes between; its name alone before it is started."""
        return self.mailbox.path

    async def run(self) -> None:
        """Do the actor's work: by default, `receive` each message until the mailbox is closed.

        When it returns, the actor is finished. When it raises, the restart policy decides. If you override it and read `self.mailbox`, the
        end of the mailbox (anyio.EndOfStream, or the end of `async for`) tells you to finish. If you do not read it, the supervisor cancels
        the actor to stop it.
        """
        async for message in self.mailbox:
            await self.receive(message)

    async def receive(self, message: M) -> None:
        """Handle one message."""
        raise NotImplementedError(f"{type(self).__name__} overrides neither receive nor run; {type(message).__name__} cannot be handled")

    async def on_start(self) -> None:
        """Set up; runs before `run`, and again at each restart. A failure here is a failure of the actor."""

    async def on_stop(self) -> None:
        """Clean up what `on_start` made; runs after `run`, however that ended.

        It is shielded from cancellation for at most the supervisor's `stop_timeout`. It also runs before a restart, so it must not end
        anything that a restart needs. When the actor ends for good, its mailbox is already closed, and you can still take what is left in
        it (`self.mailbox.receive_nowait`).
        """

    async def on_lost(self, message: M, error: BaseException) -> None:
        """Handle the loss of `message`, which was in hand when the actor failed.

        `error` is the actor's failure, or an ActorStopped if a sibling's failure took this actor down. It is shielded like `on_stop`, and
        runs before it. An actor that is stopped or cancelled has not failed: its own `finally` has to handle what is in hand.
        """


AnyActor = Actor[Any]
