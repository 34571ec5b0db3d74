"""The actors of one supervisor, in the order they were started, and what the failure of one means for the others.

In: lives that come and go, fail, and want to come up again. Out: who is taken down, and whose turn it is. Always: who is taken down ends in
    reverse order,
one after the other; who comes up again does so in order.

The strategies, and their names, are those of Erlang/OTP: "one_for_one" lets the others be; "rest_for_one" starts those anew that were
started after the one that failed, since they may build on it; "one_for_all" starts all anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from typing import Any, Literal, get_args

import anyio

from redisaq.actors.life import Life
from redisaq.actors.ref import ActorRef
from redisaq.errors import ActorStopped, SettingsError

Strategy = Literal["one_for_one", "rest_for_one", "one_for_all"]

REMEMBERED = 16
"""How many of those that have ended are kept for `tree()`."""


class Crew:
    """See the module."""

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
        self._change: anyio.Event | None = None

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
        if self._change is not None:
            self._change.set()
            self._change = None

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self._change is None:
                self._change = anyio.Event()
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
