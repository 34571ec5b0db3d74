"""The life of one actor, from its start over its restarts to its end: the only task of the actor.

In: the actor, what its supervisor allows, requests to end. Out: the actor's methods called in order; what it failed of, told to the crew.

One incarnation is on_start, run, then on_lost for what was in hand if it failed, then on_stop. Always: whatever happens, nobody who asked
this actor is left waiting, and the end is announced. The actor's code runs in a scope that is shielded from the supervisor's task group, so
that siblings end one after the other and not all at once; whoever ends it cancels that scope.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import anyio
from anyio.lowlevel import checkpoint

from redisaq.actors.actor import Actor
from redisaq.actors.restart import RestartRecord, consists_of
from redisaq.actors.tree import Node, Status
from redisaq.describing import shown
from redisaq.environment import current_environment
from redisaq.errors import ActorStopped, RestartsExceeded

logger = logging.getLogger("redisaq.actors")

STANDSTILL = 1.0
"""A deadline that is heeded so many seconds late tells that the process, or its event loop, stood still."""


class Siblings(Protocol):
    """What a life needs to know of its supervisor and of the other actors there."""

    stop_timeout: float
    leaving: bool

    def changed(self) -> None:
        """Something about a life changed: whoever waits for that looks again."""
        ...

    def ended(self, life: Life) -> None:
        """The task of this one has ended."""
        ...

    async def clear_the_way(self, failed: Life, cause: BaseException) -> None:
        """Take down those that must not outlive this one's failure."""
        ...

    async def await_turn(self, life: Life) -> None:
        """Wait until this one may come up."""
        ...

    def fail(self, errors: list[BaseException]) -> None:
        """Let these errors leave the supervisor."""
        ...

    def interrupted(self, path: str, cause: BaseException) -> None:
        """This one was cancelled by something else than its supervisor: it must not go unseen."""
        ...


class Life:
    """See the module.

    Attributes:
        came_up: an on_start completed at least once.
        up: it is running now.
        active: from the beginning of on_start to the end of on_stop.
        start_awaited: somebody waits in `start`: a failure that is not survived before it came up is theirs.
        settled: set when it came up for the first time, or ended before that.
        ended: set when its task is over.
    """

    def __init__(self, actor: Actor[Any], siblings: Siblings) -> None:
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
        self._siblings = siblings
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
                        await self._siblings.clear_the_way(self, self._failure)
                    await anyio.sleep(seconds)
                finally:
                    self._failure = None
                    self._siblings.changed()
            await self._siblings.await_turn(self)

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
                self._siblings.interrupted(self.actor.path, self._interruption)
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
            self._siblings.changed()

    async def _start_and_run(self) -> None:
        await self.actor.on_start()
        self._up_since = anyio.current_time()
        self.came_up = self.up = True
        if not self._stopping:
            self.status = "running"
        self.settled.set()
        self._siblings.changed()
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
            logger.warning("actor %s: its clean-up took longer than %g s and was cancelled", self.actor.path, self._siblings.stop_timeout)

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
        return self._siblings.leaving and consists_of(error, ActorStopped)

    def _report(self, fatal: list[BaseException]) -> None:
        if not fatal:
            return
        self.status = "failed"
        if self.start_awaited and not self.came_up:
            self.start_errors += fatal
        else:
            self._siblings.fail(fatal)

    def _new_scope(self) -> anyio.CancelScope:
        """Return the scope that `cancel` and `take_down` reach the actor by."""
        self._scope = anyio.CancelScope(shield=True)
        if self._cancelled:
            self._scope.cancel()
        return self._scope

    def _bounded(self) -> anyio.CancelScope:
        """Return a scope for what must not be cancelled, but not take for ever either."""
        return anyio.CancelScope(deadline=anyio.current_time() + self._siblings.stop_timeout, shield=True)

    def _end(self) -> None:
        if self.status != "failed":
            self.status = "finished" if self._finished and not self._stopping else "stopped"
        self._mailbox.close()
        self.settled.set()
        self.ended.set()
        self._siblings.ended(self)
