"""What became of a message that a HandlerKit handed over: frozen structs, and how they are read off a consumer's own records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from redisaq import events
from redisaq.admin_views import DeadMessage
from redisaq.consuming.context import Surroundings
from redisaq.consuming.handling import Held
from redisaq.consuming.owned import OwnedPartition
from redisaq.events import Event
from redisaq.message import Message


class Outcome(msgspec.Struct, frozen=True):
    """What would become of a message after one delivery.

    Attributes:
        to: "done" (acknowledged), "retry" or "dead".
        attempt: which attempt it was; 0 if no handler began, since the message could not be read.
        error: what the handler raised; None if it returned, or never began.
        reason: why it is dead, in words; "" if it is not.
        again_in: seconds until it is tried again; None if it is not.
        next_attempt: the number of the next attempt; None if there is none.
        blocking: its lane waits for the next attempt.
        timed_out: the handler was cancelled, since it took longer than it may.
        took: seconds that the handler ran, with a batch all of it.
        message: as the handler got it; None if it could not be read.
        events: what a consumer's `on_event` would have got of it by then, in order; the last one once the server had settled it.
    """

    to: Literal["done", "retry", "dead"]
    attempt: int
    error: Exception | None
    reason: str
    again_in: float | None
    next_attempt: int | None
    blocking: bool
    timed_out: bool
    took: float
    message: Message[Any] | None
    events: tuple[Event, ...]


class Fate(msgspec.Struct, frozen=True):
    """What became of a message in the end.

    Attributes:
        msg_id: the producer's id of it.
        payload: as it was given.
        ended: "done" or "dead".
        attempts: how many handlers were begun on it.
        dead_letter: as `Admin.dead_letters` gives it; None if it is done.
    """

    msg_id: str
    payload: Any
    ended: Literal["done", "dead"]
    attempts: int
    dead_letter: DeadMessage | None


class HandlerRun(msgspec.Struct, frozen=True):
    """What became of some messages that went through a consumer.

    Attributes:
        fates: one for each payload, in their order.
        took: seconds from the first enqueue to the end, virtual ones if it was run in virtual time.
        events: what the consumer told, each with when: seconds since the beginning.
    """

    fates: list[Fate]
    took: float
    events: list[tuple[float, Event]]

    @property
    def done(self) -> list[Any]:
        """The payloads of those that are done."""
        return [fate.payload for fate in self.fates if fate.ended == "done"]

    @property
    def dead(self) -> list[Any]:
        """The payloads of those that are dead."""
        return [fate.payload for fate in self.fates if fate.ended == "dead"]


def outcome_of(
    entry_id: bytes,
    message: Message[Any] | None,
    *,
    around: Surroundings,
    owned: OwnedPartition,
    held: Held | None,
    told: Sequence[Event],
    took: float,
    timeout: float | None,
) -> Outcome:
    """Read off the record of a partition what is to become of one of its messages."""
    mine = [event for event in told if getattr(event, "entry_id", "") == entry_id.decode()]
    error = next((event.error for event in mine if isinstance(event, events.MessageFailed)), None)
    attempt = message.attempt if message is not None else 0
    limit = message.timeout if message is not None and message.timeout is not None else timeout
    to: Literal["done", "retry", "dead"] = "done"
    reason, again_in, next_attempt, blocking = "", None, None, False
    if held is not None and any(one.entry == entry_id for one in held[1]):
        to, blocking = "retry", True
        again_in = next(event.again_in for event in mine if isinstance(event, events.MessageRetried))
        next_attempt = owned.flights.flights[entry_id].count
    for ending in owned.flights.ending:
        if ending.flight.entry != entry_id:
            continue
        to = ending.resolution.to
        event = around.report(owned, ending)
        mine += [event] if event is not None else []
        if isinstance(event, events.MessageRetried):
            again_in = ending.pause
            kept = ending.resolution.kept
            next_attempt = kept.attempt - kept.unused + 1
        elif event is not None:
            reason = ending.reason
    return Outcome(
        to=to,
        attempt=attempt,
        error=error,
        reason=reason,
        again_in=again_in,
        next_attempt=next_attempt,
        blocking=blocking,
        timed_out=isinstance(error, TimeoutError) and limit is not None and took >= limit,
        took=took,
        message=message,
        events=tuple(mine),
    )
