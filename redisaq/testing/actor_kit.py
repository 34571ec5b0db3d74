"""Drive an actor in a test, and see what its supervisor decides about it.

Input: an actor, and the actors that it works with. Output: a history of starts, failures, lost messages and stops, each with its time; the
restarts with their pauses; and the failure that left the supervisor, if any. The actor runs under a real Supervisor and receives messages
through its own ref. The kit only listens at the methods that a supervisor calls.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

import anyio
import msgspec
from anyio.abc import TaskGroup, TaskStatus

from redisaq.actors import Actor, ActorRef, Node, Reply, Supervisor
from redisaq.actors.supervisor import Strategy
from redisaq.errors import SettingsError

M = TypeVar("M")
R = TypeVar("R")


class Step(msgspec.Struct, frozen=True):
    """Something that happened to an actor.

    Attributes:
        time: seconds since the kit's block began.
        actor: the actor's name.
        what: "starts" (on_start begins), "up" (on_start has completed), "fails", "lost" (on_lost was called), "stops" (on_stop was called).
        error: the exception that the actor failed with, or the one that on_lost received.
        message: the message that on_lost received.
    """

    time: float
    actor: str
    what: Literal["starts", "up", "fails", "lost", "stops"]
    error: BaseException | None = None
    message: Any = None


class Restart(msgspec.Struct, frozen=True):
    """A decision to restart an actor.

    Attributes:
        actor: the actor's name.
        time: when it started again, in seconds since the kit's block began.
        rest: seconds between its end and its new start.
        error: the exception that it failed with; None if it was stopped because a sibling had failed.
    """

    actor: str
    time: float
    rest: float
    error: BaseException | None


class Probe(Actor[Any]):
    """Stand in for an actor that the tested actor talks to, and keep the messages that it receives.

    Args:
        answer: called with each message; it may answer the message: `lambda message: message.reply.set(7)`.
        name: the probe's name.

    Attributes:
        messages: the messages received, in order.
    """

    def __init__(self, answer: Callable[[Any], object] | None = None, *, name: str | None = None) -> None:
        """Create a probe that has received nothing."""
        super().__init__(name=name)
        self.messages: list[Any] = []
        self._answer = answer

    async def receive(self, message: Any) -> None:  # noqa: ANN401 -- any message
        """Keep the message."""
        self.messages.append(message)
        if self._answer is not None:
            self._answer(message)


class ActorKit(Generic[M]):
    """Test an actor: `async with ActorKit(actor) as kit: await kit.tell(...); await kit.idle()`, in virtual time or not.

    A failure that leaves the supervisor does not cancel the block. The kit stores it in `escalated`, and raises it at the end of the block
    unless you have read that attribute. When the block ends, the actors are stopped in order.

    Args:
        actor: the actor to test; it must not have been started.
        before: actors to start before it, such as a Probe that it talks to.
        after: actors to start after it.
        strategy: the supervisor's strategy.
        stop_timeout: the supervisor's stop timeout, in seconds.

    Raises:
        SettingsError: one of them is not an Actor.

    Attributes:
        actor: the actor under test.
        history: what has happened, in order.
    """

    def __init__(
        self,
        actor: Actor[M],
        *,
        before: Sequence[Actor[Any]] = (),
        after: Sequence[Actor[Any]] = (),
        strategy: Strategy = "one_for_one",
        stop_timeout: float = 10.0,
    ) -> None:
        """Create the kit; the actors start when its block begins."""
        for one in (*before, actor, *after):
            if not isinstance(one, Actor):  # pyright: ignore[reportUnnecessaryIsInstance] -- callers without types
                raise SettingsError(f"not an Actor: {one!r}")
        self.actor = actor
        self.history: list[Step] = []
        self._actors: tuple[Actor[Any], ...] = (*before, actor, *after)
        self._supervisor = Supervisor(strategy, stop_timeout=stop_timeout)
        self._group: TaskGroup
        self._began = 0.0
        self._leave = anyio.Event()
        self._change = anyio.Event()
        self._receiving: set[str] = set()
        self._down: set[str] = set()
        self._ended = False
        self._error: Exception | None = None
        self._looked = False

    # -- what a test does --------------------------------------------------------------------------------------------------------------

    @property
    def ref(self) -> ActorRef[M]:
        """The reference through which others reach the actor."""
        return self.actor.ref

    async def tell(self, message: M) -> None:
        """Send the actor a message; see `ActorRef.tell`."""
        await self.actor.ref.tell(message)

    async def ask(self, make: Callable[[Reply[R]], M], *, timeout: float | None = 60.0) -> R:
        """Ask the actor, and wait for its answer; see `ActorRef.ask`."""
        return await self.actor.ref.ask(make, timeout=timeout)

    async def idle(self, timeout: float = 86_400.0) -> None:
        """Wait until every actor is waiting for a message with none left, or has ended for good. Pauses before restarts are waited for.

        Args:
            timeout: seconds; in virtual time they cost nothing.

        Raises:
            TimeoutError: an actor was still at work, or reads its mailbox in a way that never waits. The error names it.
        """
        with anyio.move_on_after(timeout) as scope:
            while not self._ended and not all(self._is_idle(actor) for actor in self._actors):
                self._change = anyio.Event()
                await self._change.wait()
        if scope.cancelled_caught:
            busy = [f"{actor.name} ({actor.mailbox.depth} in its mailbox)" for actor in self._actors if not self._is_idle(actor)]
            raise TimeoutError(f"after {timeout:g} s still at work: {', '.join(busy)}")

    def tree(self) -> Node:
        """Return the present state of the supervisor and its actors."""
        return self._supervisor.tree()

    @property
    def node(self) -> Node:
        """The present state of the actor."""
        return next(node for node in self.tree().children if node.name == self.actor.name)

    @property
    def restarts(self) -> list[Restart]:
        """The restarts of all actors so far, in order."""
        found: list[Restart] = []
        ends: dict[str, Step] = {}
        for step in self.history:
            if step.what == "starts" and (end := ends.pop(step.actor, None)) is not None:
                found.append(Restart(step.actor, step.time, step.time - end.time, end.error))
            elif step.what == "fails" or (step.what == "stops" and step.actor not in ends):
                ends[step.actor] = step
        return found

    @property
    def lost(self) -> list[Any]:
        """The messages that `on_lost` received, in order."""
        return [step.message for step in self.history if step.what == "lost"]

    @property
    def escalated(self) -> Exception | None:
        """The failure that left the supervisor; None if there is none so far. Once read, it is not raised at the end of the block."""
        self._looked = True
        return self._error

    # -- the block ---------------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start the actors."""
        self._began = anyio.current_time()
        for actor in self._actors:
            self._listen(actor)
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        await self._group.start(self._supervise)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool | None:
        """Stop the actors. Raise the failure that left the supervisor, unless it has been read."""
        self._leave.set()
        if error is not None:
            self._group.cancel_scope.cancel()
        try:
            swallowed = await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            if error is not None and group.exceptions == (error,):  # the body's own error, unchanged
                return False
            raise
        finally:
            if error is not None and self._error is not None and self._error is not error:  # an ActorStopped would not say why
                error.add_note(f"what left the supervisor before: {type(self._error).__name__}: {self._error}")
        if error is None and self._error is not None and not self._looked:
            raise self._error
        return swallowed

    async def _supervise(self, *, task_status: TaskStatus[None]) -> None:
        """Run the supervisor's block in a task of its own: a failure cancels that task, and not the test."""
        up = False
        try:
            async with self._supervisor:
                for actor in self._actors:
                    await self._supervisor.start(actor)
                task_status.started()
                up = True
                await self._leave.wait()
        except Exception as error:  # noqa: BLE001 -- a failure that leaves the supervisor is kept, or raised at the end
            self._error = error
        self._ended = True
        self._change.set()
        if not up:
            task_status.started()

    # -- listening ---------------------------------------------------------------------------------------------------------------------

    def _note(self, actor: Actor[Any], what: Literal["starts", "up", "fails", "lost", "stops"], **more: Any) -> None:
        self.history.append(Step(anyio.current_time() - self._began, actor.name, what, **more))

    def _is_idle(self, actor: Actor[Any]) -> bool:
        if actor.name in self._down:
            return True
        return actor.name in self._receiving and not actor.mailbox.depth

    def _listen(self, actor: Actor[Any]) -> None:
        """Wrap each method that a supervisor calls, and the method that waits for a message, with a listener."""
        on_start, run, on_lost, on_stop, receive = actor.on_start, actor.run, actor.on_lost, actor.on_stop, actor.mailbox.receive

        async def heard_start() -> None:
            self._note(actor, "starts")
            await self._failing(actor, on_start)
            self._note(actor, "up")

        async def heard_run() -> None:
            await self._failing(actor, run)

        async def heard_loss(message: object, error: BaseException) -> None:
            self._note(actor, "lost", error=error, message=message)
            await on_lost(message, error)

        async def heard_stop() -> None:
            failed = (
                next(step.what for step in reversed(self.history) if step.actor == actor.name and step.what in ("up", "fails")) == "fails"
            )
            self._note(actor, "stops")
            try:
                await on_stop()
            finally:
                if actor.ref.stopped and not failed:  # if it has failed for good, the supervisor is about to end
                    self._down.add(actor.name)
                    self._change.set()

        async def heard_receive() -> object:
            self._receiving.add(actor.name)
            self._change.set()
            try:
                return await receive()
            finally:
                self._receiving.discard(actor.name)

        heard = {"on_start": heard_start, "run": heard_run, "on_lost": heard_loss, "on_stop": heard_stop}
        for name, listener in heard.items():
            setattr(actor, name, listener)
        setattr(actor.mailbox, "receive", heard_receive)  # noqa: B010 -- on this one alone

    async def _failing(self, actor: Actor[Any], step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except Exception as error:
            if not (isinstance(error, anyio.EndOfStream) and actor.ref.stopped):  # this error tells an actor to end
                self._note(actor, "fails", error=error)
            raise
