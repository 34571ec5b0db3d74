"""The records of a simulation: one plain frozen struct for each kind of thing that happens.

Times are seconds of virtual time since the simulation began.
"""

from __future__ import annotations

import msgspec


class Delivery(msgspec.Struct, frozen=True):
    """One run of a handler.

    Attributes:
        member: the member's name in the simulation.
        topic: the message's topic; partition, msg_id, entry_id and attempt are the message's, too.
        group: the consumer's group.
        token: the fencing token under which the message was read.
        started: when the run started.
        ended: when it ended; None if it never did, because the member crashed.
        outcome: "returned", "raised", "cancelled", or "running".
    """

    member: str
    topic: str
    group: str
    partition: int
    msg_id: str
    entry_id: str
    attempt: int
    token: int
    started: float
    ended: float | None
    outcome: str


class Settle(msgspec.Struct, frozen=True):
    """One fenced step in which a member settled messages.

    Attributes:
        time: when the server carried it out.
        member: the member's name in the simulation.
        topic: the messages' topic; partition is theirs, too.
        group: the consumer's group.
        token: the fencing token under which it was sent.
        entry_ids: the entries to settle.
        to: "done", "retry" or "dead".
        accepted: False if the server refused it because another token was installed.
    """

    time: float
    member: str
    topic: str
    group: str
    partition: int
    token: int
    entry_ids: tuple[str, ...]
    to: str
    accepted: bool


class Lease(msgspec.Struct, frozen=True):
    """The time for which one member owns a partition.

    Attributes:
        member: the member's name in the simulation.
        topic: the partition's topic.
        group: the consumer's group.
        token: the fencing token under which the member owns it.
        since: when the member began to read.
        until: when the member had given the partition back, had lost it or had crashed; None if it still owns it.
        end: "released", "lost", "crashed", or "" while it lasts.
    """

    member: str
    topic: str
    group: str
    partition: int
    token: int
    since: float
    until: float | None
    end: str


class Mark(msgspec.Struct, frozen=True):
    """Something that happened to a member.

    Attributes:
        time: when it happened.
        member: the member's name in the simulation.
        what: "joins", "crashes", "pauses for 30.000 s", "goes on", "leaves" or "is cancelled".
    """

    time: float
    member: str
    what: str
