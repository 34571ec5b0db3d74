"""Runs actors, starts failed ones again as their policies allow, and ends all of them in order.

In: actors. Out: their refs; what nobody survives, as the error of the block. Three classes that are one object:

- `Life` is one actor's only task, from its start over its restarts to its end. One incarnation is on_start, run, then on_lost for what was
  in hand if it failed, then on_stop. Always: whatever happens, nobody who asked this actor is left waiting, and the end is announced. The
  actor's code runs in a scope that is shielded from the supervisor's task group, so that siblings end one after the other and not all at
  once; whoever ends it cancels that scope.
- `Crew` is the actors of one supervisor, in the order they were started, and what the failure of one means for the others. The strategies,
  and their names, are those of Erlang/OTP: "one_for_one" lets the others be; "rest_for_one" starts those again that were started after the
  one that failed, since they may build on it; "one_for_all" starts all again. Always: who is taken down ends in reverse order, one after
  the other; who comes up again does so in order.
- `Supervisor` is the block around them. Always: no actor outlives it, and each one's on_stop has run, however the block ends. What must be
  awaited on the way out runs in tasks of the supervisor's own, never in the task that holds the block: no shield of anyio keeps a native
  `Task.cancel()` of asyncio away from that one.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Container
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, get_args

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from redisaq.actors.actor import Actor, AnyActor
from redisaq.actors.ref import ActorRef
from redisaq.actors.restart import RestartRecord, consists_of
from redisaq.actors.tree import Node, Status, check_name, unique_name
from redisaq.actors.waiting import Signal
from redisaq.describing import shown
from redisaq.environment import current_environment
from redisaq.errors import ActorStopped, RestartsExceeded, SettingsError

M = TypeVar("M")

logger = logging.getLogger("redisaq.actors")

Strategy = Literal["one_for_one", "rest_for_one", "one_for_all"]

REMEMBERED = 16
"""How many of those that have ended are kept for `tree()`."""

STANDSTILL = 1.0
"""A deadline that fires this many seconds late means that the process or its event loop was stalled."""


class Life:
    """One actor's task.

    Attributes:
        came_up: an on_start completed at least once.
        up: it is running now.
        active: from the beginning of on_start to the end of on_stop.
        start_awaited: somebody waits in `start`: a failure that is not survived before it came up is theirs.
        settled: set when it came up for the first time, or ended before that.
        ended: set when its task is over.
    """

    def __init__(self, actor: Actor[Any], crew: Crew) -> None:
        """Take an actor that has its path."""
        self.actor = actor
        self.status: Status = "starting"
        self.came_up = False
        self.up = False
        self.active = False
        self.start_awaited = True
        self.start_errors: list[BaseException] = []
        self.settled = anyio.Event()
        self.ended = anyio.Event()
        self._crew = crew
        self._mailbox = actor.mailbox
        self._record = None if actor.restart is None else RestartRecord(actor.restart)
        self._restarts = 0
        self._last_error: BaseException | None = None
        self._scope: anyio.CancelScope | None = None
        self._cancelled = False
        self._stopping = False
        self._finished = False
        self._failure: BaseException | None = None
        self._taken_down: BaseException | None = None
        self._up_since: float | None = None
        self._interruption: BaseException | None = None

    # -- what others may do -----------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """True until its task has ended."""
        return not self.ended.is_set()

    @property
    def cooling(self) -> bool:
        """True from a failure that is survived to the time when it may come up again."""
        return self._failure is not None

    def cancel(self) -> None:
        """End it at once: no further restart; on_stop still runs."""
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    def take_down(self, cause: BaseException) -> None:
        """Let it start anew because a sibling failed."""
        if self.active and self._scope is not None and not self._cancelled:
            self._taken_down = cause
            self._scope.cancel()

    async def stop(self, timeout: float) -> None:
        """Close its mailbox, let it finish what is in there for at most `timeout` seconds, cancel it, and wait for its end.

        Until then it survives failures as ever, if something is left in the mailbox.

        If this is cancelled, so is the actor.
        """
        self._stopping = True
        if self.alive:
            self.status = "stopping"
        self._mailbox.close_sending()
        try:
            if self.came_up and self._mailbox.in_use:
                with anyio.move_on_after(timeout):
                    await self.ended.wait()
        finally:
            self.cancel()
        await self.ended.wait()

    def node(self) -> Node:
        """Return what it looks like now."""
        mailbox = self._mailbox
        return Node(
            name=self.actor.name,
            path=mailbox.path,
            status=self.status,
            depth=mailbox.depth,
            capacity=mailbox.capacity,
            handled=mailbox.handled,
            restarts=self._restarts,
            last_error=self._last_error,
            busy_since=mailbox.busy_since,
            children=tuple(nested.tree() for nested in self.actor.nested),
        )

    # -- its task -----------------------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Run the actor until it ends. Its errors go to the supervisor; only a cancellation is raised."""
        try:
            await checkpoint()  # nothing begins in a supervisor that has been cancelled
            self._mailbox.owner = anyio.get_current_task().id
            rest: float | None = 0.0
            while rest is not None:
                await self._rest(rest)
                rest = None if self._cancelled else await self._incarnation()
        finally:
            self._end()

    async def _rest(self, seconds: float) -> None:
        """Between two incarnations: take down who must go down, rest, wait for those that come first."""
        with self._new_scope():
            if self._failure is not None:
                try:
                    if self.came_up:
                        await self._crew.clear_the_way(self, self._failure)
                    await anyio.sleep(seconds)
                finally:
                    self._failure = None
                    self._crew.changed()
            await self._crew.await_turn(self)

    async def _incarnation(self) -> float | None:
        """Run the actor once; return how long to rest before it runs again, None if it does not."""
        self.active, self._taken_down = True, None
        try:
            errors = await self._attempt(self._start_and_run, self._new_scope())
            started, self.up = self._up_since is not None, False
            errors += await self._see_to_hand(errors)
            rest, fatal = self._judge(errors)
            # Told before the clean-up, so that the others need not wait for that; and before senders learn that the mailbox is closed: what
            # they should be interrupted by is the failure.
            self._report(fatal)
            if rest is None:
                self._mailbox.close_sending()
            if started and await self._clean_up():
                rest = None
            if self._interruption is not None:
                self.status = "failed"
                self._crew.interrupted(self.actor.path, self._interruption)
                raise self._interruption
            if rest is not None:
                if not self._stopping:
                    self.status = "restarting"
                self._restarts += 1
                self._mailbox.fail_taken("restarted")
            return rest
        finally:
            self.active = self.up = False
            self._up_since = None
            self._crew.changed()

    async def _start_and_run(self) -> None:
        await self.actor.on_start()
        self._up_since = anyio.current_time()
        self.came_up = self.up = True
        if not self._stopping:
            self.status = "running"
        self.settled.set()
        self._crew.changed()
        await self.actor.run()
        self._finished = True

    async def _attempt(self, step: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> list[BaseException]:
        """Run one of the actor's methods; return what it raised, if anything."""
        try:
            with scope:
                await step()
        except GeneratorExit:
            raise
        except anyio.get_cancelled_exc_class() as interruption:
            # Not from a scope of ours: on asyncio, the event loop is being taken down, or the actor awaited something that was cancelled.
            # It is raised again once on_stop has run.
            self._interruption = interruption
            self._cancelled = True
        except BaseException as error:  # noqa: BLE001 -- the one place where an actor's errors arrive; all are judged, none is dropped
            return [error]
        if scope.cancelled_caught and not math.isinf(scope.deadline):
            self._tell_cut_short(late=anyio.current_time() - scope.deadline)
        return []

    def _tell_cut_short(self, late: float) -> None:
        if late >= STANDSTILL:  # its time went by while nothing could run: that is no slow clean-up
            logger.info("actor %s: the process stood still during its clean-up, which was cancelled then", self.actor.path)
        else:
            logger.warning("actor %s: its clean-up took longer than %g s and was cancelled", self.actor.path, self._crew.stop_timeout)

    async def _see_to_hand(self, errors: list[BaseException]) -> list[BaseException]:
        """Tell what was in hand to on_lost and to whoever asked; drop errors that are none. Return what on_lost raised."""
        if errors and self._harmless(errors[0]):
            errors.clear()
        if self._finished:
            return []
        error = errors[0] if errors else None
        if error is None and self._taken_down is not None:
            error = ActorStopped(self.actor.path, "was restarted with its sibling")
            error.__cause__ = self._taken_down
        failures: list[BaseException] = []
        for message in self._mailbox.lose_hand(error):
            if error is not None:
                failures += await self._attempt(partial(self.actor.on_lost, message, error), self._bounded())
        return [failure for failure in failures if not self._harmless(failure)]

    async def _clean_up(self) -> bool:
        """Run on_stop; return True if it failed in a way that leaves the supervisor."""
        errors = [error for error in await self._attempt(self.actor.on_stop, self._bounded()) if not self._harmless(error)]
        for error in errors:
            self._last_error = error
            if self._forgives(error):
                logger.warning("actor %s: on_stop failed: %s", self.actor.path, shown(error))
        fatal = [error for error in errors if not self._forgives(error)]
        self._report(fatal)
        return bool(fatal)

    def _judge(self, errors: list[BaseException]) -> tuple[float | None, list[BaseException]]:
        """Return how long to rest before the next incarnation (None if there is none), and what must leave the supervisor."""
        taken_down, self._taken_down = self._taken_down is not None, None
        if errors:
            self._last_error = errors[0]
        if not all(self._forgives(error) for error in errors):
            return None, errors
        if self._cancelled or (self._stopping and not self._mailbox.depth):
            for error in errors:
                logger.warning("actor %s failed while it was being stopped: %s", self.actor.path, shown(error))
            return None, []
        if errors and self._record is not None:
            now = anyio.current_time()
            rest = self._record.grant(now, self._up_since, current_environment().random)
            if rest is None:
                exceeded = RestartsExceeded(self.actor.path, self._record.granted(now))
                exceeded.__cause__ = errors[-1]
                return None, [exceeded]
            logger.info("actor %s failed and runs again in %.3g s: %s", self.actor.path, rest, shown(errors[-1]))
            self._failure = errors[-1]
            return rest, []
        return (0.0 if taken_down and not self._finished else None), []

    def _forgives(self, error: BaseException) -> bool:
        policy = self.actor.restart
        return policy is not None and policy.names(error)

    def _harmless(self, error: BaseException) -> bool:
        """Return True for what only says that the actor, or one that it talked to, is being stopped."""
        if self._mailbox.closed and consists_of(error, anyio.EndOfStream):
            self._finished = True
            return True
        return self._crew.leaving and consists_of(error, ActorStopped)

    def _report(self, fatal: list[BaseException]) -> None:
        if not fatal:
            return
        self.status = "failed"
        if self.start_awaited and not self.came_up:
            self.start_errors += fatal
        else:
            self._crew.fail(fatal)

    def _new_scope(self) -> anyio.CancelScope:
        """Return the scope that `cancel` and `take_down` reach the actor by."""
        self._scope = anyio.CancelScope(shield=True)
        if self._cancelled:
            self._scope.cancel()
        return self._scope

    def _bounded(self) -> anyio.CancelScope:
        """Return a scope for what must not be cancelled, but not take for ever either."""
        return anyio.CancelScope(deadline=anyio.current_time() + self._crew.stop_timeout, shield=True)

    def _end(self) -> None:
        if self.status != "failed":
            self.status = "finished" if self._finished and not self._stopping else "stopped"
        self._mailbox.close()
        self.settled.set()
        self.ended.set()
        self._crew.ended(self)


class Crew:
    """The actors of one supervisor."""

    def __init__(self, strategy: Strategy, stop_timeout: float, fail: Callable[[list[BaseException]], None]) -> None:
        """Take the strategy, seconds for each clean-up, and where errors go that nobody survives."""
        if strategy not in get_args(Strategy):
            raise SettingsError(f"strategy: one of {', '.join(get_args(Strategy))}, not {strategy!r}")
        if not stop_timeout >= 0:
            raise SettingsError(f"stop_timeout: seconds, 0 or more, not {stop_timeout!r}")
        self.strategy = strategy
        self.stop_timeout = stop_timeout
        self.leaving = False
        self.lives: dict[Life, None] = {}  # in the order they were started; some that have ended among them
        self._living: dict[ActorRef[Any], Life] = {}  # in that order, too
        self._names: set[str] = set()  # of the living: a member of thousands of partitions starts as many actors
        self._ended: deque[Life] = deque()
        self.interruptions: list[BaseException] = []
        self._fail = fail
        self._change = Signal()

    def add(self, life: Life) -> None:
        """Take one in, as the last."""
        self.lives[life] = None
        self._living[life.actor.ref] = life
        self._names.add(life.actor.name)

    def ended(self, life: Life) -> None:
        """Note that one's task has ended; of those that have, the oldest are forgotten."""
        del self._living[life.actor.ref]
        self._names.discard(life.actor.name)
        self._ended.append(life)
        while len(self._ended) > REMEMBERED:
            self.forget(self._ended.popleft())
        self.changed()

    def forget(self, life: Life) -> None:
        """Let one be as if it had never been here."""
        self.lives.pop(life, None)

    @property
    def living(self) -> list[Life]:
        """Those whose task has not ended, in order."""
        return list(self._living.values())

    @property
    def last(self) -> Life | None:
        """The last one whose task has not ended."""
        return next(reversed(self._living.values()), None)

    @property
    def names(self) -> Container[str]:
        """Of those whose task has not ended."""
        return self._names

    def of(self, ref: ActorRef[Any]) -> Life | None:
        """Return the one whose ref this is, None if its task has ended, or it was never here."""
        return self._living.get(ref)

    def fail(self, errors: list[BaseException]) -> None:
        """Let these errors leave the supervisor."""
        self._fail(errors)

    def interrupted(self, path: str, cause: BaseException) -> None:
        """Keep it as an error, in case nothing else tells why the supervisor ends."""
        error = ActorStopped(path, "was cancelled, and not by its supervisor")
        error.__cause__ = cause
        self.interruptions.append(error)

    def changed(self) -> None:
        """Wake whoever waits for another."""
        self._change.fire()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._change.wait()

    async def clear_the_way(self, failed: Life, cause: BaseException) -> None:
        """Take down, last first, those that the strategy does not let outlive this failure, and wait until they are down."""
        if self.strategy == "one_for_one":
            return
        lives = list(self.lives)
        victims = lives[lives.index(failed) + 1 :] if self.strategy == "rest_for_one" else [life for life in lives if life is not failed]
        for victim in reversed(victims):
            if victim.active:
                victim.take_down(cause)
                await self._until_down(victim)

    async def _until_down(self, victim: Life) -> None:
        await self._until(lambda: not victim.active)

    async def await_turn(self, life: Life) -> None:
        """Wait until those that come first are up again. Who has not been up yet is nobody's concern."""
        if self.strategy != "one_for_one":
            await self._until(lambda: self._may_come_up(life))

    def _may_come_up(self, life: Life) -> bool:
        others = [other for other in self.living if other is not life and other.came_up]
        if self.strategy == "one_for_all" and any(other.cooling for other in others):
            return False
        places = {one: place for place, one in enumerate(self.lives)}
        return all(other.up for other in others if places[other] < places[life])


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
