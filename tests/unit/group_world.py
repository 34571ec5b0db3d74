"""A group of members, a server that fails, and time: everything that may happen, one step at a time.

What drives it (hypothesis, or a seed) says what happens next. After each step the world checks what must always hold and
raises Violation if it does not; `settle` lets everything calm down and checks what must hold then.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from redisaq.core.membership import UNKNOWN, Document
from tests.unit.group_member import Life, Lost, Member, Request
from tests.unit.group_server import TTL, Change, Server


class Violation(AssertionError):
    """A rule's promise was broken."""


def demand(condition: object, message: str) -> None:
    if not condition:
        raise Violation(message)


@dataclass(eq=False)
class Process:
    """A member's generator, and where it stands: asking, answered, or (neither) asleep."""

    member: Member
    life: Life
    request: Request | None = None
    answer: Callable[[], Any] | None = None  # resumes the generator
    paused: bool = False


@dataclass
class World:
    """One group: its members, its server, and what is on its way between them.

    Attributes:
        off: rules that are taken out, and two assumptions: "known" (that no member which never saw the group makes its document
            within a ttl of a FLUSHALL, before or after) and "replicated" (that a failover loses heartbeats only).
        calm: nothing goes wrong any more, and every drain ends at once.
        late: requests whose connection broke and which may come through yet.
        owner: incarnation -> whose it is.
        tokens: partition -> the greatest that was ever leased.
        flushed: when everything was lost.
        founded_blindly: when a member that never saw the group made its document.
    """

    off: frozenset[str] = frozenset()
    time: float = 1000.0
    calm: bool = False
    processes: list[Process] = field(default_factory=list[Process])
    late: list[Request] = field(default_factory=list[Request])
    owner: dict[str, Member] = field(default_factory=dict[str, Member])
    tokens: dict[int, int] = field(default_factory=dict[int, int])
    flushed: float = -math.inf
    founded_blindly: float = -math.inf

    def __post_init__(self) -> None:
        self.server = Server(self.off, self.check_change)
        self.replica = self.server.copy()

    # -- what a member asks of its surroundings ----------------------------------------------------------------------------------

    def elapsed(self) -> float:
        return self.time

    def new_incarnation(self, member: Member) -> str:
        fresh = f"i{len(self.owner)}"
        incarnation = member.name or fresh if "M1" in self.off else fresh
        self.owner[incarnation] = member
        return incarnation

    def may_found(self, member: Member) -> bool:
        """Tell whether a member that sees no document may make it: the hole that stays open (FLUSHALL, M8) is left out."""
        others = (process.member for process in self.processes)
        blind = self.time < self.flushed + TTL and any(other.known is not None for other in others)
        return "known" in self.off or member.known is not None or not blind

    # -- what may happen ---------------------------------------------------------------------------------------------------------

    def start(self, name: str | None, speed: float = 1.0) -> None:
        """Start a process."""
        member = Member(self, name, speed)
        process = Process(member, member.life())
        self.processes.append(process)
        self._go(process)

    def tick(self, units: int) -> None:
        """Let time pass."""
        self.time += units

    def arrive(self, pick: int) -> bool:
        """Let a request reach the server, which answers."""
        process = self._pick(pick, lambda p: p.request is not None)
        if process is not None:
            self._arrive(process)
        return process is not None

    def resume(self, pick: int) -> bool:
        """Let a member go on: with its answer, or because the doorbell rings or a timer has run out."""
        process = self._pick(pick, lambda p: p.request is None and not p.paused)
        if process is not None:
            self._resume(process)
        return process is not None

    def go(self, pick: int) -> bool:
        """Let a member come to its next wait, without a fault."""
        process = self._pick(pick, lambda p: not p.paused)
        if process is not None:
            self._go(process)
        return process is not None

    def lose_request(self, pick: int, *, late: bool = False) -> bool:
        """Break a connection before the server has the request; if `late`, it still comes through."""
        process = self._pick(pick, lambda p: p.request is not None)
        if process is not None and process.request is not None:
            if late:
                self.late.append(process.request)
            process.request = None
            self._break(process)
        return process is not None

    def lose_answer(self, pick: int) -> bool:
        """Break a connection after the server has carried the request out."""
        process = self._pick(pick, lambda p: p.answer is not None)
        if process is not None:
            self._break(process)
        return process is not None

    def come_late(self, pick: int) -> bool:
        """Let a request through whose connection broke."""
        if self.late:
            self._execute(self.late.pop(pick % len(self.late)))
            return True
        return False

    def pause(self, pick: int) -> bool:
        """Stop a process as SIGSTOP does, or let a stopped one go on."""
        process = self._pick(pick, lambda _: True)
        if process is not None:
            process.paused = not process.paused
        return process is not None

    def crash(self, pick: int) -> bool:
        """Kill a process."""
        process = self._pick(pick, lambda _: True)
        if process is not None:
            process.member.gone = True
            self.processes.remove(process)
        return process is not None

    def stop(self, pick: int) -> bool:
        """Ask a process to leave."""
        process = self._pick(pick, lambda p: not p.member.stopping)
        if process is not None:
            process.member.stopping = True
        return process is not None

    def drain(self, pick: int) -> bool:
        """Let the handlers of a partition come to their end."""
        process = self._pick(pick, lambda p: bool(p.member.running))
        if process is not None:
            partitions = sorted(process.member.running)
            process.member.drained.add(partitions[pick % len(partitions)])
        return process is not None

    def grow(self, partitions: int) -> bool:
        """Raise the topic's partition count."""
        self.server.partitions = self.replica.partitions = max(self.server.partitions, partitions)
        return True

    def failover(self, ahead: int) -> bool:
        """Put the replica in the server's place: it missed the last heartbeats, and its clock differs."""
        replica = self.replica.copy()
        replica.run_id = self.server.run_id + 1
        replica.ahead = ahead
        replica.versions = self.server.versions
        self.server = replica
        self.replica = replica.copy()
        self.late.clear()
        for process in list(self.processes):
            if process.request is not None:
                process.request = None
                self._break(process)
        return True

    def replicate(self, _: int) -> bool:
        """Let the replica catch up."""
        self.replica = self.server.copy()
        return True

    def lose_group(self, *, data: bool) -> bool:
        """Lose the group's slot; with `data` everything (FLUSHALL)."""
        blind = self.time < self.founded_blindly + TTL or any(p.member.known is None and p.request is not None for p in self.processes)
        if self.server.state is None or (data and blind and "known" not in self.off):
            return False
        self.server.state = None
        self.server.members.clear()
        if data:
            self.server.data.clear()
            self.flushed = self.time
        if "M3 random" not in self.off:
            self.late.clear()
        self.replica = self.server.copy()
        self.tokens.clear()
        return True

    # -- what must hold ----------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """No partition is worked on by two."""
        working = Counter(partition for p in self.processes if p.member.working() for partition in p.member.running)
        for partition, owners in working.items():
            demand(owners <= 1, f"{owners} members work on partition {partition}")

    def check_change(self, change: Change) -> None:
        """Check one commit: what each rule says about how documents follow each other."""
        before, after = change.before, change.after
        demand(after.epoch > before.epoch, "the epoch did not grow")
        demand(after.partitions >= before.partitions, "the partition count fell")
        if "M5 recheck" not in self.off:
            demand(not change.dropped, "a living member was dropped")
        committer = self.owner[change.by]
        now = int(self.time) + self.server.ahead
        for partition, holder in before.lease.items():
            if after.lease.get(partition) != holder and holder != UNKNOWN and self.owner[holder] is not committer:
                demand(not self.server.alive(holder, now), f"a living member's lease of {partition} was taken")
                demand(holder not in after.lease.values(), "a member lost some leases, not all")
        for partition, token in before.token.items():
            demand(after.token.get(partition, -1) >= token, f"the token of {partition} fell or was dropped")
        for partition, holder in after.lease.items():
            if holder not in {UNKNOWN, before.lease.get(partition)}:
                token = after.token[partition]
                demand(token > self.tokens.get(partition, -1), f"the token {token} of {partition} was given before")
                self.tokens[partition] = token
        if change.made and committer.known is None:
            self.founded_blindly = self.time

    def settle(self) -> None:
        """Let faults end and time pass; then everything is owned, evenly, by those that are left, and nothing changes any more."""
        self.calm = True
        for process in self.processes:
            process.paused = False
        while self.late:
            self.come_late(0)
            self.check()
        for _ in range(6 * TTL // 15):
            self.round(15)
        before = self.server.state
        for _ in range(4):
            self.round(15)
        demand(self.server.state == before, "the document still changes")
        if self.processes:
            assert before is not None
            self.check_settled(before.document)

    def check_settled(self, document: Document) -> None:
        """Check the end: the document and the members agree."""
        living = {p.member.incarnation: p.member for p in self.processes}
        listed = [one for entry in document.members.values() for one in (entry.incarnation, *entry.successors)]
        demand(sorted(listed) == sorted(living), f"listed are {listed}, living {sorted(living)}")
        holders = {name: entry.incarnation for name, entry in document.members.items()}
        demand(document.partitions == self.server.partitions, "the partition count is not the topic's")
        for partition in range(document.partitions):
            holder = document.lease.get(partition, "nobody")
            demand(holder == holders[document.target[partition]], f"{partition} is leased to {holder}")
            demand(living[holder].running.get(partition) == document.token[partition], f"{partition} does not run")
        loads = [sum(holder == one for holder in document.lease.values()) for one in holders.values()]
        demand(max(loads) - min(loads) <= 1, f"the loads are {loads}")

    # -- the machinery -----------------------------------------------------------------------------------------------------------

    def round(self, units: int) -> None:
        """Let time pass, and then every member that is not paused do what it has to, without a fault."""
        self.time += units
        for process in [process for process in self.processes if not process.paused]:
            self._go(process)
            turns = 0
            while process in self.processes and (process.request is not None or process.answer is not None):
                self._go(process)
                self.check()
                turns += 1
                demand(turns < 200, "a member turns in circles")

    def _arrive(self, process: Process) -> None:
        if process.request is not None:
            request, process.request = process.request, None
            result = self._execute(request)
            process.answer = lambda: process.life.send(result)

    def _resume(self, process: Process) -> None:
        """Resume the generator up to its next yield."""
        resume, process.answer = process.answer or (lambda: next(process.life)), None
        try:
            process.request = resume()
        except StopIteration:
            self.processes.remove(process)

    def _go(self, process: Process) -> None:
        self._arrive(process)
        self._resume(process)

    def _pick(self, pick: int, condition: Callable[[Process], bool]) -> Process | None:
        able = [process for process in self.processes if condition(process)]
        return able[pick % len(able)] if able else None

    def _execute(self, request: Request) -> object:
        writes = self.server.writes
        result = request(self.server, int(self.time) + self.server.ahead)
        if self.server.writes != writes and "replicated" not in self.off:
            self.replica = self.server.copy()
        self.time += 1
        return result

    def _break(self, process: Process) -> None:
        process.answer = lambda: process.life.throw(Lost())
