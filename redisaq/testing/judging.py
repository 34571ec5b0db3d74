"""Whoever watches a simulation and says what must not be: one protocol for all of them, and where they are named.

In: what the ledger writes down, as it happens. Out: a sentence for each thing that must not have happened. A judge sees everything and
changes nothing: with it or without it a seed gives the same run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from redisaq.brokers.delivery import Resolution, Resolved
from redisaq.brokers.memory.store import MemoryStore
from redisaq.core.entry_ids import EntryId
from redisaq.events import Event
from redisaq.testing.census import Place
from redisaq.testing.histories import Process, Run


class Tenure(Protocol):
    """A partition's time with one process, as judges see it."""

    process: Process
    token: int
    since: float
    until: float | None
    end: str


@dataclass(frozen=True)
class Given:
    """What a producer was given of one message."""

    payload: Any
    key: str | None
    headers: Mapping[str, str]
    timeout: float | None


class Court(Protocol):
    """What judges may ask, and whom they tell."""

    @property
    def store(self) -> MemoryStore | None:
        """The server."""
        ...

    @property
    def forgot(self) -> bool:
        """True once the server has lost data."""
        ...

    def now(self) -> float:
        """Return the time, seconds since the simulation began."""
        ...

    def violation(self, text: str) -> None:
        """Note what must not happen."""
        ...

    def undisturbed(self, since: float, apart_from: float | None = None) -> bool:
        """Return whether no fault acts, and none (but the one of that time) has acted since then, nor for some time before."""
        ...

    def tenures_of(self, place: Place) -> Sequence[Tenure]:
        """Return who has had a partition, and when, in order."""
        ...

    def all_tenures(self) -> Sequence[Tenure]:
        """Return who has had any partition, and when."""
        ...

    def runs_of(self, place: Place, entry_id: EntryId) -> Sequence[Run]:
        """Return the handlers' runs on a message in its present life, in order."""
        ...


class Judge:
    """Watches one simulation. A judge overrides what it has to know."""

    def __init__(self, court: Court) -> None:
        """Take what there is to ask."""
        self.court = court

    def produced(self, msg_id: str, given: Given) -> None:
        """A producer was told that a message is safe."""

    def begun(self, run: Run) -> None:
        """A handler begins."""

    def ended(self, run: Run) -> None:
        """A handler's run has ended."""

    def told(self, process: Process, place: Place | None, event: Event) -> None:
        """A member told of something; of which partition, if of one."""

    def resolved(self, process: str, place: Place, token: int, resolutions: Sequence[Resolution], answer: Resolved) -> None:
        """The server settled, or refused to, what did not simply succeed."""

    def stepped(self, who: str, operation: str) -> None:
        """The server has done an operation."""

    def lost(self, entries: Collection[tuple[Place, EntryId]]) -> None:
        """The server has lost data: these entries are gone, or it has forgotten what became of them."""

    def crashed(self, process: Process) -> None:
        """A process is gone."""

    def closed(self) -> None:
        """All have left."""


JudgeType = Callable[[Court], Judge]

_more: ContextVar[tuple[JudgeType, ...]] = ContextVar("redisaq_judges", default=())


@contextlib.contextmanager
def judged_by(*judges: JudgeType) -> Generator[None]:
    """Let these judge the simulations within the block as well."""
    token = _more.set((*_more.get(), *judges))
    try:
        yield
    finally:
        _more.reset(token)


def more_judges() -> tuple[JudgeType, ...]:
    """Return those of the blocks around."""
    return _more.get()
