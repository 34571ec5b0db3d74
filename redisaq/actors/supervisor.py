"""Run actors, restart failed ones as their policies allow, and end all of them in order.

The supervisor starts actors and returns their refs. A failure that no policy survives leaves its block as an error. Three classes work as
one:

- `Life` is one actor's only task, from its start over its restarts to its end. One incarnation is on_start, run, then on_lost for what was
  in hand if it failed, then on_stop. Whatever happens, no asker of this actor is left waiting, and the end is announced. The actor's code
  runs in a scope that is shielded from the supervisor's task group, so that siblings end one after the other and not all at once; to end
  the actor, cancel that scope.
- `Crew` is the actors of one supervisor, in the order they were started, and decides how the failure of one affects the others. The
  strategies and their names are those of Erlang/OTP: "one_for_one" leaves the others alone. "rest_for_one" restarts also those that were
  started after the one that failed, since they may depend on it. "one_for_all" restarts all. Actors are taken down in reverse order, one
  after the other, and come up again in order.
- `Supervisor` is the block around them. No actor outlives it, and each one's on_stop has run, however the block ends. Everything that must
  be awaited on the way out runs in tasks of the supervisor's own, never in the task that holds the block: no shield of anyio protects that
  task from a native `Task.cancel()` of asyncio.
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
from redisaq.settings import is_number

M = TypeVar("M")

logger = logging.getLogger("redisaq.actors")

Strategy = Literal["one_for_one", "rest_for_one", "one_for_all"]

REMEMBERED = 16
"""The number of ended actors that are kept for `tree()`."""

STANDSTILL = 1.0
"""A deadline that fires this many seconds late means that the process or its event loop was stalled."""


class Life:
    """One actor's task.

    Attributes:
        came_up: an on_start completed at least once.
        up: it is running now.
        active: from the beginning of on_start to the end of on_stop.
        start_awaited: a task waits in `start`, and gets a failure that is not survived before the actor came up.
        settled: set when it came up for the first time, or ended before that.
        ended: set when its task is over.
    """

    def __init__(self, actor: Actor[Any], crew: Crew) -> None:
        """Make the life of an actor that has its path.

        Args:
            actor: the actor.
            crew: the crew that it belongs to.
        """
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

    # -- for others --------------------------------------------------------------------------------------------------------------

    @property
    def cooling(self) -> bool:
        """True from a survived failure until the actor may come up again."""
        return self._failure is not None

    def cancel(self) -> None:
        """End it at once: no further restart; on_stop still runs."""
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    def take_down(self, cause: BaseException) -> None:
        """Restart it because a sibling failed."""
        if self.active and self._scope is not None and not self._cancelled:
            self._taken_down = cause
            self._scope.cancel()

    async def stop(self, timeout: float) -> None:
        """Close its mailbox, let it finish the messages in it for at most `timeout` seconds, cancel it, and wait for its end.

        Until then it survives failures as before, if messages are left in the mailbox. If this call is cancelled, so is the actor.
        """
        self._stopping = True
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
        """Return its node in the tree as it is now."""
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
            await checkpoint()  # nothing starts in a supervisor that has been cancelled
            self._mailbox.owner = anyio.get_current_task().id
            rest: float | None = 0.0
            while rest is not None:
                await self._rest(rest)
                rest = None if self._cancelled else await self._incarnation()
        finally:
            self._end()

    async def _rest(self, seconds: float) -> None:
        """Between two incarnations: take the affected siblings down, wait `seconds`, and wait for actors that come first."""
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
        """Run the actor once; return how long to wait before it runs again, None if it does not."""
        self.active, self._taken_down = True, None
        try:
            errors = await self._attempt(self._start_and_run, self._new_scope())
            started, self.up = self._up_since is not None, False
            errors += await self._see_to_hand(errors)
            rest, fatal = self._judge(errors)
            # Report before the clean-up, so that the others need not wait for it. Report it before senders see that the mailbox is closed:
            # the failure should be what interrupts them.
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
            # Not from our scopes: on asyncio, the event loop is being shut down, or the actor awaited something that was cancelled.
            # It is raised again once on_stop has run.
            self._interruption = interruption
            self._cancelled = True
        except BaseException as error:  # noqa: BLE001 -- the one place where an actor's errors arrive; all are judged, none is dropped
            return [error]
        if scope.cancelled_caught and not math.isinf(scope.deadline):
            self._tell_cut_short(late=anyio.current_time() - scope.deadline)
        return []

    def _tell_cut_short(self, late: float) -> None:
        if late >= STANDSTILL:  # its time passed while nothing could run, so the clean-up was not slow
            logger.info("actor %s: the process was stalled during its clean-up, which was then cancelled", self.actor.path)
        else:
            logger.warning("actor %s: its clean-up took longer than %g s and was cancelled", self.actor.path, self._crew.stop_timeout)

    async def _see_to_hand(self, errors: list[BaseException]) -> list[BaseException]:
        """Give what was in hand to on_lost, and the error to its askers; drop harmless errors. Return the errors of on_lost."""
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
        """Return how long to wait before the next incarnation (None if there is none), and the errors that must leave the supervisor."""
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
        """Return True for an error that only says that the actor, or one that it called, is being stopped."""
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
        """Return the scope through which `cancel` and `take_down` reach the actor."""
        self._scope = anyio.CancelScope(shield=True)
        if self._cancelled:
            self._scope.cancel()
        return self._scope

    def _bounded(self) -> anyio.CancelScope:
        """Return a scope for work that must not be cancelled, but must not take forever either."""
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
        """Make a crew without actors.

        Args:
            strategy: which siblings a failure restarts.
            stop_timeout: seconds for each clean-up.
            fail: called with errors that no policy survives.
        """
        if strategy not in get_args(Strategy):
            raise SettingsError(f"strategy: one of {', '.join(get_args(Strategy))}, not {strategy!r}")
        if not (is_number(stop_timeout) and stop_timeout >= 0):
            raise SettingsError(f"stop_timeout: seconds, 0 or more, not {stop_timeout!r}")
        self.strategy = strategy
        self.stop_timeout = stop_timeout
        self.leaving = False
        self.lives: dict[Life, None] = {}  # in the order they were started; includes some that have ended
        self._living: dict[ActorRef[Any], Life] = {}  # in the same order
        self._names: set[str] = set()  # of the living; a set, since a member with thousands of partitions starts as many actors
        self._ended: deque[Life] = deque()
        self.interruptions: list[BaseException] = []
        self._fail = fail
        self._change = Signal()

    def add(self, life: Life) -> None:
        """Add a life, as the last."""
        self.lives[life] = None
        self._living[life.actor.ref] = life
        self._names.add(life.actor.name)

    def ended(self, life: Life) -> None:
        """Record that a life's task has ended, and forget the oldest of those that have."""
        del self._living[life.actor.ref]
        self._names.discard(life.actor.name)
        self._ended.append(life)
        while len(self._ended) > REMEMBERED:
            self.forget(self._ended.popleft())
        self.changed()

    def forget(self, life: Life) -> None:
        """Remove a life as if it had never been added."""
        self.lives.pop(life, None)

    @property
    def living(self) -> list[Life]:
        """The lives whose task has not ended, in order."""
        return list(self._living.values())

    @property
    def last(self) -> Life | None:
        """The last life whose task has not ended."""
        return next(reversed(self._living.values()), None)

    @property
    def names(self) -> Container[str]:
        """The names of actors whose task has not ended."""
        return self._names

    def of(self, ref: ActorRef[Any]) -> Life | None:
        """Return the life with this ref, None if its task has ended, or it was never here."""
        return self._living.get(ref)

    def fail(self, errors: list[BaseException]) -> None:
        """Make these errors leave the supervisor."""
        self._fail(errors)

    def interrupted(self, path: str, cause: BaseException) -> None:
        """Keep the interruption as an error, in case nothing else explains why the supervisor ends."""
        error = ActorStopped(path, "was cancelled, and not by its supervisor")
        error.__cause__ = cause
        self.interruptions.append(error)

    def changed(self) -> None:
        """Wake all lives that wait for another."""
        self._change.fire()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._change.wait()

    async def clear_the_way(self, failed: Life, cause: BaseException) -> None:
        """Take down the actors that the strategy does not let outlive this failure, last first, and wait until they are down."""
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
        """Wait until the actors that come first are up again. Actors that have never been up do not count."""
        if self.strategy != "one_for_one":
            await self._until(lambda: self._may_come_up(life))

    def _may_come_up(self, life: Life) -> bool:
        others = [other for other in self.living if other.came_up]
        if self.strategy == "one_for_all" and any(other.cooling for other in others):
            return False
        places = {one: place for place, one in enumerate(self.lives)}
        return all(other.up for other in others if places[other] < places[life])


class Supervisor:
    """Runs actors in a block: `async with Supervisor("one_for_one") as supervisor`.

    When you leave the block, it stops the actors in reverse order, without waiting for them to end by themselves: it closes an actor's
    mailbox, gives it `stop_timeout` seconds to finish the messages in it, cancels it, and runs its `on_stop`. When the block is cancelled
    or raises, the same happens without time for the messages in the mailboxes. When an actor fails and its policy does not survive that,
    the block and the other actors are cancelled. The error then leaves the block: as it is if it is the only one, otherwise in an exception
    group.

    Args:
        strategy: which actors restart with one that restarts: "one_for_one" none, "rest_for_one" those that were started after it,
            "one_for_all" all.
        name: its name in paths.
        stop_timeout: seconds that an actor may take to empty its mailbox when it is stopped, and that each `on_stop` and `on_lost` may
            take.
        parent: the actor in whose `run` the block is; the supervisor appears below it in paths and in `tree()`.
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

        If `on_start` fails, the actor's policy decides whether it is tried again. If this call is cancelled, so is the actor.

        Raises:
            ActorStopped: the supervisor is being stopped, or the actor was stopped before it came up.
            RestartsExceeded: `on_start` failed more often than the policy allows.
            RuntimeError: the supervisor's block has not begun, or is over; or the actor has been started before.
            SettingsError: another actor here has that name; or it is not an Actor, but the class of one, for example.
            Exception: `on_start` raised an error that the policy does not name. The supervisor continues without the actor.
        """
        if self._status == "stopping":
            await checkpoint()  # a caller that is cancelled together with the supervisor gets the cancellation, not this error
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
            self._crew.forget(life)
            raise_errors(life.start_errors)
        if not life.came_up:
            raise ActorStopped(actor.path, "was stopped before it came up")
        return actor.ref

    def _take_in(self, actor: AnyActor) -> Life:
        if not isinstance(actor, Actor):  # pyright: ignore[reportUnnecessaryIsInstance] -- callers without types
            raise SettingsError(f"start takes an Actor, not {shown(actor)}")
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
        """Stop one actor: close its mailbox, let it finish the messages in it, cancel it, run its `on_stop`.

        An actor that has already stopped, or was never started here, is left alone. If this call is cancelled, the actor is cancelled at
        once.

        Args:
            target: the actor or its ref.
            timeout: seconds for the messages in the mailbox; default: the supervisor's `stop_timeout`.

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
            raise RuntimeError(f"actor {ref.path} would wait for its own end forever; let its run return instead")
        await life.stop(self._crew.stop_timeout if timeout is None else timeout)
        return life.actor.mailbox.leftover

    def tree(self) -> Node:
        """Return a frozen picture of the supervisor and everything below it, without waiting."""
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
        """End the block: stop the actors, raise their failures."""
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
        errors = unique(self._own(found) + self._errors)
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

    def _own(self, found: list[BaseException]) -> list[BaseException]:
        """Return the errors that say something new: once an actor has failed, a refusal to start another one does not."""
        if not self._errors:
            return found
        return [one for one in found if not (isinstance(one, ActorStopped) and one.path == self.path)]

    def _begin_to_stop(self) -> None:
        self._crew.leaving = True
        if self._status == "running":
            self._status = "stopping"

    def _fail(self, errors: list[BaseException]) -> None:
        self._begin_to_stop()
        self._errors += errors
        self._group.cancel_scope.cancel()

    async def _keep(self) -> None:
        """Wait for the end of the block, then end the actors: last first, one after the other."""
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
    """Return the errors without duplicates: an asker in the block and the supervisor may hold the same one."""
    return list({id(error): error for error in errors}.values())


def raise_errors(errors: list[BaseException]) -> None:
    """Raise a single error as it is, and several as a group; their context is kept."""
    error = errors[0] if len(errors) == 1 else BaseExceptionGroup("several actors failed", errors)
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        del error, errors
