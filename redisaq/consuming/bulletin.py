"""Makes events and tells them to whoever subscribed: the log always, the user's `on_event` if there is one.

An exception of a subscriber is logged and goes no further: a consumer does not end because somebody who watches it failed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from redisaq import events
from redisaq.callables import unrun
from redisaq.consuming.owned import OwnedPartition
from redisaq.describing import shown
from redisaq.events import Event
from redisaq.logs import log
from redisaq.message import Message

E = TypeVar("E", bound=Event)

LEVELS: dict[type[Event], int] = {
    events.MessageFailed: logging.WARNING,
    events.MessageDead: logging.ERROR,
    events.HandlerAbandoned: logging.WARNING,
    events.HandlerBlocked: logging.WARNING,
    events.LeaseLost: logging.WARNING,
    events.EntriesTrimmed: logging.ERROR,
    events.EntryUnreadable: logging.ERROR,
    events.GroupLapsed: logging.WARNING,
    events.TrimmingRefused: logging.WARNING,
    events.KillNotPermitted: logging.WARNING,
    events.NotificationsNotPermitted: logging.WARNING,
    events.PartitionStuck: logging.WARNING,
    events.TopicMissing: logging.WARNING,
    events.GroupLost: logging.WARNING,
    events.Disconnected: logging.WARNING,
    events.Reconnected: logging.INFO,
    events.PartitionAcquired: logging.INFO,
    events.PartitionRevoked: logging.INFO,
    events.MemberJoined: logging.INFO,
}


class Bulletin:
    """Where one consumer's events are told."""

    def __init__(self, topic: str, group: str, on_event: Callable[[Event], object] | None, logger: logging.Logger) -> None:
        """Take the subscribers."""
        self.topic = topic
        self.group = group
        self.member = ""
        self._on_event = on_event
        self._logger = logger

    @property
    def detailed(self) -> bool:
        """True if somebody wants an event for each message that goes well; making one costs more than the hot path can spare."""
        return self._on_event is not None or self._logger.isEnabledFor(logging.DEBUG)

    def event(self, make: Callable[..., E], about: Message[Any] | OwnedPartition | None = None, **more: object) -> E:
        """Return what `make` makes, stamped with who this consumer is, and with the message or the partition that it is about."""
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
            **more,
        )

    def publish(self, kind: type[Event], about: Message[Any] | OwnedPartition | None = None, **more: object) -> None:
        """Make an event, see `event`, and tell it to all."""
        self.tell(self.event(kind, about, **more))

    def tell(self, event: Event) -> None:
        """Tell an event that has been made before to all."""
        level = LEVELS.get(type(event), logging.DEBUG)
        if self._logger.isEnabledFor(level):
            error = getattr(event, "error", None)
            log(self._logger, level, describe(event), error if level >= logging.WARNING else None)
        if self._on_event is not None:
            try:
                told = self._on_event(event)
                if told is not None and (made := unrun(told)):
                    raise TypeError(f"on_event returned {made}: it must be a plain function")  # noqa: TRY301 -- logged as any other failure
            except Exception as failure:  # noqa: BLE001 -- see the module
                log(self._logger, logging.ERROR, f"on_event failed on {type(event).__name__}", failure)


def describe(event: Event) -> str:
    """Return the event as one line."""
    values = ((name, getattr(event, name)) for name in event.__struct_fields__)
    fields = (f"{name}={shown(value)}" for name, value in values if not (type(value) is str and not value))
    return f"{type(event).__name__} " + " ".join(fields)
