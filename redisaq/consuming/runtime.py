"""Makes the actors of one consumer, starts them in order, and ends them in order.

The whole tree runs in a child task of the task that called `process()`, under a shield. Whatever cancels the caller (a scope of the user's
task group, or one or more native `Task.cancel()`) reaches a second child, the sentinel, which turns it into an urgent Leave. So both ways
to end are the same: give the partitions back, leave, close. The urgent one gives handlers no time, and is bounded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import anyio
from anyio.abc import TaskStatus

from redisaq.actors.actor import Actor
from redisaq.actors.supervisor import Supervisor
from redisaq.actors.waiting import Reply
from redisaq.brokers.steps.topics import ReadTopic
from redisaq.consuming.acknowledger import Acknowledger
from redisaq.consuming.context import Surroundings
from redisaq.consuming.coordinator import Leave, RaiseToken, RebalanceCoordinator, Unable
from redisaq.consuming.doorbell import SignalListener
from redisaq.consuming.growth_watch import GrowthWatch
from redisaq.consuming.handler_pool import Batch, BatchPool, LanePool, SerialPool
from redisaq.consuming.handling import Execution
from redisaq.consuming.heartbeat import HeartbeatEmitter
from redisaq.consuming.member import Member
from redisaq.consuming.owned import OwnedPartition
from redisaq.consuming.owner import Ended, PartitionOwner
from redisaq.consuming.partitions import Acquire, PartitionSupervisor
from redisaq.consuming.pulling import PullPool
from redisaq.consuming.trimmer import Trimmer
from redisaq.consuming.until_empty import EmptinessWatch
from redisaq.core.codec import EntryDecoder
from redisaq.core.in_flight import InFlight
from redisaq.errors import ActorStopped, RedisaqError
from redisaq.middleware import Middleware
from redisaq.settings import ConsumerSettings

LEAVE_LIMIT = 10.0  # seconds for settling, releasing and leaving, once the handlers have ended or had their time
SILENCE_LIMIT = 1.0  # of these, seconds to wait for a silent server
QUICK = 0.1  # seconds: an end that takes less needs no check of the server, and a refusal within this time is an answer
FAREWELL_LIMIT = 2.0  # seconds for leaving after a failure: the caller waits for its error


@dataclass(frozen=True)
class Plan:
    """What one run of a consumer is to do.

    Attributes:
        mode: a handler of messages, a handler of batches, or pulling.
        callback: the user's handler; None when pulling.
        count: entries of one read.
        offers: where pulled messages go.
        batch_size: the most messages of a batch.
        batch_wait: seconds for which a batch may wait to be full.
        until_empty: end when the whole group has nothing left.
        middleware: wraps the handler, outermost first.
    """

    mode: Literal["one", "batch", "pull"]
    callback: Callable[[Any], Any] | None
    count: int
    offers: Any = None
    batch_size: int = 1
    batch_wait: float = 0.0
    until_empty: bool = False
    middleware: Sequence[Middleware] = ()


def for_pulling(settings: ConsumerSettings) -> ConsumerSettings:
    """Return the settings that apply when messages are pulled: the loop is the user's, so no lane can wait."""
    return replace(settings, concurrency=settings.batch_size, retry=replace(settings.retry, blocking=False))


class ConsumerRuntime:
    """One run of one consumer: from `run` to its end."""

    def __init__(
        self,
        surroundings: Surroundings,
        plan: Plan,
        decoder: EntryDecoder[Any],
        attached: Sequence[Actor[Any]],
    ) -> None:
        """Make the actors; none of them runs yet.

        Args:
            surroundings: the consumer's.
            plan: what to run.
            decoder: decodes the entries of the topic.
            attached: the user's actors.
        """
        self.around = surroundings
        self._settings = settings = surroundings.settings
        self._plan = plan
        self._decoder = decoder
        self.member = Member(settings.consumer_name, settings.heartbeat_ttl, surroundings.environment)
        self._ready = anyio.Event()
        self._left = anyio.Event()
        self._ending = anyio.Event()
        self._stopping: float | None = None
        self._patience = anyio.CancelScope()  # around everything; its deadline is set when the end begins
        self._first: set[int] | None = None  # partitions of the first assignment that are not taken yet
        self._taken_before: set[int] = set()
        self.handled = self.failed = self.trimmed = 0
        self._acknowledger = Acknowledger(surroundings)
        self.partitions = PartitionSupervisor(self._owner_for, self._ended, self._changed)
        self._coordinator = RebalanceCoordinator(
            surroundings,
            self.member,
            self.partitions.ref,
            ready=self._assigned,
            left=self._left.set,
        )
        self._trimmer = Trimmer(surroundings, self.member, self.owned)
        self._growth_watch = GrowthWatch(surroundings, self.member, self.owned)
        self.supervisor: Supervisor | None = None
        self._attached = attached

    @property
    def stopping(self) -> bool:
        """True once it begins to end."""
        return self._stopping is not None

    def counts(self) -> tuple[int, int, int]:
        """Return how many messages of this run were handled, failed, and were trimmed."""
        flights = [owner.owned.flights for owner, _ in self.partitions.owners.values()]
        return (
            self.handled + sum(one.handled for one in flights),
            self.failed + sum(one.failures for one in flights),
            self.trimmed + sum(one.trimmed for one in flights),
        )

    def owned(self) -> list[OwnedPartition]:
        """Return the partitions owned now, by number."""
        owners = self.partitions.owners
        return [owners[partition][0].owned for partition in sorted(owners) if owners[partition][0].acquired]

    # -- running -----------------------------------------------------------------------------------------------------------------

    async def run(self, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run until stopped, or empty (`until_empty`), or cancelled."""
        async with anyio.create_task_group() as tasks:
            sentinel = anyio.CancelScope()
            minding = anyio.CancelScope(shield=True)

            async def tree() -> None:
                try:
                    with anyio.CancelScope(shield=True):
                        await self._tree()
                finally:
                    sentinel.cancel()
                    minding.cancel()

            async def watch() -> None:
                with sentinel:
                    try:
                        await anyio.sleep_forever()
                    except BaseException:
                        if not sentinel.cancel_called:
                            self.stop(urgent=True)
                        raise

            async def mind() -> None:
                with minding:
                    await self._ending.wait()
                    await self._mind_the_server()

            tasks.start_soon(watch, name="redisaq sentinel")
            tasks.start_soon(mind, name="redisaq patience")
            tasks.start_soon(tree, name="redisaq consumer")
            await self._ready.wait()
            task_status.started()

    async def _tree(self) -> None:
        around = self.around
        try:
            with self._patience:
                async with Supervisor("one_for_one", name="consumer") as supervisor:
                    self.supervisor = supervisor
                    await supervisor.start(self._acknowledger)
                    await supervisor.start(self.partitions)
                    await supervisor.start(self._trimmer)
                    await supervisor.start(self._growth_watch)
                    await supervisor.start(self._coordinator)
                    listen = lambda: around.broker.listen(around.group)  # noqa: E731
                    await supervisor.start(SignalListener(listen, self._coordinator.look, around.notifications_refused))
                    await supervisor.start(HeartbeatEmitter(around, self.member, self._coordinator.look, self.owned))
                    for actor in self._attached:
                        await supervisor.start(actor)
                    if self._plan.until_empty:
                        await supervisor.start(EmptinessWatch(around, self.member, self.partitions, self._ready, self.stop))
                    if self._stopping is not None:
                        self._tell_leave()
                    await self._left.wait()
        except BaseException:  # it is not ready, and will not be: `run` raises this
            self.supervisor = None
            if not self._left.is_set():
                await self._say_farewell()
            raise
        self.supervisor = None
        self._ready.set()  # perhaps it has ended before it was

    async def _say_farewell(self) -> None:
        """Leave after a failure, so that the others need not wait for the lease to run out: nothing runs here any more."""
        with anyio.move_on_after(FAREWELL_LIMIT), contextlib.suppress(RedisaqError):  # the failure itself is what is raised
            await self._coordinator.give_up()

    def stop(self, *, urgent: bool = False) -> None:
        """Begin to end: handlers get the drain timeout, or no time if it is urgent."""
        timeout = 0.0 if urgent else self._settings.drain_timeout
        if self._stopping is not None and timeout >= self._stopping:
            return
        self._stopping = timeout
        self._ending.set()
        self._patience.deadline = self.around.environment.clock() + timeout + LEAVE_LIMIT
        for owner, _ in self.partitions.owners.values():  # no handler begins from now on
            owner.owned.begin_drain()
        if self.supervisor is not None:
            self._tell_leave()

    async def _mind_the_server(self) -> None:
        """Give up once the end waits only for a silent server; one that answers, or refuses us, has until the limits.

        The members that take over when the lease has run out do what was left undone.
        """
        while True:
            await anyio.sleep(QUICK)
            if self._handling():  # the end does not wait for the server yet
                continue
            self._patience.deadline = min(self._patience.deadline, self.around.environment.clock() + LEAVE_LIMIT)
            if not await self._answers(SILENCE_LIMIT - QUICK):
                break
        self.around.given_up = True
        self._patience.cancel()
        await self.around.broker.close()  # this ends every wait for an answer, shielded or not

    async def _answers(self, within: float) -> bool:
        """Send the server a small command: True if it answered anything in time."""
        clock, broker, topic = self.around.environment.clock, self.around.broker, self.around.group.topic
        with anyio.move_on_after(within):
            while True:
                asked = clock()
                try:
                    await broker.do(ReadTopic(topic))
                except ConnectionError:
                    if clock() - asked > QUICK:  # it broke because the server was silent: not an answer
                        continue
                except RedisaqError:
                    pass
                return True
        return False

    def _handling(self) -> bool:
        return any(owner.owned.flights.running for owner, _ in self.partitions.owners.values())

    def _tell_leave(self) -> None:
        if self._stopping is not None:
            try:
                self._coordinator.ref.tell_nowait(Leave(self._stopping))
            except (ActorStopped, anyio.WouldBlock):
                return  # not started yet, or gone already

    # -- the parts of one partition --------------------------------------------------------------------------------------------------

    def _owner_for(self, order: Acquire, ended: Callable[[Ended], None]) -> PartitionOwner:
        plan, settings = self._plan, self._settings
        window = 2 * plan.count
        if plan.mode == "one" and settings.ordering != "partition":
            window = max(window, 2 * (settings.concurrency or 1))
        if plan.mode == "pull":
            window += plan.count + 1  # messages that are handed out and not entered also wait, and must not stop the reader
        flights = InFlight(
            order.partition,
            order.token,
            order.lease.incarnation,
            policy=settings.retry,
            decode=self._decoder.decode,
            window=window,
            page=plan.count,
        )
        owned = OwnedPartition(flights, order.lease, self._acknowledger.ring, self.around.gate)
        if self.stopping:
            owned.begin_drain()
        execution = Execution(self.around, owned, plan.callback, plan.middleware, timeout=settings.timeout)
        return PartitionOwner(
            self.around,
            owned,
            workers=self._workers_for(execution),
            count=plan.count,
            raise_token=self._raise_token,
            stuck=self._stuck,
            taken=self._taken,
            ended=ended,
        )

    def _workers_for(self, execution: Execution) -> Actor[Batch]:
        plan, settings = self._plan, self._settings
        unlimited = settings.concurrency is None
        if plan.mode == "pull":
            return PullPool(execution, plan.offers)
        if plan.mode == "batch":
            return BatchPool(execution, size=plan.batch_size, wait=plan.batch_wait, unlimited=unlimited)
        if settings.ordering == "partition":
            return SerialPool(execution, unlimited=unlimited)
        return LanePool(execution, settings.ordering)

    async def _raise_token(self, partition: int, above: int) -> int | None:
        # Not `ask`: that gives up when the coordinator restarts after a broken connection, but the coordinator remembers the request.
        reply: Reply[int | None] = Reply()
        try:
            await self._coordinator.ref.tell(RaiseToken(partition, above, reply))
            await reply.wait()
        finally:
            reply.abandon()  # an owner that ends before the answer ends under its earlier token
        return reply.result()

    def _stuck(self, partition: int) -> None:
        with contextlib.suppress(ActorStopped, anyio.WouldBlock):  # sent again in a minute
            self._coordinator.ref.tell_nowait(Unable(partition))

    async def _ended(self, ended: Ended, owned: OwnedPartition | None) -> None:
        if owned is not None:
            self.handled += owned.flights.handled
            self.failed += owned.flights.failures
            self.trimmed += owned.flights.trimmed
        await self._coordinator.ref.tell(ended)

    def _assigned(self, partitions: Collection[int]) -> None:
        """Record the first assignment. The consumer is ready once its partitions are taken (or have to wait for a foreign holder, M8)."""
        if self._first is None:
            self._first = set(partitions) - self._taken_before
            self._check_ready()

    def _taken(self, partition: int) -> None:
        if self._first is None:
            self._taken_before.add(partition)
        else:
            self._first.discard(partition)
            self._check_ready()

    def _check_ready(self) -> None:
        if not self._first:
            self._ready.set()

    def _changed(self, owned: int) -> None:
        self.around.concurrency.owned = owned
        self.around.concurrency.grant()
