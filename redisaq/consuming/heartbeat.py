"""Renews the member's lease.

Out: a ring to the coordinator whenever an answer tells something new, or that the lease is lost; to Contact, what becomes of each
heartbeat. One small command each `interval`. While the server cannot be reached it is tried more often, with jitter; the lease's own
deadline, not this actor, is what stops the work then, and a heartbeat that has no answer by that time is over, too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import anyio

from redisaq.actors.actor import Actor
from redisaq.brokers.steps.coordination import Heartbeat
from redisaq.consuming.contact import HEARTBEAT, PASSING, reason_of
from redisaq.consuming.context import Surroundings
from redisaq.consuming.member import Member
from redisaq.core.retry import full_jitter


class HeartbeatEmitter(Actor[None]):
    """See the module."""

    def __init__(self, surroundings: Surroundings, member: Member, look: Callable[[], None]) -> None:
        """Take whose lease it is, and what rings the coordinator."""
        super().__init__(name="heartbeat_emitter", capacity=1)
        self._around = surroundings
        self._member = member
        self._interval = surroundings.settings.heartbeat_interval
        self._look = look
        self._failures = 0

    async def run(self) -> None:
        """Beat until stopped."""
        environment, contact, member = self._around.environment, self._around.contact, self._member
        while True:
            sent = environment.clock()
            wait = self._interval
            if member.joined and member.lease.alive():
                try:
                    with member.lease.scope():
                        await contact.ask(partial(self._beat, sent), within=self._interval)
                        self._failures = 0
                except PASSING as error:
                    self._failures += 1
                    contact.failed(HEARTBEAT, reason_of(error))
                    wait = full_jitter(self._failures, base=0.1, most=self._interval, random=environment.random)
                    sent = environment.clock()
            await anyio.sleep_until(sent + wait)

    async def _beat(self, sent: float) -> None:
        around, member, lease = self._around, self._member, self._member.lease
        beat = await around.broker.do(Heartbeat(around.group, lease.incarnation, member.ttl, member.version))
        around.contact.heartbeat = sent
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
