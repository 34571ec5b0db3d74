"""Replicas of a program in a simulation: each is an App with cron jobs, in a process of its own that can crash, pause and leave.

Input: a function that makes the App. Output: what its consumer does goes to the record, as for any member.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redisaq import Message
from redisaq.core.schedules import TOPIC_ENDS_WITH
from redisaq.cron import GROUP
from redisaq.errors import ConnectionFailed
from redisaq.events import Event
from redisaq.middleware import Next
from redisaq.testing import Simulation
from redisaq.testing.freezing import OWNER
from redisaq.testing.member import URL, SimulatedMember, _silent
from tests.app.calm import CalmApp

Build = Callable[["ReplicaApp"], None]

TOPIC = f"app{TOPIC_ENDS_WITH}"


class ReplicaApp(CalmApp):
    """The App of one replica."""

    interval, ttl = 1000.0, 3000.0

    def __init__(self, member: Replica, record: Any) -> None:
        super().__init__(URL)
        self.member = member
        self._record = record

    def new_consumer(self, topic: Any, group_name: str, batch_size: int, options: Any, **more: Any) -> Any:
        told = options["on_event"]

        def tell(event: Event) -> None:
            self._record.event(self.member, self.member.group, event)
            told(event)

        options = {**options, "on_event": tell, "logger": _silent}
        return super().new_consumer(topic, group_name, batch_size, options, outermost=(self._note, *more["outermost"]))

    async def _note(self, messages: tuple[Message[Any], ...], call_next: Next) -> None:
        (message,) = messages
        if self.member.crashed:  # its tasks wake once more to be cancelled: nothing may begin then
            raise ConnectionFailed(URL, "the process has crashed")
        run = self._record.begin(self.member, self.member.group, message, object())
        outcome, failed = "cancelled", None
        try:
            await call_next()
            outcome = "returned"
        except Exception as error:
            outcome, failed = "raised", error
            raise
        finally:
            self._record.end(run, outcome, failed)


class Replica(SimulatedMember):
    """A process that serves an App."""

    def __init__(self, sim: Simulation, name: str, build: Build) -> None:
        options = {
            "group_name": GROUP,
            "ordering": "key",
            "concurrency": 1000,
            "batch_size": 1000,
            "heartbeat_interval": ReplicaApp.interval,
            "heartbeat_ttl": ReplicaApp.ttl,
        }
        more: dict[str, Any] = {"freezer": sim._freezer, "source": sim._source, "fails": sim._fail}
        super().__init__(name, TOPIC, build, options, mode="process", record=sim.record, **more)
        self.app: ReplicaApp | None = None

    async def run(self) -> None:
        """Serve until stopped."""
        OWNER.set(self)
        try:
            with self.scope:
                self.app = ReplicaApp(self, self._record)
                self.handler(self.app)
                self.consumer = self.app.consumers[0].consumer
                await self.app.serve()
        except Exception as error:  # noqa: BLE001 -- as a member's
            if not self.crashed:
                self._record.violation(f"{self.name} ended by itself: {error!r}")
        finally:
            self.ended.set()
            self.gone.set()


def replica(sim: Simulation, name: str, build: Build) -> Replica:
    """Start a replica; one of that name that is gone starts again."""
    former = sim._members.get(name)
    if former is not None:
        assert not former.live
        sim._gone.append(former)
    member = sim._members[name] = Replica(sim, name, build)
    sim.record.mark(member, "joins")
    sim._inside(member).run(sim._tasks.start_soon, member.run)
    return member
