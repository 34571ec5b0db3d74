"""Renews the member's lease.

It sends one small command each `interval`. It rings the coordinator whenever an answer contains news, or the lease is lost, and reports the
result of each heartbeat to Contact. If an answer says that somebody watches the group, it also reports what is in handlers. While the
server cannot be reached, it tries more often, with jitter. The lease's own deadline, not this actor, stops the work then. A heartbeat
without an answer by that time ends, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import partial

import anyio

from redisaq.actors.actor import Actor
from redisaq.brokers.steps.coordination import Heartbeat, TellRunning
from redisaq.consuming.contact import HEARTBEAT, PASSING, reason_of
from redisaq.consuming.context import Surroundings
from redisaq.consuming.member import Member
from redisaq.consuming.owned import OwnedPartition
from redisaq.core.retry import full_jitter
from redisaq.core.running import report_of
from redisaq.errors import ServerError


class HeartbeatEmitter(Actor[None]):
    """Sends the heartbeats of one member."""

    def __init__(
        self, surroundings: Surroundings, member: Member, look: Callable[[], None], owned: Callable[[], Iterable[OwnedPartition]] = tuple
    ) -> None:
        """Begin without a heartbeat.

        Args:
            surroundings: the consumer's.
            member: the member whose lease to renew.
            look: rings the coordinator.
            owned: returns the partitions owned now, whose handlers are looked at with each beat.
        """
        super().__init__(name="heartbeat_emitter")
        self._around = surroundings
        self._member = member
        self._interval = surroundings.settings.heartbeat_interval
        self._look = look
        self._owned = owned
        self._failures = 0

    async def run(self) -> None:
        """Beat until stopped."""
        environment, contact, member = self._around.environment, self._around.contact, self._member
        while True:
            self._around.runs.look(self._owned())
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
        if lease is not member.lease:  # the answer to an ended incarnation
            return
        if not beat.alive:
            lease.end()
            self._look()
            return
        lease.renew(sent, beat)
        member.observe(beat)
        if member.news(beat, paused=around.gate.closed):
            self._look()
        if beat.watched:
            await self._tell_running()

    async def _tell_running(self) -> None:
        around, member = self._around, self._member
        report = report_of(
            around.runs.running(self._owned()),
            now=member.lease.server_now(),
            members=1 if member.document is None else len(member.document.members),
            timeout=around.settings.timeout,
        )
        with contextlib.suppress(ServerError):  # what people look at is not worth a lease
            await around.broker.do(TellRunning(around.group, member.lease.incarnation, member.ttl, report))
