"""The parent of a worker: starts children, starts them again when they die, hands signals on, and answers probes.

What each child goes through: it is started, reports, and ends. If it ends although nobody asked it to, it is started again after a pause
that grows with each death. Five deaths in a minute, over all children, end the parent with status 1, after the others have drained. A child
that cannot import the program when the worker starts ends it at once.

The first SIGTERM or SIGINT asks every child to drain, the second tells them to stop at once; a child that does not is killed after
FORCE_SECONDS. Children are in sessions of their own, so that Ctrl-C in a terminal reaches the parent alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import msgspec
from anyio.abc import ByteReceiveStream, Process, SocketAttribute, UNIXSocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from redisaq.actors.restart import RestartPolicy, RestartRecord
from redisaq.environment import current_environment
from redisaq.errors import SettingsError
from redisaq.run import run
from redisaq.worker.crew import Child, Crew
from redisaq.worker.logs import set_up_logging
from redisaq.worker.outliving import counted_in, file_to_count_in
from redisaq.worker.reports import Job, Refused, receive, send
from redisaq.worker.settings import Address, WorkerSettings, check_installed

logger = logging.getLogger("redisaq.worker")

DEATHS, WITHIN = 5, 60.0
"""DEATHS children that die within WITHIN seconds end the parent."""

POLICY = RestartPolicy(max_restarts=DEATHS - 1, within=WITHIN, backoff=0.2, max_backoff=30.0)

FORCE_SECONDS = 5.0
"""How long a child may take to stop at once before it is killed."""

RELOAD_SECONDS = 1.0
"""How long a child may drain when its program has changed."""

LAST_WORDS_SECONDS = 1.0
"""How long the reports of a child that has ended are waited for. A process that it forked may keep its pipe open."""

SHORTEST_PAUSE = 0.05

PAUSE = 1.0
"""Seconds before a child is started again that ended by itself without a failure."""

CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from redisaq.worker.child import main; sys.exit(main())"

GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError)

FAILED = 1


class Worker:
    """A worker: `redisaq.run` runs it, and hands it the signals.

    Attributes:
        status: the exit status to end with, once it has run.
        refusal: the reason why the App cannot be run at all; "" if it can.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        """Create it; nothing starts yet.

        Args:
            settings: what it is asked to do.
        """
        self._settings = settings
        self.status = 0
        self.refusal = ""
        self._crew = Crew(settings.processes, 0.0, settings.stalled_after)
        self._changed = anyio.Event()  # set when the children are to end: to be started again, or because the worker drains
        self._processes: dict[int, Process] = {}
        self._deaths = RestartRecord(POLICY)

    async def serve(self) -> None:
        """Keep the children running until `stop`, or until it makes no sense any more.

        Raises:
            SettingsError: the address for probes cannot be used.
        """
        settings = self._settings
        answering = None if settings.health is None else await self._answering(settings.health)
        over = anyio.Event()
        try:
            async with anyio.create_task_group() as watching:
                if answering is not None:
                    watching.start_soon(answering)
                if settings.reload:
                    watching.start_soon(self._watch_files, over)
                try:
                    async with anyio.create_task_group() as keeping:
                        for child in self._crew.children:
                            keeping.start_soon(self._keep, child)
                finally:
                    over.set()
                watching.cancel_scope.cancel()
        except anyio.get_cancelled_exc_class():
            self.status = FAILED  # the children were not given the time to drain
            raise

    async def stop(self) -> None:
        """Ask every child to drain, and start no other."""
        logger.info("draining")
        self._drain()

    async def close(self) -> None:
        """Do nothing: when `serve` has ended, so have the children."""

    async def _answering(self, address: Address) -> Callable[[], Coroutine[Any, Any, None]]:
        """Listen at the address, and return a function that answers there."""
        from redisaq.worker.answers import Answers  # noqa: PLC0415 -- h11 may not be installed
        from redisaq.worker.http import listen, serve_http  # noqa: PLC0415 -- likewise

        answers = Answers(self._crew, self._settings.app, self._settings.backend)
        listener = await listen(address)
        place = Address(address.host, listener.extra(SocketAttribute.local_port))  # noqa: S610 -- of a socket, not of Django
        logger.info("answering probes at http://%s", place, extra={"address": str(place)})
        return partial(serve_http, listener, answers.answer)

    async def _watch_files(self, over: anyio.Event) -> None:
        """Start children again when files change, until it is over: a cancellation alone ends the watcher's thread only after seconds."""
        from watchfiles import PythonFilter, awatch  # noqa: PLC0415 -- it may not be installed

        async for _ in awatch(".", watch_filter=PythonFilter(), stop_event=over):
            self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _drain(self) -> None:
        self._crew.draining = True
        self._changed.set()
        for process in self._processes.values():
            _signal(process, signal.SIGTERM)

    # -- one child ---------------------------------------------------------------------------------------------------------------

    async def _keep(self, child: Child) -> None:
        """Run the child, again and again."""
        while not self._crew.draining:
            changed, began = self._changed, anyio.current_time()
            try:
                code, refused = await self._run(child, changed)
            except OSError as error:  # no process, or no file descriptor, is left: that passes, and is a death like any other
                logger.warning("child %d cannot run: %s", child.number, error.strerror or error)
                code, refused = os.EX_OSERR, None
            how, asked = _in_words(code), changed.is_set()
            pause = 0.0 if asked else self._judge(child, code, refused, began)
            child.end(how, anyio.current_time(), again=not self._crew.draining)
            self._crew.totals.bury(child.number)
            if self._crew.draining:
                same = refused is not None and bool(self.refusal)  # the reason why all drain
                if asked and not same and code not in (0, -signal.SIGTERM):  # the signal kills a child that has not begun
                    logger.error("child %d %s while it drained", child.number, how)
                    self.status = FAILED
            elif asked:
                logger.info("files have changed: starting child %d again", child.number)
            elif self._settings.reload:
                logger.warning("child %d %s: waiting for a file to change", child.number, how)
                await changed.wait()
            else:
                logger.warning("child %d %s: starting it again in %.1f s", child.number, how, pause)
                with anyio.move_on_after(pause):
                    await changed.wait()

    def _judge(self, child: Child, code: int, refused: Refused | None, began: float) -> float:
        """Decide what follows from an end that nobody asked for. Return the seconds until the child is started again, unless all drain."""
        if refused is not None and child.starts == 1 and not any(one.came_up for one in self._crew.children):
            self.status, self.refusal = refused.status, refused.reason
            self._drain()
            return 0.0
        if code == 0:
            return PAUSE
        self._crew.deaths += 1
        pause = None if self._settings.reload else self._deaths.grant(anyio.current_time(), began, current_environment().random)
        if pause is None and not self._settings.reload:
            logger.error("child %d %s: %d deaths in %.0f s are too many", child.number, _in_words(code), DEATHS, WITHIN)
            self.status = FAILED
            self._drain()
        return max(pause or 0.0, SHORTEST_PAUSE)

    async def _run(self, child: Child, changed: anyio.Event) -> tuple[int, Refused | None]:
        """Run the child once. Return its exit status, and why it refuses to run the App, if it does."""
        settings = self._settings
        with contextlib.ExitStack() as stack:
            file = file_to_count_in() if settings.health is not None else None
            counts = None if file is None else stack.enter_context(file).fileno()
            result = await self._run_counting(child, changed, counts)
            if counts is not None:
                self._crew.totals.settle(child.number, counted_in(counts))
            return result

    async def _run_counting(self, child: Child, changed: anyio.Event, counts: int | None) -> tuple[int, Refused | None]:
        settings = self._settings
        job = Job(
            app=settings.app,
            child=child.number,
            processes=settings.processes,
            backend=settings.backend,
            url=settings.url,
            log=settings.log,
            measure=settings.health is not None,
            backlog=settings.backlog,
            pulse=settings.pulse,
            counts=counts,
        )
        ours, theirs = socket.socketpair()
        with ours, theirs:
            stream = await UNIXSocketStream.from_socket(ours.dup())
            try:
                process = await _start(theirs.fileno(), counts)
            except BaseException:
                await anyio.aclose_forcefully(stream)
                raise
        child.start(process.pid, anyio.current_time())
        self._processes[child.number] = process
        if self._crew.draining:
            _signal(process, signal.SIGTERM)
        ear = Ear(child, self._crew)
        try:
            async with stream, anyio.create_task_group() as tasks:
                tasks.start_soon(ear.listen, stream)
                with contextlib.suppress(*GONE):
                    await send(stream, job)
                if settings.reload:
                    tasks.start_soon(self._end_when_changed, process, changed)
                await process.wait()
                with anyio.move_on_after(LAST_WORDS_SECONDS):
                    await ear.heard_all.wait()
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await _force(process)
            del self._processes[child.number]
        assert process.returncode is not None  # noqa: S101 -- it has been waited for
        return process.returncode, ear.refused

    async def _end_when_changed(self, process: Process, changed: anyio.Event) -> None:
        await changed.wait()
        if self._crew.draining:
            return  # it has as much time as it needs
        _signal(process, signal.SIGTERM)
        with anyio.move_on_after(RELOAD_SECONDS):
            await process.wait()
        await _force(process)


class Ear:
    """Listens to one process of a child.

    Attributes:
        refused: why it does not run the App; None if it does.
        heard_all: it has ended, and every report has been read.
    """

    def __init__(self, child: Child, crew: Crew) -> None:
        """Create it.

        Args:
            child: who is listened to.
            crew: all children.
        """
        self.refused: Refused | None = None
        self.heard_all = anyio.Event()
        self._child = child
        self._crew = crew

    async def listen(self, stream: ByteReceiveStream) -> None:
        """Take reports until the child ends."""
        buffered = BufferedByteReceiveStream(stream)
        try:
            while True:
                report = await receive(buffered)
                if isinstance(report, Refused):
                    self.refused = report
                else:
                    self._child.report(report, anyio.current_time())
                    self._crew.totals.update(self._child.number, report.metrics)
        except (*GONE, anyio.IncompleteRead):
            pass
        except (ValueError, msgspec.DecodeError):
            logger.exception("child %d sent what is no report", self._child.number)
        self.heard_all.set()


async def _start(pipe: int, counts: int | None) -> Process:
    """Start a child as a new interpreter, with these descriptors: a fork would inherit locks of threads that it does not have."""
    path = msgspec.json.encode([place for place in sys.path if place]).decode()
    return await anyio.open_process(
        [sys.executable, "-P", "-c", CHILD, path, str(pipe)],
        stdin=subprocess.DEVNULL,
        stdout=None,
        stderr=None,
        start_new_session=True,
        pass_fds=[pipe] if counts is None else [pipe, counts],
    )


async def _force(process: Process) -> None:
    """Tell a process to stop at once, if it has not ended. Kill it if it does not."""
    if process.returncode is None:
        _signal(process, signal.SIGTERM)
        with anyio.move_on_after(FORCE_SECONDS):
            await process.wait()
        if process.returncode is None:
            _signal(process, signal.SIGKILL)
            await process.wait()


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _in_words(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def run_worker(settings: WorkerSettings) -> int:
    """Run a worker until it ends. Return its exit status.

    Raises:
        SettingsError: it cannot run the App, or cannot listen at the address for probes.
    """
    if settings.health is not None:
        check_installed("h11", "--health", "worker")
    set_up_logging(settings.log or "text", 0)
    worker = Worker(settings)
    run(worker, backend=settings.backend)
    if worker.refusal and worker.status != FAILED:
        raise SettingsError(worker.refusal)
    if worker.refusal:
        logger.error("%s", worker.refusal)
    return worker.status
