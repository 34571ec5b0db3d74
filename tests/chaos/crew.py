"""Real member processes, what they said, and the judgement on it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import msgspec

from tests.chaos.member import Line, Order


@dataclass
class MemberProcess:
    """One member."""

    order: Order
    process: subprocess.Popen[bytes]
    lines: list[Line] = field(default_factory=list)
    reader: threading.Thread | None = None
    killed_at: float | None = None
    stops: list[tuple[float, float]] = field(default_factory=list)

    def read(self) -> None:
        """Read its lines, in a thread; an incomplete last line of a killed member is ignored."""
        assert self.process.stdout is not None
        decoder = msgspec.json.Decoder(Line)
        for raw in self.process.stdout:
            with contextlib.suppress(msgspec.DecodeError):
                self.lines.append(decoder.decode(raw))

    def said(self, what: str) -> list[Line]:
        """Return its lines of one kind."""
        return [line for line in self.lines if line.what == what]


@dataclass(frozen=True)
class Program:
    """What a member's process runs.

    Attributes:
        tree: the package and the tests; None: these.
        prelude: what it executes before that.
    """

    tree: Path | None = None
    prelude: str = ""


THIS = Program()


class Crew:
    """All members of one test."""

    def __init__(self, url: str, topic: str, namespace: str, *, interval: float = 0.5, ttl: float = 2.0) -> None:
        self.base = Order(name="", url=url, topic=topic, namespace=namespace, interval=interval, ttl=ttl)
        self.members: dict[str, MemberProcess] = {}

    def start(self, name: str, backend: str, program: Program = THIS, /, **more: object) -> MemberProcess:
        """Start a member, with more of its order."""
        order = msgspec.structs.replace(self.base, name=name, backend=backend, **more)
        command = [
            sys.executable,
            "-c",
            f"{program.prelude}\nfrom tests.chaos.member import main\nmain()",
            msgspec.json.encode(order).decode(),
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=program.tree or Path.cwd())
        member = self.members[name] = MemberProcess(order, process)
        member.reader = threading.Thread(target=member.read, daemon=True)
        member.reader.start()
        return member

    def kill(self, name: str) -> None:
        """Kill -9."""
        member = self.members[name]
        member.process.send_signal(signal.SIGKILL)
        member.process.wait()
        member.killed_at = time.monotonic()

    async def pause(self, name: str, seconds: float) -> None:
        """SIGSTOP, then SIGCONT."""
        member = self.members[name]
        member.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        await anyio.sleep(seconds)
        member.stops.append((began, time.monotonic()))
        member.process.send_signal(signal.SIGCONT)

    async def leave(self, name: str) -> None:
        """SIGTERM, and wait for its end."""
        member = self.members[name]
        member.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(30):
            while member.process.poll() is None:
                await anyio.sleep(0.01)
        assert member.process.returncode == 0, f"{name} ended with {member.process.returncode}"

    def lines(self) -> list[Line]:
        """Return what all said, in the order of time."""
        return sorted((line for member in self.members.values() for line in member.lines), key=lambda line: line.at)

    def done(self) -> set[str]:
        """Return the messages whose handlers finished."""
        return {line.msg_id for line in self.lines() if line.what == "done"}

    def close(self) -> None:
        """End those that still run."""
        for member in self.members.values():
            if member.process.poll() is None:
                member.process.kill()
                member.process.wait()
            if member.reader is not None:
                member.reader.join(5)
            if member.process.stdout is not None:
                member.process.stdout.close()

    # -- judgement ---------------------------------------------------------------------------------------------------------------

    def intervals(self) -> Iterator[tuple[int, float, float, str]]:
        """Yield (partition, begin, end, member) of every handler; one that never ended, ended with its process."""
        for name, member in self.members.items():
            running: dict[str, Line] = {}
            for line in member.lines:
                if line.what == "start":
                    running[line.msg_id] = line
                elif line.what in ("done", "failed", "cancelled") and line.msg_id in running:
                    start = running.pop(line.msg_id)
                    yield line.partition, start.at, self.stopped_at(member, start.at, line.at), name
            for line in running.values():
                yield line.partition, line.at, member.killed_at or float("inf"), name

    def stopped_at(self, member: MemberProcess, begin: float, end: float) -> float:
        """Return when a handler's work ended: at the stop, if it spans one that is longer than the lease."""
        for stop, cont in member.stops:
            if begin < stop and end >= cont and cont - stop > member.order.ttl:
                return stop
        return end

    def overlaps(self) -> list[tuple[int, str, str, float]]:
        """Return where two members' handlers of one partition ran at the same time (partition, members, seconds)."""
        by_partition: dict[int, list[tuple[float, float, str]]] = defaultdict(list)
        for partition, begin, end, name in self.intervals():
            by_partition[partition].append((begin, end, name))
        found: list[tuple[int, str, str, float]] = []
        for partition, all_of_it in by_partition.items():
            latest: tuple[float, float, str] | None = None
            for one in sorted(all_of_it):
                if latest is not None and one[2] != latest[2] and one[0] < latest[1]:
                    found.append((partition, latest[2], one[2], min(latest[1], one[1]) - one[0]))
                if latest is None or one[1] > latest[1]:
                    latest = one
        return found

    def after_waking(self) -> dict[tuple[str, str], list[str]]:
        """Return what handlers begun before a stop longer than the lease said after it: (member, message) -> words."""
        words: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name, member in self.members.items():
            for stop, cont in member.stops:
                if cont - stop <= member.order.ttl:
                    continue
                tokens = {(line.partition, line.token) for line in member.lines if line.what == "start" and line.at < stop}
                for line in member.lines:
                    if line.at >= cont and (line.partition, line.token) in tokens and line.what in ("start", "step", "done", "cancelled"):
                        words[name, line.msg_id].append(line.what)
        return words


async def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition, and say what was waited for if it does not come."""
    try:
        with anyio.fail_after(seconds):
            while not condition():
                await anyio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"after {seconds} s there is still no: {what}") from None
