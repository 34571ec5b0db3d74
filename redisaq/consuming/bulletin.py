"""Makes events and reports them: always to the log, and to the user's `on_event` if there is one.

An exception from `on_event` is logged and not raised, so that a failing observer does not end the consumer. So is a cancellation that it
raises: it awaits nothing, so that is its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from redisaq import events
from redisaq.callables import is_failure, unrun
from redisaq.consuming.owned import OwnedPartition
from redisaq.core.retry import sole
from redisaq.describing import shown
from redisaq.events import Event
from redisaq.logs import log
from redisaq.message import Message
from redisaq.outcomes import Discard, RetryAfter

E = TypeVar("E", bound=Event)

LEVELS: dict[type[Event], int] = {
    events.MessageFailed: logging.WARNING,
    events.MessageDead: logging.ERROR,
    events.HandlerAbandoned: logging.WARNING,
    events.HandlerBlocked: logging.WARNING,
    events.HandlerSlow: logging.WARNING,
    events.LeaseLost: logging.WARNING,
    events.EntriesTrimmed: logging.ERROR,
    events.EntryUnreadable: logging.ERROR,
    events.GroupLapsed: logging.WARNING,
    events.TrimmingRefused: logging.WARNING,
    events.KillNotPermitted: logging.WARNING,
    events.NotificationsNotPermitted: logging.WARNING,
    events.PartitionStuck: logging.WARNING,
    events.TopicMissing: logging.WARNING,
    events.PartitionWaiting: logging.WARNING,
    events.GroupLost: logging.WARNING,
    events.Disconnected: logging.WARNING,
    events.Reconnected: logging.INFO,
    events.PartitionAcquired: logging.INFO,
    events.PartitionOpened: logging.INFO,
    events.PartitionRevoked: logging.INFO,
    events.MemberJoined: logging.INFO,
}


class Bulletin:
    """Reports one consumer's events."""

    def __init__(self, topic: str, group: str, on_event: Callable[[Event], object] | None, logger: logging.Logger) -> None:
        """Begin without a member.

        Args:
            topic: the consumer's topic.
            group: its group.
            on_event: the user's observer, if any.
            logger: where to log.
        """
        self.topic = topic
        self.group = group
        self.member = ""
        self._on_event = on_event
        self._logger = logger

    @property
    def detailed(self) -> bool:
        """True if an event for each successful message is wanted; making one costs more than the hot path can spare."""
        return self._on_event is not None or self._logger.isEnabledFor(logging.DEBUG)

    def event(self, make: Callable[..., E], about: Message[Any] | OwnedPartition | None = None, **more: object) -> E:
        """Return an event with this consumer's identity, and with the message or the partition that it is about."""
        if about is None:
            return make(topic=self.topic, group=self.group, member=self.member, **more)
        if isinstance(about, OwnedPartition):
            return make(topic=self.topic, group=self.group, member=self.member, partition=about.partition, token=about.token, **more)
        return make(
            topic=self.topic,
            group=self.group,
            member=self.member,
            partition=about.partition,
            msg_id=about.msg_id,
            entry_id=about.entry_id,
            attempt=about.attempt,
            key=about.key,
            headers=about.headers,
            **more,
        )

    def publish(self, kind: type[Event], about: Message[Any] | OwnedPartition | None = None, **more: object) -> None:
        """Make an event (see `event`) and report it."""
        self.tell(self.event(kind, about, **more))

    def tell(self, event: Event) -> None:
        """Report an event."""
        level = level_of(event)
        if self._logger.isEnabledFor(level):
            error = getattr(event, "error", None) if level >= logging.WARNING else None
            log(self._logger, level, describe(event), error, extra=extra_of(event))
        if self._on_event is not None:
            try:
                told = self._on_event(event)
                if told is not None and (made := unrun(told)):
                    raise TypeError(f"on_event returned {made}: it must be a plain function")  # noqa: TRY301 -- logged as any other failure
            except BaseException as failure:
                if not is_failure(failure):
                    raise
                log(self._logger, logging.ERROR, f"on_event failed on {type(event).__name__}", failure)


def level_of(event: Event) -> int:
    """Return the level of an event's log record: LEVELS, but INFO where the handler has decided that its message waits or is done with."""
    if isinstance(event, events.MessageFailed) and issubclass(type(sole(event.error)), Discard | RetryAfter):
        return logging.INFO
    return LEVELS.get(type(event), logging.DEBUG)


def describe(event: Event) -> str:
    """Return the event as one line, without its headers: they are for programs."""
    fields = (f"{name}={shown(value)}" for name, value in _known(event) if name != "headers")
    return f"{type(event).__name__} " + " ".join(fields)


EXTRA = "redisaq_"
"""How the names of a log record's extra attributes begin: no record has others of these names."""


def extra_of(event: Event) -> dict[str, object]:
    """Return the extra attributes of an event's log record: `redisaq_event`, its class's name, and its fields that are known."""
    return {f"{EXTRA}event": type(event).__name__} | {f"{EXTRA}{name}": value for name, value in _known(event)}


def _known(event: Event) -> Iterator[tuple[str, object]]:
    values = ((name, getattr(event, name)) for name in event.__struct_fields__)
    return ((name, value) for name, value in values if value is not None and not (type(value) is str and not value))
