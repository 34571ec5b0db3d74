"""`redisaq demo`: runs a producer and several consumers of one group, kills one consumer, and checks that no message was lost.

The command starts the producer and each consumer as a process of its own: `main` of this module. A child finds its job in its
environment, not in its arguments, which every user of the machine can read: the URL may hold a password. It writes reports to its
standard output, one JSON object a line, and ends when its standard input does, so a command that is killed leaves no child behind.
Children are in sessions of their own: an interrupt from the terminal reaches the command alone, which ends them.

A message counts as processed when the handler has done its work and the report of it is in the pipe. Only then does the handler return,
and only then does redisaq acknowledge the message. If SIGKILL hits before the report, the message is neither counted nor acknowledged, and
another consumer must get it, or it counts as lost. If it hits between report and acknowledgement, the message is processed again, and
counts as a duplicate.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from typing import Annotated, Any, Literal

import anyio
import msgspec
from anyio.abc import ByteReceiveStream, Process, TaskGroup
from cyclopts import Parameter, validators

from redisaq import events
from redisaq.consumer import Consumer
from redisaq.core.history import ranges_of
from redisaq.embedded import open_embedded
from redisaq.embedded.server import valkey_program
from redisaq.environment import current_environment
from redisaq.error_groups import leaves_of
from redisaq.errors import RedisaqError, SettingsError
from redisaq.message import Message
from redisaq.producer import Producer
from redisaq.run import run

Backend = Literal["asyncio", "uvloop", "trio"]
BACKENDS: tuple[Backend, ...] = ("asyncio", "uvloop", "trio")
NAMESPACE = "redisaq-demo"
INTERRUPTED = 130  # the status that shells use for a process that an interrupt ended

HEARTBEAT, TTL = 0.5, 2.0
"""Seconds, far below the defaults, so that you need not wait long for a takeover."""

WORK = 0.01
"""Seconds that a handler spends on one message."""

ENQUEUES = 20
"""Batches a second that the producer sends."""

AHEAD = 1.5
"""The ratio of the producing rate to the fastest processing rate, so that there is always something left to take over."""

PATIENCE = 20.0
"""Seconds without progress after which missing messages count as lost. It is ten times the ttl, for a busy machine."""

END_SECONDS = 8.0
"""Seconds that the processes may take to end in order before they are killed."""

LOOK, TELL = 0.05, 0.5
"""Seconds between two checks of the children's reports, and between two lines of output about them."""

STDIN = 0
JOB = "REDISAQ_DEMO_JOB"  # the environment variable
ERROR_BYTES = 4000  # how much of a child's standard error is kept, from the end


class Job(msgspec.Struct, frozen=True):
    """The job of a child process. `name` is "producer" or the name of a consumer."""

    name: str
    backend: Backend
    url: str
    topic: str
    partitions: int
    messages: int


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """A report of a child: `ids` of messages produced or processed, the partition acquired or released, or a text."""

    what: Literal["ready", "produced", "processed", "acquired", "released", "note", "failed"]
    ids: list[str] = []
    partition: int = -1
    text: str = ""


# -- the command ---------------------------------------------------------------------------------------------------------------------


def demo(
    *,
    backend: Backend = "asyncio",
    messages: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=10_000_000))] = 10_000,
    consumers: Annotated[int, Parameter(validator=validators.Number(gte=2, lte=64))] = 3,
    partitions: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=1024))] = 12,
    url: Annotated[str | None, Parameter(name=["--url", "--redis-url"])] = None,
    plain: Annotated[bool, Parameter(show=False, negative="")] = False,  # noqa: ARG001 -- it once turned off a picture, and scripts may still use it
) -> int:
    """Watch consumers share partitions, one die, and nothing get lost.

    A producer fills a topic, and consumers of one group share its partitions, on a private Valkey that is gone afterwards.

    When half of the messages are processed, one consumer is killed with SIGKILL. The others take its partitions over.

    The exit status is 0 only if every message was processed at least once.

    Args:
        backend: the event loop of every process.
        messages: messages to produce.
        consumers: consumer processes.
        partitions: partitions of the topic.
        url: use this server instead of a private one. The demo's keys stay there, under a namespace of its own.
        plain: changes nothing.

    Raises:
        SettingsError: a package is missing, or the URL is not valid.
        ConnectionFailed: the private server does not start.
        BrokenPipeError: the reader of the output is gone.
    """
    print(f"redisaq demo: {backend}, {_check(backend, url)}", flush=True)
    demo = Demo(messages, consumers, partitions)
    failures = run(_play, demo, backend, url, backend=backend)
    if failures is None:
        print("redisaq demo: interrupted; every process has ended.", file=sys.stderr)
        return INTERRUPTED
    if failures:
        raise failures[0]
    if demo.failure:
        print(f"redisaq demo: {demo.failure}", file=sys.stderr)
    elif demo.victim:
        print(f"{demo.victim} was killed; {in_words(demo.orphans)} had a new owner within {demo.slowest:.2f} s")
    print(demo.tally)
    return 0 if demo.tally.matches and not demo.failure else 1


async def _play(demo: Demo, backend: Backend, url: str | None) -> list[Exception]:
    """Run the demo in an event loop. Return the errors from outside it, taken out of their exception groups."""
    failures: list[Exception] = []
    try:
        async with _server(url) as reached:
            await demo.run(backend, reached)
    except* (RedisaqError, BrokenPipeError) as group:
        failures += leaves_of(group)
    return failures


def _check(backend: str, url: str | None) -> str:
    """Return in words where the demo runs. If it cannot run, raise SettingsError before anything is started."""
    if backend != "asyncio" and importlib.util.find_spec(backend) is None:
        raise SettingsError(f'--backend {backend} needs the package {backend}: pip install "redisaq[{backend}]"')
    if url is None:
        valkey_program()
        return "a private Valkey"
    if url.startswith("memory://") or url == "embedded://":
        raise SettingsError(f"--url {url} is for one process alone, and the demo has several; leave it out for a private server")
    if url.startswith("embedded://"):
        return url
    from redisaq.link import parse_url  # noqa: PLC0415 -- it takes a moment to import, and is not always needed

    return parse_url(url).display


@contextlib.asynccontextmanager
async def _server(given: str | None) -> AsyncGenerator[str]:
    """Yield the given URL, or the URL of a private server, which ends with the block."""
    if given is not None:
        yield given
        return
    server = await open_embedded(None)
    try:
        yield f"embedded://{server.directory}"
    finally:
        with anyio.CancelScope(shield=True):
            await server.close()


# -- the result ----------------------------------------------------------------------------------------------------------------------


class Tally:
    """Counts messages by id. The report of a message's processing may arrive before that of its production.

    Args:
        expected: the number of messages that will be produced.
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.produced: set[str] = set()
        self.processed: set[str] = set()
        self.done = 0  # produced and processed at least once
        self.duplicates = 0

    @property
    def matches(self) -> bool:
        """Whether every message was produced and processed at least once, and no other was. Duplicates are allowed."""
        return len(self.produced) == self.expected and self.produced == self.processed

    def produce(self, ids: Iterable[str]) -> None:
        """Count these as produced."""
        for msg_id in ids:
            self.done += msg_id in self.processed and msg_id not in self.produced
            self.produced.add(msg_id)

    def process(self, ids: Iterable[str]) -> None:
        """Count one processing of each."""
        for msg_id in ids:
            self.duplicates += msg_id in self.processed
            self.done += msg_id in self.produced and msg_id not in self.processed
            self.processed.add(msg_id)

    def __str__(self) -> str:
        """Return the demo's final line."""
        produced = len(self.produced)
        lost, foreign = produced - self.done, len(self.processed) - self.done
        wrong: list[str] = []
        if produced != self.expected:
            wrong.append(f"{self.expected - produced} of {self.expected} were not produced")
        if lost:
            wrong.append(f"{lost} were not processed")
        if foreign:
            wrong.append(f"{foreign} were processed that nobody produced")
        end = "they do NOT match: " + ", ".join(wrong) if wrong else "they match"
        return f"produced {produced}, processed at least once {self.done}, lost {lost}, duplicates {self.duplicates}: {end}"


def in_words(numbers: Collection[int]) -> str:
    """Return `no partition`, `partition 3` or `partitions 0-3 7`."""
    if not numbers:
        return "no partition"
    return f"partition{'s' if len(numbers) > 1 else ''} {ranges(numbers)}"


def ranges(numbers: Collection[int]) -> str:
    """Return numbers in short form: `0-3 7 9-10`."""
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges_of(numbers, None))


# -- the parent ----------------------------------------------------------------------------------------------------------------------


class DemoFailed(Exception):
    """The demo cannot continue. The reason is a sentence for the user."""


class Child:
    """A child process, as its parent sees it. `wanted` is False once the parent has killed it or asked it to end."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process
        self.wanted = True
        self.ready = False
        self.ended = anyio.Event()  # the process is gone, and all its reports have been read
        self.errors = bytearray()

    def kill(self) -> None:
        """Kill the process, as a crash would end it."""
        self.wanted = False
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def end(self) -> None:
        """Ask the process to end in order, by closing its input."""
        self.wanted = False
        if self.process.stdin is not None:
            await self.process.stdin.aclose()


class Demo:
    """One run of the demo.

    Attributes:
        tally: the counts of messages.
        failure: the first failure of the demo; "" if there is none.
        victim: the consumer that was killed; "" before.
        orphans: the partitions that the victim owned.
        slowest: seconds from the kill until the last of these got a new owner, so far.
    """

    def __init__(self, messages: int, consumers: int, partitions: int) -> None:
        self.tally = Tally(messages)
        self.failure = ""
        self.victim = ""
        self.orphans: frozenset[int] = frozenset()
        self.slowest = 0.0
        self._names = [f"consumer-{number}" for number in range(1, consumers + 1)]
        self._partitions = partitions
        self._topic = current_environment().new_id()
        self._children: dict[str, Child] = {}
        self._owners: dict[int, str] = {}
        self._waiting: set[int] = set()  # orphans without a new owner
        self._began = self._progress = self._killed_at = self._told_at = 0.0
        self._told = ""

    async def run(self, backend: Backend, url: str) -> None:
        """Run the demo to its end. However it ends, every process that it started has ended."""
        self._began = self._progress = anyio.current_time()
        try:
            async with anyio.create_task_group() as tasks:
                try:
                    await self._run(tasks, backend, url)
                    await self._end_in_order()
                except DemoFailed as failure:
                    self.failure = self.failure or str(failure)
                finally:
                    for child in self._children.values():
                        child.kill()
        finally:
            with anyio.CancelScope(shield=True):
                for child in self._children.values():
                    await child.process.aclose()  # this waits for it

    def shares(self) -> dict[str, list[int]]:
        """Return the partitions that each consumer owns."""
        return {name: [partition for partition, owner in self._owners.items() if owner == name] for name in self._names}

    async def _run(self, tasks: TaskGroup, backend: Backend, url: str) -> None:
        for name in ("producer", *self._names):
            job = Job(name, backend, url, self._topic, self._partitions, self.tally.expected)
            child = self._children[name] = await _start(job)
            tasks.start_soon(self._listen, child)
            if name == "producer":  # it creates the topic
                await self._until(lambda: self._children["producer"].ready, "the producer")
        await self._until(self._balanced, "the consumers")
        self._say("partitions shared out: " + "; ".join(f"{name} {ranges(some) or 'none'}" for name, some in self.shares().items()))
        await self._begin_producing()
        await self._until(lambda: self.tally.done >= self.tally.expected // 2, "half of the messages")
        self._kill_one()
        await self._until(lambda: not self._waiting, "the takeover")
        await self._until(lambda: self.tally.done >= self.tally.expected, "the rest of the messages")
        self._say("everything produced has been processed")

    def _balanced(self) -> bool:
        loads = [len(some) for some in self.shares().values()]
        ready = all(child.ready for child in self._children.values())
        return ready and sum(loads) == self._partitions and max(loads) - min(loads) <= 1

    async def _begin_producing(self) -> None:
        stdin = self._children["producer"].process.stdin
        if stdin is not None:
            with contextlib.suppress(anyio.BrokenResourceError):  # it has ended, which `_listen` reports
                await stdin.send(b"go\n")

    def _kill_one(self) -> None:
        """Kill the consumer that owns the most partitions."""
        self.victim, owned = max(self.shares().items(), key=lambda item: len(item[1]))
        self.orphans, self._waiting = frozenset(owned), set(owned)
        self._killed_at = anyio.current_time()
        self._children[self.victim].kill()
        self._say(f"killed {self.victim} (SIGKILL); it owned {in_words(owned)}")

    async def _listen(self, child: Child) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_keep_errors, child)
            rest = b""
            async for data in _output(child.process.stdout):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self.take(child, msgspec.json.decode(line, type=Report))
        status = await child.process.wait()
        child.ended.set()
        if child.wanted:
            about = child.errors.decode(errors="replace").strip()
            self.failure = self.failure or f"{child.name} ended by itself with status {status}" + (f"; it wrote:\n{about}" if about else "")

    def take(self, child: Child, report: Report) -> None:
        """Process a child's report."""
        now = anyio.current_time()
        match report.what:
            case "ready":
                child.ready = True
            case "produced":
                self.tally.produce(report.ids)
            case "processed":
                self.tally.process(report.ids)
            case "acquired":
                self._acquired(child.name, report.partition, now)
            case "released":
                if self._owners.get(report.partition) == child.name:  # the next owner's report may have been faster
                    del self._owners[report.partition]
            case "note":
                self._say(f"{child.name} {report.text}")
                return
            case "failed":
                self.failure = self.failure or f"{child.name}: {report.text}"
        self._progress = now

    def _acquired(self, name: str, partition: int, now: float) -> None:
        self._owners[partition] = name
        if partition in self._waiting and name != self.victim:
            self._waiting.discard(partition)
            self.slowest = now - self._killed_at
            self._say(f"{name} took over {in_words([partition])}, {self.slowest:.2f} s after the kill")

    async def _until(self, done: Callable[[], bool], what: str) -> None:
        """Wait until `done()` is true, as long as there is progress and nothing has failed. Print the state now and then."""
        while not done():
            now = anyio.current_time()
            if self.failure:
                raise DemoFailed(self.failure)
            if now - self._progress > PATIENCE:
                raise DemoFailed(f"no progress for {PATIENCE:.0f} s while waiting for {what}")
            shares = ", ".join(f"{name} [{ranges(some)}]" for name, some in self.shares().items() if name != self.victim)
            text = f"produced {len(self.tally.produced)}/{self.tally.expected}, processed {self.tally.done}; {shares}"
            if now >= self._told_at + TELL and text != self._told:
                self._told_at, self._told = now, text
                print(f"{now - self._began:6.2f} s  {text}", flush=True)
            await anyio.sleep(LOOK)

    def _say(self, text: str) -> None:
        print(f"{anyio.current_time() - self._began:6.2f} s  * {text}", flush=True)

    async def _end_in_order(self) -> None:
        """Let the processes drain, and read their last reports, since a late duplicate counts, too."""
        for child in self._children.values():
            await child.end()
        with anyio.move_on_after(END_SECONDS):
            for child in self._children.values():
                await child.ended.wait()
        late = [name for name, child in self._children.items() if not child.ended.is_set()]
        if late:
            raise DemoFailed(f"{', '.join(late)} did not end within {END_SECONDS:.0f} s")


async def _start(job: Job) -> Child:
    # The child must import the same redisaq as this process, and nothing from the current directory.
    path = os.pathsep.join(place for place in sys.path if place)
    process = await anyio.open_process(
        [sys.executable, "-P", "-c", "import sys; from redisaq.cli.demo import main; sys.exit(main())"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path, JOB: msgspec.json.encode(job).decode()},
    )
    return Child(job.name, process)


async def _keep_errors(child: Child) -> None:
    async for data in _output(child.process.stderr):
        child.errors += data
        del child.errors[:-ERROR_BYTES]


def _output(stream: ByteReceiveStream | None) -> ByteReceiveStream:
    assert stream is not None  # noqa: S101 -- _start asks for pipes
    return stream


# -- a child -------------------------------------------------------------------------------------------------------------------------


def main() -> int:
    """Run the process of the demo that its environment describes. Return 0 unless it failed."""
    job = msgspec.json.decode(os.environ.pop(JOB), type=Job)
    return 0 if run(_work, job, backend=job.backend) else 1


def tell(report: Report) -> None:
    """Write a report to the pipe. The parent always reads, so this waits only while the parent is stalled."""
    with contextlib.suppress(BrokenPipeError):  # the parent is gone, which ends this process by its input
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
        sys.stdout.buffer.flush()


async def _work(job: Job) -> bool:
    told, over = anyio.Event(), anyio.Event()

    async def listen() -> None:
        while not over.is_set():
            await anyio.wait_readable(STDIN)
            (told if os.read(STDIN, 100) else over).set()

    if select.select([STDIN], [], [], 0)[0]:
        return False  # the parent is gone, and its server about to go: connecting would start it again
    failures: list[RedisaqError] = []
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await (_produce(job, told, over) if job.name == "producer" else _consume(job, over))
            tasks.cancel_scope.cancel()
    except* RedisaqError as group:
        failures += leaves_of(group)
    for failure in failures:
        tell(Report("failed", text=str(failure)))
    return not failures


async def _produce(job: Job, told: anyio.Event, over: anyio.Event) -> None:
    """Create the topic, wait for the parent's signal, enqueue batch by batch, and wait for the end."""
    fastest = job.partitions / WORK  # each partition runs one handler at a time
    batch = max(1, round(AHEAD * fastest / ENQUEUES))
    async with (
        Producer(job.topic, job.url, init_partitions=job.partitions, namespace=NAMESPACE) as producer,
        anyio.create_task_group() as tasks,
    ):

        async def end() -> None:
            await over.wait()
            tasks.cancel_scope.cancel()

        tasks.start_soon(end)
        tell(Report("ready"))
        await told.wait()
        for first in range(0, job.messages, batch):
            numbers = range(first, min(first + batch, job.messages))
            tell(Report("produced", ids=await producer.batch_enqueue([{"n": number} for number in numbers])))
            await anyio.sleep(1 / ENQUEUES)


async def _consume(job: Job, over: anyio.Event) -> None:
    async def handle(message: Message[Any]) -> None:
        await anyio.sleep(WORK)
        tell(Report("processed", ids=[message.msg_id]))

    async with (
        Consumer(
            job.topic,
            job.url,
            group_name="demo",
            heartbeat_interval=HEARTBEAT,
            heartbeat_ttl=TTL,
            drain_timeout=END_SECONDS / 4,
            namespace=NAMESPACE,
            on_event=_tell_event,
        ) as consumer,
        anyio.create_task_group() as tasks,
    ):

        async def end() -> None:
            await over.wait()
            with anyio.move_on_after(END_SECONDS / 2):
                await consumer.stop()
            tasks.cancel_scope.cancel()

        tasks.start_soon(end)
        await tasks.start(consumer.process, handle)
        tell(Report("ready"))


def _tell_event(event: events.Event) -> None:
    """Report those events of a consumer that concern the parent."""
    match event:
        case events.PartitionAcquired():
            tell(Report("acquired", partition=event.partition))
        case events.PartitionRevoked():
            tell(Report("released", partition=event.partition))
        case events.LeaseLost():
            tell(Report("released", partition=event.partition))
            tell(Report("note", text=f"lost partition {event.partition}: {event.reason}"))
        case events.MessageFailed():
            tell(Report("note", text=f"a handler failed: {event.error!r}"))
        case events.Disconnected():
            tell(Report("note", text=f"cannot reach the server: {event.reason}"))
        case events.Reconnected():
            tell(Report("note", text="reaches the server again"))
        case events.GroupLost():
            tell(Report("note", text="found the group's data gone from the server"))
        case events.KillNotPermitted():
            tell(Report("note", text="may not kill connections on this server (ACL): order across a crash is best effort"))
        case events.EntriesTrimmed():
            tell(Report("note", text="found messages trimmed from the stream"))
        case _:
            pass
