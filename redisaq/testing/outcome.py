"""The results of a HandlerKit: frozen structs that say what became of a message, read from a consumer's own records."""

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
        attempt: the number of this attempt; 0 if no handler was started because the message could not be read.
        error: the exception that the handler raised; None if it returned or was never started.
        reason: why the message is dead, in words; "" if it is not.
        again_in: seconds until the next attempt; None if there is none.
        next_attempt: the number of the next attempt; None if there is none.
        blocking: whether the message's lane waits for the next attempt.
        timed_out: whether the handler was cancelled because it exceeded its timeout.
        took: seconds that the handler ran; for a batch, that the whole batch took.
        message: the message as the handler received it; None if it could not be read.
        events: the events about the message that a consumer's `on_event` would have received by then, in order. The last one would come
            once the server had settled the message.
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
        msg_id: the message's id, as the producer returned it.
        payload: the payload as you passed it.
        ended: "done" or "dead".
        attempts: how many times a handler was started for it.
        dead_letter: the dead letter as `Admin.dead_letters` returns it; None if the message is done.
    """

    msg_id: str
    payload: Any
    ended: Literal["done", "dead"]
    attempts: int
    dead_letter: DeadMessage | None


class HandlerRun(msgspec.Struct, frozen=True):
    """What became of messages that went through a consumer.

    Attributes:
        fates: one Fate for each payload, in the order of the payloads.
        took: seconds from the first enqueue to the end; virtual seconds if the run was in virtual time.
        events: the consumer's events, each with its time in seconds since the beginning.
    """

    fates: list[Fate]
    took: float
    events: list[tuple[float, Event]]

    @property
    def done(self) -> list[Any]:
        """The payloads of the messages that are done."""
        return [fate.payload for fate in self.fates if fate.ended == "done"]

    @property
    def dead(self) -> list[Any]:
        """The payloads of the messages that are dead."""
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
    """Work out from a partition's records what is to become of one of its messages."""
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
