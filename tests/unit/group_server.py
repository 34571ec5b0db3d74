"""What the server does for a group, as a pure state machine: the steps that the rules M and T2 ask of a broker.

Input: a request and the time. Output: the answer, and every change handed to `watch`. Rules can be taken out by name (`off`), to show that
the simulation notices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from redisaq.brokers.steps.coordination import Beat
from redisaq.brokers.steps.leases import Installed
from redisaq.brokers.steps.topics import TopicState
from redisaq.core.membership import EMPTY, Document

TTL = 120  # the server's units of time, of which a lease lasts this many


@dataclass(frozen=True)
class Change:
    """One commit that was carried out."""

    by: str
    before: Document
    after: Document
    dropped: tuple[str, ...]  # those of the committer's `expired` that were still alive
    made: bool  # there was no document before


@dataclass(frozen=True)
class State:
    """What stands beside the document."""

    version: str
    document: Document
    run_id: int
    born: int
    frozen_until: int = 0


@dataclass
class Server:
    """One Redis: the group's slot (members, state) and the partitions' (data: partition -> token, holder)."""

    off: frozenset[str]
    watch: Callable[[Change], None]
    run_id: int = 0
    ahead: int = 0  # its clock, against the world's
    versions: int = 0
    writes: int = 0  # of what a failover must not lose: all but heartbeats
    partitions: int = 3
    members: dict[str, int] = field(default_factory=dict[str, int])
    state: State | None = None
    data: dict[int, tuple[int, str]] = field(default_factory=dict[int, tuple[int, str]])

    def copy(self) -> Server:
        """Return what a replica has that is up to date."""
        return replace(self, members=dict(self.members), data=dict(self.data))

    def alive(self, incarnation: str, now: int) -> bool:
        """Return whether it is a member whose time has not run out."""
        return self.members.get(incarnation, 0) > now

    def heartbeat(self, now: int, incarnation: str, known_version: str) -> Beat:
        """Extend a live member, tell what others did (M5, M7)."""
        state = self.state
        if state is not None and state.run_id != self.run_id and "M7 run_id" not in self.off:
            self.members = {member: max(expiry, now + TTL) for member, expiry in self.members.items()}
            state = self.state = replace(state, run_id=self.run_id, frozen_until=now + TTL)
        alive = self.alive(incarnation, now) or ("M5 revive" in self.off and incarnation in self.members)
        if alive:
            self.members[incarnation] = now + TTL
        others = [(member, expiry) for member, expiry in self.members.items() if member != incarnation]
        return Beat(
            alive=alive,
            now=now,
            version="" if state is None else state.version,
            document=None if state is None or state.version == known_version else state.document,
            expired=tuple(sorted(member for member, expiry in others if expiry <= now)),
            topic=TopicState(0, self.partitions),
            born=0 if state is None else state.born,
            frozen_until=0 if state is None else state.frozen_until,
        )

    def commit(
        self,
        now: int,
        incarnation: str,
        known_version: str,
        document: Document,
        *,
        joins: bool = False,
        leaves: bool = False,
        freeze: bool = False,
        expired: Sequence[str] = (),
    ) -> str | None:
        """Replace the document under its version (M3), the members with it (M2)."""
        state = self.state
        if known_version != ("" if state is None else state.version):
            return None
        if state is not None and state.run_id != self.run_id and "M7 run_id" not in self.off:
            return None
        if not joins and not self.alive(incarnation, now):
            return None
        living = tuple(member for member in expired if self.alive(member, now))
        if living and "M5 recheck" not in self.off:
            return None
        if expired and state is not None and state.frozen_until > now:
            return None
        self.versions += 1
        self.writes += 1
        version = f"v{document.epoch}" if "M3 random" in self.off else f"v{self.run_id}.{self.versions}"
        if state is None:
            self.state = State(version, document, self.run_id, born=now, frozen_until=now + TTL if freeze else 0)
        else:
            self.state = replace(state, version=version, document=document)
        for member in expired:
            self.members.pop(member, None)
        if joins:
            self.members[incarnation] = now + TTL
        if leaves:
            self.members.pop(incarnation, None)
        self.watch(Change(incarnation, EMPTY if state is None else state.document, document, living, made=state is None))
        return version

    def install(self, partition: int, token: int, incarnation: str, *, foreign: bool) -> Installed:
        """Put a token beside the data (T2)."""
        stands, holder = self.data.get(partition, (0, ""))
        done = (token, incarnation) == (stands, holder) or (token > stands and (foreign or holder in {"", incarnation}))
        if done:
            self.writes += 1
            self.data[partition] = (token, incarnation)
        return Installed(done=done, token=token if done else stands, holder=holder)

    def release(self, partition: int, token: int) -> bool:
        """Clear the holder, keep the token (M8)."""
        stands, _ = self.data.get(partition, (0, ""))
        if stands == token:
            self.writes += 1
            self.data[partition] = (stands, "")
        return stands == token
