"""Renews the member's lease.

Out: a ring to the coordinator whenever an answer tells something new, or that the lease is lost. One small command each `interval`. While
the server cannot be reached it is tried more often, with jitter; the lease's own deadline, not this actor, is what stops the work then.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from redisaq import events
from redisaq.actors.actor import Actor
from redisaq.actors.member import Member
from redisaq.actors.surroundings import Surroundings
from redisaq.core.backoff import full_jitter
from redisaq.errors import ConnectionFailed


class HeartbeatEmitter(Actor[None]):
    """See the module."""

    def __init__(self, surroundings: Surroundings, member: Member, interval: float, look: Callable[[], None]) -> None:
        """Take whose lease, how often (seconds), and what rings the coordinator."""
        super().__init__(name="heartbeat_emitter", capacity=1)
        self._around = surroundings
        self._member = member
        self._interval = interval
        self._look = look
        self._failures = 0

    async def run(self) -> None:
        """Beat until stopped."""
        environment = self._around.environment
        while True:
            sent = environment.clock()
            wait = self._interval
            if self._member.joined:
                try:
                    await self._beat(sent)
                    self._answered()
                except ConnectionFailed as error:
                    self._failed(error)
                    wait = full_jitter(self._failures, base=0.1, most=self._interval, random=environment.random)
                    sent = environment.clock()
            await anyio.sleep_until(sent + wait)

    async def _beat(self, sent: float) -> None:
        around, member, lease = self._around, self._member, self._member.lease
        beat = await around.broker.heartbeat(around.group, lease.incarnation, member.ttl, member.version)
        if lease is not member.lease:  # the answer of an incarnation that is over
            return
        if not beat.alive:
            lease.end()
            self._look()
            return
        lease.renew(sent, beat)
        member.observe(beat)
        if member.news(beat, paused=around.gate.closed):
            self._look()

    def _failed(self, error: ConnectionFailed) -> None:
        self._failures += 1
        if self._failures == 1:
            bulletin = self._around.bulletin
            bulletin.tell(events.Disconnected(topic=bulletin.topic, group=bulletin.group, member=bulletin.member, reason=error.reason))

    def _answered(self) -> None:
        if self._failures:
            self._failures = 0
            bulletin = self._around.bulletin
            bulletin.tell(events.Reconnected(topic=bulletin.topic, group=bulletin.group, member=bulletin.member))
