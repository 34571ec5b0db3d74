"""Members that kill or stop themselves directly before or after one of their broker's steps: `python -m tests.chaos.doomed BACKEND`.

Input: a line of JSON for each member, an Order. Output: lines of JSON, of each handler that begins and ends and of the member's last step;
then one that says how the member's process ended, and one before that if it stopped (SIGSTOP). A member lets the topic grow if that is
asked for, redrives, then works until nothing is left. One that is to be killed and ends by itself has never come to its step. The process
that reads the orders imports everything once, and each member is a fork of it that has a loop of its own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from redisaq import Consumer, Message, RetryPolicy
from redisaq.brokers import growth
from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.redis.reader import RedisReader
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.leases import SetDeliveries
from redisaq.brokers.steps.retrying import StartRetry, redrive
from redisaq.brokers.steps.settling import Acknowledge, Resolve
from redisaq.brokers.terms import GroupName
from redisaq.link import Link, parse_address

GROUP = GroupName("jobs", "default_group")
ATTEMPTS = 3
INTERVAL, TTL = 0.3, 60.0
LONGEST = 120
"""Seconds after which a member ends that nobody ends."""


class Doom(msgspec.Struct, frozen=True, kw_only=True):
    """When the member is to die, or to stop: at the `nth` step of the kind ("resolve dead": one that makes a dead letter)."""

    kind: str
    side: Literal["before", "after"]
    nth: int = 1
    blocking: bool = False
    stops: bool = False


class Order(msgspec.Struct, kw_only=True):
    """What the member is to do, and where: redrive one dead letter, or let the topic grow and redrive all; then work."""

    doom: Doom
    url: str
    namespace: str
    dead_id: bytes = b""
    partitions: int = 0
    ttl: float = TTL


class Line(msgspec.Struct, kw_only=True):
    """What happened.

    A handler: "start", "failed", "done". An attempt is about to be written down: "noted". The step: "before", "after". The member's process
    has stopped: "stopped", with `n` as its id; it has ended: "end", with `n` as Popen.returncode has it.
    """

    what: str
    n: int = -1
    attempt: int = 0
    entries: list[str] = []


@contextlib.asynccontextmanager
async def broker_of(url: str, namespace: str) -> AsyncGenerator[RedisBroker, None]:
    """Open a broker of its own."""
    broker = RedisBroker(Link(parse_address(url)), namespace)
    try:
        await broker.connect()
        yield broker
    finally:
        await broker.close()


def consumer_of(url: str, namespace: str, *, blocking: bool, ttl: float = TTL) -> Consumer[Any]:
    """Return a consumer that tries each message three times, soon."""
    policy = RetryPolicy(max_attempts=ATTEMPTS, backoff=0.01, jitter=False, blocking=blocking)
    return Consumer("jobs", url, namespace=namespace, heartbeat_interval=INTERVAL, heartbeat_ttl=ttl, retry=policy)


class Doomed:
    """The process that forks members, seen from the test: one member after the other."""

    def __init__(self, process: Process) -> None:
        """Talk to a process that `open_doomed` has started."""
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders = process.stdin
        self._lines = BufferedByteReceiveStream(process.stdout)

    async def obey(self, order: Order, meanwhile: Callable[[], Awaitable[object]] | None = None) -> tuple[list[Line], int]:
        """Let a member obey the order; return what it said, and how its process ended. While it is stopped, do something else."""
        await self._orders.send(msgspec.json.encode(order) + b"\n")
        lines: list[Line] = []
        while not lines or lines[-1].what != "end":
            lines.append(msgspec.json.decode(await self._lines.receive_until(b"\n", 1 << 20), type=Line))
            if lines[-1].what == "stopped" and meanwhile is not None:
                try:
                    await meanwhile()
                finally:
                    os.kill(lines[-1].n, signal.SIGCONT)
        return lines[:-1], lines[-1].n


@contextlib.asynccontextmanager
async def open_doomed(loop: str) -> AsyncGenerator[Doomed, None]:
    """Start the process that forks members, which run on this event loop."""
    async with await anyio.open_process([sys.executable, "-m", "tests.chaos.doomed", loop], stderr=None, cwd=Path.cwd()) as process:
        yield Doomed(process)


def handler(say: Callable[[Line], object]) -> Callable[[Message[Any]], Any]:
    """Return a handler that fails as often as the payload says, and tells what it does."""

    async def handle(message: Message[Any]) -> None:
        n = message.payload["n"]
        say(Line(what="start", n=n, attempt=message.attempt, entries=[message.entry_id]))
        if message.attempt <= message.payload["failures"]:
            say(Line(what="failed", n=n, attempt=message.attempt, entries=[message.entry_id]))
            raise ValueError("as the payload says")
        say(Line(what="done", n=n, attempt=message.attempt, entries=[message.entry_id]))

    return handle


def tell(line: Line) -> None:
    """Write one line, whole."""
    os.write(1, msgspec.json.encode(line) + b"\n")


def _entries(goal: str, steps: Sequence[object]) -> list[str] | None:
    """Return the entries that steps settle, of one goal if one is asked for; None if they are not such steps."""
    found: list[bytes] = []
    for step in steps:
        match step:
            case Resolve() if goal:
                found += [one.body.entry_id for one in step.resolutions if one.to == goal]
            case Acknowledge():
                found += step.entry_ids
            case _:
                pass
    return [entry_id.decode() for entry_id in found] if found or not goal else None


def install(doom: Doom) -> None:
    """Let the nth step of the kind be the last one of this process, or the one at which it stops."""
    name, _, goal = doom.kind.partition(" ")
    left, end = doom.nth, signal.SIGSTOP if doom.stops else signal.SIGKILL

    async def step(whole: Callable[..., Any], self: Any, *args: Any) -> Any:
        nonlocal left
        steps = args[0] if args and isinstance(args[0], list) else args
        entries = _entries(goal, steps)
        if entries is None or not steps or {one.name for one in steps if isinstance(one, Step)} - {name}:
            return await whole(self, *args)
        left -= 1
        this = not left  # steps may be under way at the same time
        if this and doom.side == "before":
            tell(Line(what="before", entries=entries))
            os.kill(os.getpid(), end)
        answer = await whole(self, *args)
        if this and doom.side == "after":
            tell(Line(what="after", entries=entries))
            os.kill(os.getpid(), end)
        return answer

    owner: Any = RedisReader if name == "read" else RedisBroker
    for method in (name,) if name in ("read", "open_reader") else ("do", "do_each"):
        setattr(owner, method, functools.partialmethod(functools.partial(step, getattr(owner, method))))


def tell_of_noting() -> None:
    """Tell of each step that writes down an attempt, before it is sent: whether it was done, a killed process cannot know."""
    whole = RedisBroker.do

    async def do(self: RedisBroker, step: Step[Any]) -> Any:
        match step:
            case SetDeliveries():
                tell(Line(what="noted", entries=[entry_id.decode() for entry_id in step.counts]))
            case StartRetry():
                tell(Line(what="noted", entries=[step.entry_id.decode()]))
            case _:
                pass
        return await whole(self, step)

    RedisBroker.do = do  # type: ignore[method-assign]


async def redrive_all(broker: RedisBroker, partitions: int) -> None:
    """Let the topic grow, and redrive every dead letter, as an administrator does."""
    state = await growth.make_or_grow(broker, GROUP.topic, partitions)
    for partition in range(state.partitions):
        await growth.redrive(broker, GROUP, partition, None, 100, state=state)


async def work(order: Order) -> None:
    """Redrive, then work until nothing is left."""
    async with broker_of(order.url, order.namespace) as broker:
        if order.partitions:
            growth.TOGETHER = 1  # each cut is a step of its own
            await redrive_all(broker, order.partitions)
        else:
            await redrive(broker, GROUP, 0, [order.dead_id], count=1)
    consumer = consumer_of(order.url, order.namespace, blocking=order.doom.blocking, ttl=order.ttl)
    await consumer.process(handler(tell), until_empty=True)


def obey(order: Order, options: dict[str, Any]) -> None:
    """Be one member, until the end."""
    status = 1
    try:
        signal.alarm(LONGEST)
        tell_of_noting()
        install(order.doom)
        anyio.run(work, order, **options)
        status = 0
    except BaseException:  # noqa: BLE001 -- whatever it is, this fork must not go on as the process that it came from
        traceback.print_exc()
    finally:
        os._exit(status)


async def nothing() -> None:
    """Import what the event loop needs."""


def main(backend: str) -> None:
    """Fork a member for each order, one after the other."""
    options: dict[str, Any] = {"backend": "trio"} if backend == "trio" else {"backend_options": {"use_uvloop": backend == "uvloop"}}
    anyio.run(nothing, **options)
    for line in sys.stdin.buffer:
        member = os.fork()
        if not member:
            obey(msgspec.json.decode(line, type=Order), options)
        _, status = os.waitpid(member, os.WUNTRACED)
        while os.WIFSTOPPED(status):
            tell(Line(what="stopped", n=member))
            _, status = os.waitpid(member, os.WUNTRACED)
        tell(Line(what="end", n=os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    main(sys.argv[1])
