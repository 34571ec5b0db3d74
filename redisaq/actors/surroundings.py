"""What every actor of one consumer is given."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from redisaq import events
from redisaq.actors.bulletin import Bulletin
from redisaq.actors.gate import Gate
from redisaq.actors.handler_pool import HandlerPool
from redisaq.brokers.base import Broker, GroupName
from redisaq.environment import Environment
from redisaq.message import Message


@dataclass
class Surroundings:
    """The consumer's group, its broker, its clocks, its subscribers, its credit.

    Attributes:
        gate: closed while the group is paused.
        kill_refused: the server does not permit CLIENT KILL (T4), and that has been told.
        deaf: the server does not permit SSUBSCRIBE, and that has been told.
        dead_maxlen: how many dead letters a partition keeps for the group.
    """

    group: GroupName
    broker: Broker
    environment: Environment
    bulletin: Bulletin
    pool: HandlerPool
    gate: Gate = field(default_factory=Gate)
    kill_refused: bool = False
    deaf: bool = False
    dead_maxlen: int | None = None

    def event(self, kind: type[events.MessageEvent], message: Message[Any], **more: Any) -> events.MessageEvent:
        """Return an event about a message."""
        bulletin = self.bulletin
        return kind(
            topic=bulletin.topic,
            group=bulletin.group,
            member=bulletin.member,
            partition=message.partition,
            msg_id=message.msg_id,
            entry_id=message.entry_id,
            attempt=message.attempt,
            **more,
        )

    def notifications_refused(self, reason: str) -> None:
        """Tell, once, that the server does not permit SSUBSCRIBE."""
        if not self.deaf:
            self.deaf = True
            bulletin = self.bulletin
            bulletin.tell(
                events.NotificationsNotPermitted(topic=bulletin.topic, group=bulletin.group, member=bulletin.member, reason=reason)
            )

    def tell(self, kind: type[events.MessageEvent], message: Message[Any], **more: Any) -> None:
        """Tell an event about a message."""
        self.bulletin.tell(self.event(kind, message, **more))


inside: ContextVar[Surroundings | None] = ContextVar("redisaq_inside", default=None)
"""Set in a consumer's own tasks, its handlers, and bodies of pulled messages: who waits there for the consumer's end would wait for
ever."""
