"""One consumer's part in its group, as a generator: it yields requests to the server and is sent the answers.

`None` instead of a request means: sleep until woken. A request whose answer is lost raises Lost at its yield. It decides with
redisaq.core.membership alone, and is what the real coordinator must do, without its tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Protocol

from msgspec.structs import replace

from redisaq.brokers.steps.coordination import Beat
from redisaq.core.membership import (
    Document,
    Step,
    advance,
    duties,
    is_member,
    join,
    lease_deadline,
    leave,
    made_again,
    may_acquire_foreign,
    raise_token,
    release,
)
from tests.unit.group_server import TTL, Server

Request = Callable[[Server, int], Any]
Life = Generator[Request | None, Any, Any]


class Lost(Exception):
    """The answer will not come; the request may have been carried out, or may be yet."""


class Surroundings(Protocol):
    """What a member needs to know of the world."""

    off: frozenset[str]
    calm: bool  # a drain ends at once

    def elapsed(self) -> float: ...
    def new_incarnation(self, member: Member) -> str: ...
    def may_found(self, member: Member) -> bool: ...


@dataclass(eq=False)
class Member:
    """A process, from its start to its end.

    Attributes:
        running: partition -> token: the handlers at work, as long as `local() < deadline`.
    """

    world: Surroundings
    name: str | None
    speed: float  # of its clock
    incarnation: str = ""
    former: set[str] = field(default_factory=set[str])
    deadline: float = -1.0
    running: dict[int, int] = field(default_factory=dict[int, int])
    drained: set[int] = field(default_factory=set[int])
    known: Document | None = None
    version: str = ""
    stopping: bool = False
    gone: bool = False
    claims: frozenset[int] = frozenset()

    def local(self) -> float:
        """Return its own clock."""
        return self.world.elapsed() * self.speed

    def working(self) -> bool:
        """Return whether its handlers may run now."""
        return not self.gone and (self.local() < self.deadline or "M5 deadline" in self.world.off)

    def life(self) -> Life:
        """Join, work, join again as a new incarnation whenever the lease is over; until told to stop."""
        while (yield from self.enter()):
            yield from self.work()
            self.running.clear()
            self.drained.clear()
            self.former.add(self.incarnation)
            if self.stopping:
                break
        self.gone = True

    def call(self, request: Request) -> Life:
        """Return the answer, None if it is lost."""
        try:
            return (yield request)
        except Lost:
            return None

    def beat(self) -> Life:
        """Return a heartbeat's answer and when it was sent."""
        sent = self.local()
        incarnation, version = self.incarnation, self.version
        beat = yield from self.call(lambda server, now: server.heartbeat(now, incarnation, version))
        if "M5 sent" in self.world.off:
            sent = self.local()
        return beat, sent

    def commit(self, document: Document, **options: Any) -> Life:
        """Try to put the document in the place of the one last seen; return whether it is known to have worked."""
        incarnation, version = self.incarnation, self.version
        new = yield from self.call(lambda server, now: server.commit(now, incarnation, version, document, **options))
        if new is not None:
            self.known, self.version = document, new
        return new is not None

    def see(self, beat: Beat) -> Document | None:
        """Take in the document that a heartbeat showed."""
        self.version = beat.version
        if not beat.version:
            return None
        if beat.document is not None:
            self.known = beat.document
        return self.known

    def expires(self, sent: float) -> float:
        """Return the deadline that follows from a success."""
        return sent + TTL if "M5 margin" in self.world.off else lease_deadline(sent, TTL)

    def enter(self) -> Life:
        """Become a member; return False if told to stop first."""
        last_deadline = self.deadline  # what it held is surely its own until then
        self.incarnation = self.world.new_incarnation(self)
        while not self.stopping:
            beat, sent = yield from self.beat()
            if beat is None:
                yield None
                continue
            document = self.see(beat)
            if document is not None and is_member(document, self.incarnation):  # its join arrived, though its answer did not
                if not beat.alive:
                    self.incarnation = self.world.new_incarnation(self)
                    continue
                self.deadline = self.expires(sent)
                return True
            if document is None and not self.world.may_found(self):
                yield None
                continue
            freeze = document is None and self.known is not None and "M8 freeze" not in self.world.off
            if document is None:
                document = made_again(self.known if freeze else None, partitions=beat.topic.partitions)
                document = replace(document, lease={}) if "M8 unknown" in self.world.off else document
            document = join(
                document,
                name=self.name,
                incarnation=self.incarnation,
                partitions=beat.topic.partitions,
                former=self.former,
                held=self.claims if self.local() < last_deadline else (),
            )
            sent = self.local()
            if (yield from self.commit(document, joins=True, freeze=freeze)):
                self.deadline = self.expires(sent)
                return True
            yield None
        return False

    def work(self) -> Life:
        """Renew, obey, improve; return when the lease is over, or when it has left."""
        self.claims = frozenset()
        while True:
            yield None
            beat, sent = yield from self.beat()
            if not self.working() and "M5 final" not in self.world.off:
                return  # M5: whatever has been answered
            if beat is None:
                continue
            if not beat.alive:
                return
            self.deadline = self.expires(sent)
            document = self.see(beat)
            if document is None or not is_member(document, self.incarnation):
                self.claims = frozenset(self.running)  # M4, M8
                return
            if self.stopping:
                if (yield from self.depart(document)):
                    return
                continue
            yield from self.obey(document, beat)

    def obey(self, document: Document, beat: Beat) -> Life:
        """Do what one document asks for."""
        asked = duties(document, incarnation=self.incarnation, held=self.running)
        for partition in asked.lost:  # M4
            del self.running[partition]
            self.drained.discard(partition)
        ready = {partition for partition in asked.revoke if partition in self.drained or self.world.calm} | asked.vacate
        if ready:
            yield from self.hand_back(document, ready)
            return
        step = self.advance(document, beat)
        if step.document is not None and not (yield from self.commit(step.document, expired=step.expired)):
            return
        document = document if step.document is None else step.document
        for partition, token in duties(document, incarnation=self.incarnation, held=self.running).take.items():
            if not self.working():
                return
            yield from self.take(partition, token, beat)

    def advance(self, document: Document, beat: Beat) -> Step:
        """Return what to commit next."""
        assert beat.topic is not None
        name = next((name for name, entry in document.members.items() if entry.incarnation == self.incarnation), None)
        if "live" in self.world.off:  # takes what is meant for it from the member that has it
            mine = {partition for partition, owner in document.target.items() if owner == name}
            document = replace(
                document, lease={p: holder for p, holder in document.lease.items() if p not in mine or holder == self.incarnation}
            )
        step = advance(
            document,
            incarnation=self.incarnation,
            now=beat.now,
            expired=beat.expired,
            partitions=beat.topic.partitions,
            frozen=beat.now < beat.frozen_until,
        )
        if "M6" in self.world.off and step.document is not None:  # gives the last token once more
            old = {partition: document.token.get(partition, beat.now) for partition in step.acquired}
            step = Step(replace(step.document, token=step.document.token | old), step.expired, old)
        return step

    def take(self, partition: int, token: int, beat: Beat) -> Life:
        """Install the token, and begin."""
        foreign = may_acquire_foreign(beat.now, frozen_until=beat.frozen_until, born=beat.born, ttl_us=TTL)
        foreign = foreign or "M8 born" in self.world.off
        incarnation = self.incarnation
        installed = yield from self.call(lambda server, _: server.install(partition, token, incarnation, foreign=foreign))
        if installed is not None and not installed.done and installed.holder in self.former:  # its own, ended: nobody to wait for
            foreign = True
            installed = yield from self.call(lambda server, _: server.install(partition, token, incarnation, foreign=True))
        if installed is None or not self.working():
            return
        if installed.done:
            self.running[partition] = token
            return
        if installed.token >= token and (foreign or installed.holder in {"", incarnation}):  # T2
            assert self.known is not None
            raised = raise_token(self.known, incarnation=incarnation, partition=partition, above=installed.token, now=beat.now)
            if raised is not None:
                yield from self.commit(raised)

    def hand_back(self, document: Document, partitions: set[int]) -> Life:
        """Release drained partitions, beside the data first."""
        for partition in sorted(partitions):
            yield from self.release(partition, document.token[partition])
        yield from self.commit(release(document, incarnation=self.incarnation, partitions=partitions))

    def release(self, partition: int, token: int) -> Life:
        """Stop work on a partition, and let go beside its data."""
        self.running.pop(partition, None)
        self.drained.discard(partition)
        yield from self.call(lambda server, _: server.release(partition, token))

    def depart(self, document: Document) -> Life:
        """Leave; return whether it is known to have worked."""
        for partition, token in list(self.running.items()):
            yield from self.release(partition, token)
        return (yield from self.commit(leave(document, incarnation=self.incarnation), leaves=True))
