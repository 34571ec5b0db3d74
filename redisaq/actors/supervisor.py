"""Run actors, start failed ones anew as their policies allow, and end all of them in order.

In: actors. Out: their refs; what nobody survives, as the error of the block. Always: no actor outlives the block, and each one's on_stop
    has run, however the
block ends. What must be awaited on the way out runs in tasks of the supervisor's own, never in the task that holds the block: no shield of
anyio keeps a native `Task.cancel()` of asyncio away from that one.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from redisaq.actors.actor import Actor, AnyActor
from redisaq.actors.crew import Crew, Strategy
from redisaq.actors.life import Life
from redisaq.actors.ref import ActorRef
from redisaq.actors.tree import Node, Status, check_name, unique_name
from redisaq.errors import ActorStopped, SettingsError

M = TypeVar("M")


class Supervisor:
    """Holds actors in a block: `async with Supervisor("one_for_one") as supervisor`.

    Leaving the block stops the actors in reverse order, without waiting for them to end by themselves: each one's mailbox is closed, what
    is in it may be finished for `stop_timeout` seconds, then the actor is cancelled and its `on_stop` runs. When the block is cancelled or
    raises, the same happens without time for what is in the mailboxes. When an actor fails and its policy does not forgive that, the block
    is cancelled, the other actors are, and the error leaves the block: as it is if it is the only one, else in an exception group.

    Args:
        strategy: who is started anew when an actor is: "one_for_one" that one only, "rest_for_one" those too that were started after it,
            "one_for_all" all.
        name: its name in paths.
        stop_timeout: seconds that an actor may take to empty its mailbox when it is stopped, and that each `on_stop` and `on_lost` may
            take.
        parent: the actor in whose `run` the block is: it stands below that one in paths and in `tree()`.
    """

    def __init__(
        self, strategy: Strategy = "one_for_one", *, name: str = "supervisor", stop_timeout: float = 10.0, parent: AnyActor | None = None
    ) -> None:
        """Make a supervisor that runs nothing yet."""
        self.name = check_name(name)
        self._parent = parent
        self._crew = Crew(strategy, stop_timeout, self._fail)
        self._status: Status = "new"
        self._group: TaskGroup  # made when the block begins
        self._leave = anyio.Event()
        self._errors: list[BaseException] = []

    @property
    def path(self) -> str:
        """The names from the root down to this supervisor, with slashes between."""
        return self.name if self._parent is None else f"{self._parent.path}/{self.name}"

    async def start(self, actor: Actor[M]) -> ActorRef[M]:
        """Start an actor, as the last one; return its ref once its `on_start` has completed.

        Where that fails, the actor's policy decides whether it is tried again. Cancelling this cancels the actor.

        Raises:
            ActorStopped: the supervisor is being stopped, or the actor was stopped before it came up.
            RestartsExceeded: `on_start` failed more often than the policy allows.
            RuntimeError: the supervisor's block has not begun, or is over; or the actor has been started before.
            SettingsError: another actor here has that name.
            Exception: what `on_start` raised and the policy does not name. The supervisor goes on without the actor.
        """
        if self._status == "stopping":
            await checkpoint()  # whoever is being cancelled together with the supervisor learns that, and not this
            raise ActorStopped(self.path, "is being stopped and starts no more actors")
        if self._status != "running":
            raise RuntimeError(f"supervisor {self.path} is not running: actors are started inside its block")
        life = self._take_in(actor)
        self._group.start_soon(life.live, name=life.actor.path)
        try:
            await life.settled.wait()
        except BaseException:
            life.cancel()
            raise
        finally:
            life.start_awaited = False
        if life.start_errors:
            await life.ended.wait()
            self._crew.forget(life)
            raise_errors(life.start_errors)
        if not life.came_up:
            raise ActorStopped(actor.path, "was stopped before it came up")
        return actor.ref

    def _take_in(self, actor: AnyActor) -> Life:
        mailbox = actor.mailbox
        if mailbox.opened:
            raise RuntimeError(f"actor {actor.path} has been started before: an actor lives once, make a new one")
        taken = self._crew.names
        if not actor.named:
            actor.name = unique_name(actor.name, taken)
        elif actor.name in taken:
            raise SettingsError(f"supervisor {self.path} already has an actor named {actor.name}")
        mailbox.path = f"{self.path}/{actor.name}"
        mailbox.open()
        life = Life(actor, self._crew)
        self._crew.add(life)
        return life

    async def stop(self, target: ActorRef[Any] | AnyActor, *, timeout: float | None = None) -> int:
        """Stop one actor: close its mailbox, let it finish what is in there, cancel it, run its `on_stop`.

        An actor that is stopped already, or was never started here, is left alone. Cancelling this cancels the actor at once.

        Args:
            target: the actor or its ref.
            timeout: seconds for what is in the mailbox; default: the supervisor's `stop_timeout`.

        Returns:
            How many messages were left in the mailbox.

        Raises:
            RuntimeError: the actor stops itself; let `run` return instead.
        """
        ref = target.ref if isinstance(target, Actor) else target
        life = self._crew.of(ref)
        if life is None:
            return 0
        if life.actor.mailbox.owner == anyio.get_current_task().id:
            raise RuntimeError(f"actor {ref.path} would wait for its own end for ever; let its run return instead")
        await life.stop(self._crew.stop_timeout if timeout is None else timeout)
        return life.actor.mailbox.leftover

    def tree(self) -> Node:
        """Return what the supervisor and everything below it looks like now: at once, and frozen."""
        return Node(self.name, self.path, self._status, children=tuple(life.node() for life in self._crew.lives))

    # -- the block ----------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Begin the block."""
        if self._status != "new":
            raise RuntimeError("a supervisor's block can be entered once")
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._status = "running"
        if self._parent is not None:
            self._parent.nested.append(self)
        self._group.start_soon(self._keep, name=self.path)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool | None:
        """End the block: stop the actors, raise what they failed of."""
        self._begin_to_stop()
        if error is None:
            self._leave.set()
        caught: bool | None = None
        interruption: BaseException | None = None
        found: list[BaseException] = []
        try:
            caught = await self._group.__aexit__(kind, error, trace)
        except anyio.get_cancelled_exc_class() as raised:
            interruption = raised
        except BaseExceptionGroup as raised:
            found = [one for one in raised.exceptions if not isinstance(one, anyio.get_cancelled_exc_class())]
            interruption = raised
        finally:
            self._status = "failed" if self._errors else "stopped"
            if self._parent is not None:
                self._parent.nested.remove(self)
        errors = unique(found + self._errors)
        if not errors and interruption is None:
            errors = self._crew.interruptions
        if len(errors) == 1 and errors[0] is error:
            return False
        if errors:
            raise_errors(errors)
        if interruption is None:
            return caught
        if interruption is error:
            return False
        raise interruption

    def _begin_to_stop(self) -> None:
        self._crew.leaving = True
        if self._status == "running":
            self._status = "stopping"

    def _fail(self, errors: list[BaseException]) -> None:
        self._begin_to_stop()
        self._errors += errors
        self._group.cancel_scope.cancel()

    async def _keep(self) -> None:
        """Wait for the end of the block, and end the actors: last first, one after the other."""
        crew = self._crew
        try:
            await self._leave.wait()
            while last := crew.last:
                await last.stop(crew.stop_timeout)
        finally:
            self._begin_to_stop()
            try:
                with anyio.CancelScope(shield=True):
                    for life in reversed(crew.living):
                        life.cancel()
                        with anyio.move_on_after(2 * crew.stop_timeout):
                            await life.ended.wait()
            finally:
                for life in crew.living:
                    life.cancel()


def unique(errors: list[BaseException]) -> list[BaseException]:
    """Return the errors, each once: an asker in the block and the supervisor may hold the same one."""
    return list({id(error): error for error in errors}.values())


def raise_errors(errors: list[BaseException]) -> None:
    """Raise the only error as it is, several as a group; the context they came with is kept."""
    error = errors[0] if len(errors) == 1 else BaseExceptionGroup("several actors failed", errors)
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        del error, errors
