"""Turns failures of one partition's messages into what is to be settled.

In: a message and what its handler raised, or what cannot be handled at all. Out: a record in the owned partition, for the acknowledger to
settle in one atomic step. The decision itself is `core.retry.judge`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from redisaq import events
from redisaq.brokers.delivery import Body, Failure, Resolution, SetAside
from redisaq.consuming.context import Surroundings
from redisaq.consuming.owned import OwnedPartition, Settling
from redisaq.core.codec import EntryDecoder
from redisaq.core.records import Unreadable
from redisaq.core.retry import Verdict, describe, judge, sole
from redisaq.message import Message
from redisaq.settings import RetryPolicy

Held = tuple[float, list[Message[Any]]]
"""Messages whose lane waits for them, and for how many seconds."""


class Verdicts:
    """See the module."""

    def __init__(self, surroundings: Surroundings, owned: OwnedPartition, policy: RetryPolicy, decoder: EntryDecoder[Any]) -> None:
        """Take where verdicts are recorded, what they follow, and what reads a message again."""
        self._decoder = decoder
        self._around = surroundings
        self._owned = owned
        self._policy = policy

    def failed(self, message: Message[Any], error: Exception) -> Held | None:
        """Record what becomes of it; return it, with how long (seconds) its lane is to wait for it, if it is to."""
        around, owned = self._around, self._owned
        around.tell(events.MessageFailed, message, error=error)
        cause = sole(error)
        verdict = judge(self._policy, cause, message.attempt, around.environment.random)
        source = self._source(message)
        if verdict.to == "retry" and verdict.blocking:
            return self._hold(message, verdict, cause)
        kind, text, trace = describe(cause)
        body = self._body(message, kind, text, trace)
        if verdict.to == "done":
            owned.resolve(message, Settling(Resolution(source, "done", body)))
        elif verdict.to == "dead":
            event = around.event(events.MessageDead, message, reason=f"{kind}: {text}")
            owned.resolve(message, Settling(Resolution(source, "dead", body), event))
        else:
            event = around.event(events.MessageRetried, message, again_in=verdict.pause, blocking=False)
            due = owned.lease.server_now() + int(verdict.pause * 1e6)
            owned.resolve(message, Settling(Resolution(source, "retry", body, due=due, used=verdict.used), event))
        return None

    def _hold(self, message: Message[Any], verdict: Verdict, cause: Exception) -> Held | None:
        """Let its lane wait for its next try. What the handler has changed of it is gone then: each attempt reads it anew.

        What waits in `retry` keeps this failure instead of the one before, for where the partition goes before that try.
        """
        owned = self._owned
        again = self._decoder.decode(message.entry, message.fields, owned.partition, owned.token)
        if isinstance(again, Unreadable):  # a deserializer that does not read the same twice
            owned.resolve(message, self._dead_unreadable(again, owned.bodies.get(message.entry)))
            return None
        again.attempt = message.attempt
        self._around.tell(events.MessageRetried, message, again_in=verdict.pause, blocking=True)
        owned.first_failed.setdefault(message.entry, owned.lease.server_now() // 1000)
        if message.entry in owned.bodies:
            owned.bodies[message.entry] = self._body(message, *describe(cause))
        return verdict.pause, [owned.hold(message, again, used=verdict.used)]

    def dead_of_crashes(self, message: Message[Any]) -> None:
        """Record that it is dead: so many handlers were begun on it, and none ended under the lease that it began under.

        What is known is what this process has seen: another one, whose event loop stood still, could write nothing down meanwhile, and may
        not afterwards.
        """
        attempts = message.attempt - 1
        blocked = self._around.blocked.pop((self._owned.partition, message.entry), None)
        if blocked is None:
            kind = "CrashedDeliveries"
            reason = f"{attempts} handlers were begun on it, and none ended: each time its process did, or lost its lease"
        else:
            kind, begun = "HandlerBlocked", max(attempts, blocked.times)
            reason = (
                f"{begun} handlers were begun on it, and none ended in time: the event loop of this process was blocked "
                f"{blocked.times} time(s), for up to {blocked.seconds:.1f} s, until the lease was lost (call what blocks in a thread)"
            )
            if blocked.times < attempts:
                reason += "; the other times the process ended, or lost its lease"
        body = self._body(message, kind, reason, "", attempt=attempts)
        source = self._source(message)
        event = self._around.event(events.MessageDead, message, reason=reason)
        self._owned.resolve(message, Settling(Resolution(source, "dead", body), event), raised=False)

    def unreadable(self, entry: Unreadable, body: Body | None) -> None:
        """Record that what cannot be read is dead; `body` if it came from `retry`."""
        self._owned.leave(self._dead_unreadable(entry, body))

    def _dead_unreadable(self, entry: Unreadable, body: Body | None) -> Settling:
        owned = self._owned
        event = self._unreadable(entry.entry_id, entry.reason)
        now = owned.lease.server_now() // 1000
        failure = Failure("Unreadable", entry.reason, "", 0, now, now, owned.lease.incarnation)
        dead = Body(entry.entry_id, entry.fields) if body is None else body
        dead = msgspec.structs.replace(dead, failure=failure)
        return Settling(Resolution("stream" if body is None else "retry", "dead", dead), event)

    def set_aside(self, damaged: SetAside) -> None:
        """Tell of a record that the broker has set aside."""
        self._around.bulletin.tell(self._unreadable(damaged.entry_id, damaged.reason))

    def _unreadable(self, entry_id: bytes, reason: str) -> events.EntryUnreadable:
        shown_id = entry_id.decode("utf-8", "backslashreplace")
        return self._around.bulletin.event(events.EntryUnreadable, self._owned, entry_id=shown_id, reason=reason)

    def _source(self, message: Message[Any]) -> Literal["stream", "retry"]:
        return "retry" if message.entry in self._owned.bodies else "stream"

    def _body(self, message: Message[Any], kind: str, text: str, trace: str, *, attempt: int | None = None) -> Body:
        owned = self._owned
        before = owned.bodies.get(message.entry)
        now = owned.lease.server_now() // 1000
        first = (
            before.failure.first_failed_ms
            if before is not None and before.failure is not None
            else owned.first_failed.get(message.entry, now)
        )
        attempt = message.attempt if attempt is None else attempt
        failure = Failure(kind, text, trace, attempt, first, now, owned.lease.incarnation)
        if before is None:
            return Body(message.entry, message.fields, 0, attempt, failure)
        return msgspec.structs.replace(before, failure=failure)
