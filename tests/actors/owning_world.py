"""One owner of one partition, with all its parts, between a broker whose answers a test gives and workers that note what they get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import anyio

from redisaq.actors import Actor, Supervisor
from redisaq.brokers.steps.coordination import Beat
from redisaq.brokers.steps.leases import Claim, Fence, Install, Installed, Page, Release, SetDeliveries
from redisaq.brokers.steps.retention import Sight, Sighting
from redisaq.brokers.steps.retrying import Due, TakeDue
from redisaq.brokers.steps.settling import Resolve, Resolved
from redisaq.brokers.terms import ReaderMark
from redisaq.consuming.handler_pool import Batch
from redisaq.consuming.lease import Lease
from redisaq.consuming.owner import Ended, PartitionOwner
from redisaq.core.records import Entry
from tests.actors.answering import Answering, surroundings_of
from tests.actors.group import Notebook
from tests.unit.owning import owned_partition

TTL = 60.0


class Reading:
    """A reader that returns what a test gives it.

    Attributes:
        answers: what the next reads return, or raise; without any, a read waits for as long as it may.
        reads: how many entries each read asked for, and for how long it may wait.
        ahead: how many entries it was asked to ask for ahead.
        calls: what else it was asked for.
        leftover: what `take_leftover` returns, once.
        settled: as in `Reader`.
    """

    def __init__(self, number: int) -> None:
        self.mark = ReaderMark(number, "here", "run")
        self.answers: list[Sequence[Entry] | Exception] = []
        self.reads: list[tuple[int, float]] = []
        self.ahead: list[int] = []
        self.calls: list[str] = []
        self.leftover: Sequence[Entry] = ()
        self.settled = True
        self.given = anyio.Event()

    def give(self, *answers: Sequence[Entry] | Exception) -> None:
        """Answer the read that waits, and the next ones."""
        self.answers += answers
        self.given.set()

    async def read(self, count: int, block: float) -> Sequence[Entry]:
        """Return the next answer, or nothing after that time."""
        self.reads.append((count, round(block, 6)))
        self.given = anyio.Event()
        if not self.answers:
            with anyio.move_on_after(block):
                await self.given.wait()
        await anyio.lowlevel.checkpoint()
        answer = self.answers.pop(0) if self.answers else ()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def ask_ahead(self, count: int) -> None:
        """Note it."""
        self.ahead.append(count)

    async def finish(self) -> None:
        """Note it."""
        await anyio.lowlevel.cancel_shielded_checkpoint()
        self.calls.append("finish")

    def take_leftover(self) -> Sequence[Entry]:
        """Return what is left over, once."""
        left, self.leftover = self.leftover, ()
        return left

    async def close(self) -> None:
        """Note it."""
        await anyio.lowlevel.cancel_shielded_checkpoint()
        self.calls.append("close")


class Silence:
    """A doorbell that never rings."""

    async def wait(self) -> None:
        """Wait forever."""
        await anyio.sleep_forever()

    async def close(self) -> None:
        """Do nothing."""


class OwnedBroker(Answering):
    """A broker that grants everything, and opens such readers.

    Attributes:
        instead: returns other answers; None for the usual one.
        readers: those that it has opened.
        prepare: called with each before it is used.
    """

    def __init__(self) -> None:
        super().__init__(self._usual)
        self.instead: Callable[[Any], Any] = lambda _: None
        self.readers: list[Reading] = []
        self.prepare: Callable[[Reading], None] = lambda _: None

    def _usual(self, step: Any) -> Any:
        if (answer := self.instead(step)) is not None:
            return answer
        usual: dict[type[Any], Callable[[], Any]] = {
            Install: lambda: Installed(True, step.token, ""),
            Claim: lambda: Page((), (), None),
            Sight: Sighting,
            TakeDue: lambda: Due((), 0, None, 0),
            Fence: lambda: True,
            Release: lambda: True,
            SetDeliveries: lambda: True,
            Resolve: lambda: Resolved(True, step.token),
        }
        return usual[type(step)]() if type(step) in usual else None

    async def open_reader(self, *_words: Any) -> Reading:
        """Open one."""
        await anyio.lowlevel.checkpoint()
        self.readers.append(Reading(len(self.readers) + 1))
        self.prepare(self.readers[-1])
        return self.readers[-1]

    async def listen_partition(self, *_words: Any) -> Silence:
        """Listen to nothing."""
        await anyio.lowlevel.checkpoint()
        return Silence()


class NotingWorkers(Actor[Batch]):
    """Workers whose handlers a test begins and ends."""

    def __init__(self) -> None:
        super().__init__(name="workers")
        self.got: list[Batch] = []

    async def receive(self, message: Batch) -> None:
        """Note the messages."""
        self.got.append(message)


class Owning:
    """The owner, and what it reports.

    Attributes:
        now: seconds since the beginning.
        raised: what the owner asks for is answered with, if it asks for a greater token.
    """

    def __init__(self, *, page: int = 4, window: int = 8, history: tuple[int, ...] = (), partition: int = 0, **settings: Any) -> None:
        self.began = anyio.current_time()
        self.broker, self.notebook, self.workers = OwnedBroker(), Notebook(), NotingWorkers()
        self.around = surroundings_of(self.broker, self.notebook, **settings)
        self.around.history = history
        self.lease = Lease("me", TTL, self.around.environment)
        self.lease.observe(self.began, Beat(alive=True, now=int(self.began * 1e6) + 10**15))
        self.lease.begin(self.began)
        self.owned = owned_partition(window, page=page, partition=partition, token=5, lease=self.lease)
        self.taken: list[int] = []
        self.stuck: list[int] = []
        self.ended: list[tuple[float, Ended]] = []
        self.asked: list[tuple[int, int]] = []
        self.raised: int | None = None
        self.owner = PartitionOwner(
            self.around,
            self.owned,
            workers=self.workers,
            count=page,
            raise_token=self.raise_token,
            stuck=self.stuck.append,
            taken=self.taken.append,
            ended=lambda end: self.ended.append((self.now, end)),
        )

    @property
    def now(self) -> float:
        return round(anyio.current_time() - self.began, 3)

    @property
    def reader(self) -> Reading:
        return self.broker.readers[-1]

    @property
    def told(self) -> list[str]:
        return [type(event).__name__ for event in self.notebook.events]

    async def raise_token(self, partition: int, above: int) -> int | None:
        await anyio.lowlevel.checkpoint()
        self.asked.append((partition, above))
        return self.raised

    def steps(self, *kinds: type[Any]) -> list[str]:
        """Return the names of the steps so far: of these kinds, or of all but what a retry timer asks for."""
        steps = (step for _, step in self.broker.steps)
        return [step.name for step in steps if (isinstance(step, kinds) if kinds else not isinstance(step, TakeDue))]

    def begin(self, number: int) -> Any:
        """Let a handler begin on the message with this number; return it."""
        flight = self.owned.flights.flights[b"%d-0" % number]
        self.owned.flights.start(flight)
        self.owned.changed()
        return flight

    async def run(self, seconds: float) -> None:
        """Let it work for a moment, then give its partition back, in at most that time."""
        async with Supervisor() as supervisor:
            await self.start(supervisor)
            self.owner.drain(0.0)
            await anyio.sleep(seconds)

    async def start(self, supervisor: Supervisor) -> None:
        """Start the owner, and wait until it reads."""
        await supervisor.start(cast("Any", self.owner))
        await anyio.sleep(0.001)


def entries(first: int, last: int) -> list[Entry]:
    """Return readable entries."""
    return [(b"%d-0" % number, (b"i", b"%d" % number, b"d", b"{}")) for number in range(first, last + 1)]
