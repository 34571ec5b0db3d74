"""What a simulation writes down: one plain frozen struct for each kind of thing that happens.

Times are seconds of virtual time since the simulation began.
"""

from __future__ import annotations

import msgspec


class Delivery(msgspec.Struct, frozen=True):
    """One run of a handler.

    Attributes:
        member: the name in the simulation.
        topic: of the message, as are partition, msg_id, entry_id and attempt.
        group: of the consumer.
        token: the fencing token under which the message was read.
        started: when.
        ended: when; None if it never did (the member crashed).
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
    """One fenced step in which a member said what becomes of messages.

    Attributes:
        time: when the server did it.
        member: the name in the simulation.
        topic: of the messages, as is partition.
        group: of the consumer.
        token: the one it was sent under.
        entry_ids: what it was about.
        to: "done", "retry" or "dead".
        accepted: False if the server refused it: another token stood.
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
    """A partition's time with one member.

    Attributes:
        member: the name in the simulation.
        topic: whose partition it is.
        group: of the consumer.
        token: the fencing token under which it had it.
        since: when it began to read.
        until: when it had given it back, lost it or crashed; None if it still has it.
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
        time: when.
        member: the name in the simulation.
        what: "joins", "crashes", "pauses for 30.000 s", "goes on", "leaves" or "is cancelled".
    """

    time: float
    member: str
    what: str
