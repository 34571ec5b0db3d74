"""Simulate a whole group, its producers and its server under one seed, in virtual time and with faults, and report violations.

Input: a scenario, a seed, a backend and a FaultPlan. Output: a Report. The same four inputs give the same trace on every machine and in
every process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from dataclasses import replace
from random import Random
from typing import Any, Literal

import anyio
from anyio.abc import TaskGroup

from redisaq.admin import Admin
from redisaq.brokers import memory_brokers
from redisaq.brokers.steps import Broker
from redisaq.brokers.terms import GroupName
from redisaq.environment import Environment, current_environment, enter_environment, use_environment
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed, SettingsError
from redisaq.producer import Producer
from redisaq.settings import MOST_PARTITIONS, check_callable, check_count, check_handler, check_seconds
from redisaq.testing import overheard
from redisaq.testing.clustered_broker import ClusteredBroker
from redisaq.testing.fault_source import FaultSource
from redisaq.testing.faults import Fault, FaultPlan, Kind, check_faults
from redisaq.testing.faulty_broker import FaultyBroker
from redisaq.testing.freezing import OWNER, Freezer, current_freezer
from redisaq.testing.guarantees import NOTICE, Guarantees
from redisaq.testing.member import URL, Mode, SimulatedMember
from redisaq.testing.network import Network
from redisaq.testing.nodes import Nodes
from redisaq.testing.outages import Outages
from redisaq.testing.outsiders import Grower, Outsider, SimulatedAdmin, SimulatedProducer
from redisaq.testing.overheard import Call
from redisaq.testing.pace import Limits, VirtualTimeExceeded
from redisaq.testing.quiet import unsettled_groups, work_left
from redisaq.testing.raised import tell_raised
from redisaq.testing.record import ObserverType, Record
from redisaq.testing.report import Report
from redisaq.testing.standstill import VirtualDeadlock
from redisaq.testing.virtual import EPOCH, virtual_run

LOOK = 0.25
"""Seconds between two checks whether everything is quiet."""

END_LIMIT = 120.0
"""Seconds that members may take to leave when a scenario has ended."""


class Simulation:
    """The argument of a scenario: creates producers and members, and makes things happen to them. Times are seconds of virtual time.

    Attributes:
        record: what has happened so far, as observers see it.
        store: the server's data, for inspection.
    """

    def __init__(self, seed: int, source: FaultSource, record: Record, tasks: TaskGroup) -> None:
        """Prepare a simulation; `simulate` does this for you."""
        self._seed = seed
        self._source = source
        self.record = record
        self._tasks = tasks
        self._freezer: Freezer = current_freezer()
        self._starts: dict[str, int] = {}
        speed = 1.0 + source.drift()
        environment = self._environment("server")
        now = environment.clock
        server = replace(environment, wall_clock=lambda: EPOCH + now() * speed)
        self.store = record.store = Nodes(URL, server)
        self._network = Network(self.store, record.note)
        self._outages = Outages(self.store, self._network, record.lost, note=record.note, start=self._start)
        self._network.strike = self._outages.strike
        self._network.start = self._start
        self._network.lags = self._outages.lags
        self._network.stepped = record.stepped
        source.disturb, source.befall = record.disturb, record.befall
        record.was_silent = lambda name: self._network.was_silent(name, NOTICE)
        memory_brokers.set(self._open_broker)
        self._context = copy_context()
        self._members: dict[str, SimulatedMember] = {}
        self._gone: list[SimulatedMember] = []
        self._producers: list[SimulatedProducer] = []
        self._growers: list[Grower] = []
        self._outsiders: set[str] = set()
        self._restarting = 0
        self._closing = False
        self._start(self._network.run)

    # -- who takes part --------------------------------------------------------------------------------------------------------------

    def producer(self, topic: str, **options: Any) -> Producer:
        """Return a Producer of the simulated server. It takes the arguments of Producer without a URL, and is closed at the end."""
        name = f"producer-{len(self._producers)}"
        self._outsiders.add(name)
        producer = self._inside(Outsider(name, float(options.get("send_timeout", 30.0)))).run(
            lambda: SimulatedProducer(topic, URL, **options)
        )
        producer.record = self.record
        producer.send_timeout = float(options.get("send_timeout", 30.0))
        producer.writes_json = options.get("serializer") is None
        self._producers.append(producer)
        return producer

    def admin(self, **options: Any) -> Admin:
        """Return an Admin of the simulated server, for use with `async with`. It takes the arguments of Admin without a URL.

        A call that takes longer than the admin's `timeout` is a violation.
        """
        admin = SimulatedAdmin(URL, **options)
        admin.record, admin.seconds = self.record, float(options.get("timeout", 30.0))
        return admin

    def member(self, name: str, topic: str, handler: Callable[[Any], Any], *, mode: Mode = "process", **options: Any) -> None:
        """Start a member of a group. It takes the arguments of Consumer without a URL.

        Args:
            name: the member's name in the scenario, the trace and the report.
            topic: the topic to consume.
            handler: a handler as for `Consumer.process`. With mode "process_batch" it takes a list of messages; with mode "messages" it is
                called in the body of `async with message`.
            mode: the method of Consumer with which the member consumes.
            options: options of Consumer.

        Raises:
            SettingsError: a member of that name is running, there is no such mode, or the handler is not callable.
        """
        check_handler("handler", handler)
        former = self._members.get(name)
        if former is not None and former.live:
            raise SettingsError(f"a member {name!r} is already running")
        if former is not None:
            self._gone.append(former)
        self._members[name] = member = SimulatedMember(
            name,
            topic,
            handler,
            options,
            mode=mode,
            record=self.record,
            freezer=self._freezer,
            source=self._source,
            fails=self._fail,
        )
        self.record.mark(member, "joins")
        self._inside(member).run(self._tasks.start_soon, member.run)

    def grow(self, topic: str, partitions: int) -> None:
        """Start a process that lets a topic have this many partitions, and then ends. Returns at once.

        A fault plan may let it crash or pause between two steps (`grower_crash`, `grower_pause`).
        """
        check_count("partitions", partitions, most=MOST_PARTITIONS)
        grower = Grower(f"grower-{len(self._growers)}", 30.0, self._fail_grower)
        self._growers.append(grower)
        self._inside(grower).run(self._tasks.start_soon, self._grow, grower, topic, partitions)

    async def crash(self, name: str) -> None:
        """Crash a member: it is gone without cleanup, and nothing restarts it."""
        self._named(name).dismissed = True
        self._crash(self._named(name))
        await anyio.lowlevel.checkpoint()

    async def pause(self, name: str, seconds: float) -> None:
        """Stop a member for this many seconds. Returns at once."""
        self._pause(self._named(name), check_seconds("seconds", seconds, zero=True))
        await anyio.lowlevel.checkpoint()

    async def leave(self, name: str) -> None:
        """Let a member drain and leave. Returns when it has left, or has crashed meanwhile. Nothing restarts it."""
        member = self._dismissed(name, "leaves")
        if member.consumer is None:  # it has not taken its first step yet
            self._inside(member).run(member.scope.cancel)
        else:
            self._inside(member).run(self._tasks.start_soon, member.consumer.stop)  # a task of its own, which freezes with the member
        await member.gone.wait()

    async def cancel(self, name: str) -> None:
        """Cancel a member's consumer. Returns when it has ended, or has crashed meanwhile. Nothing restarts it."""
        member = self._dismissed(name, "is cancelled")
        self._inside(member).run(member.scope.cancel)
        await member.gone.wait()

    def cluster(self, nodes: int) -> None:
        """Spread the server's slots over nodes, of which each fails over by itself. Call this before anything takes part.

        The first node has what coordinates topics and groups. The partitions are dealt out to the others in turn: with one node more than
        the topic has partitions, each slot is alone. The fault "failover" then hits the node to which the operation goes, which is away
        for as long as what it forgets.

        Args:
            nodes: how many, at least 2.

        Raises:
            SettingsError: `nodes` is not such a number, or something takes part already.
        """
        if check_count("nodes", nodes) < 2 or self._members or self._outsiders:  # noqa: PLR2004 -- a node for the topic, one for partitions
            raise SettingsError("a cluster has 2 nodes or more, from the beginning of a scenario on")
        self.store.spread(nodes)

    async def failover(
        self, forgets: float, topic: str | None = None, partition: int | None = None, *, away: float | None = None, slow: float = 0.0
    ) -> None:
        """Cut a replica off from the server now, and let it take the server's place `forgets` seconds later. Returns when it has.

        Args:
            forgets: seconds of writes that the replica does not get.
            topic: in a cluster, the node is that of this topic's partition; without, that of what coordinates topics.
            partition: see there.
            away: in a cluster, seconds from the end of the node until the replica has its place; None: as many as it forgets.
            slow: in a cluster, seconds by which the replica's clock is behind when it gives out entry ids.
        """
        node = 0 if topic is None else self.store.node_of((topic, partition))
        check_seconds("forgets", forgets, zero=True)
        self._outages.fall_behind(forgets, node, away=away, slow=slow)
        self.record.disturb(forgets if self.store.count == 1 else forgets + (forgets if away is None else away))
        await self._outages.wait_over()

    async def stop_node(self, topic: str, partition: int | None, seconds: float) -> None:
        """Let the node of a slot stand still, as under SIGSTOP. Returns at once.

        When the time is over, all connections to it break, and it carries out what was sent meanwhile, unless it has failed over.
        """
        self.record.disturb(check_seconds("seconds", seconds, zero=True))
        self._network.stop_node(self.store.node_of((topic, partition)), seconds)
        await anyio.lowlevel.checkpoint()

    async def move_slot(self, topic: str, partition: int, seconds: float) -> None:
        """Let the slot of a partition be on its way to another node for so long: it refuses everything (C1). Returns when it has arrived.

        It arrives in the middle of a call: of the next append, the first entry for it is refused, and those after that are not.
        """
        self.record.disturb(check_seconds("seconds", seconds, zero=True))
        self.store.move_slot((topic, partition), -1)
        await anyio.sleep(seconds)
        self.store.move_slot((topic, partition), 1)

    async def silence(self, seconds: float, name: str | None = None) -> None:
        """Let nothing be heard for this many seconds on any connection of one process, or of all without a name. Returns at once.

        `name` is that of a member or producer. When the time is over, all these connections break, and the server carries out what was sent
        meanwhile. This has no effect while such a silence already lasts.
        """
        self.record.disturb(check_seconds("seconds", seconds, zero=True))
        if name is None:
            self._outages.fall_silent(seconds)
        elif name in {*self._members, *self._outsiders}:
            self._network.silence(name, seconds)
        else:
            raise SettingsError(f"there is no member or producer {name!r}")
        await anyio.lowlevel.checkpoint()

    async def outage(self, seconds: float) -> None:
        """Take the server away for this many seconds. It comes back with all its data and a new run id. Returns when it is back."""
        self._outages.go_away(check_seconds("seconds", seconds, zero=True))
        self.record.disturb(seconds)
        await self._outages.wait_over()

    async def lose_slot(self, topic: str, partition: int | None = None) -> None:
        """Delete all data of one partition or, without a partition, the topic's partition count and the documents of its groups."""
        self._outages.lose_slot(topic, partition)
        self.record.disturb()
        await anyio.lowlevel.checkpoint()

    def _dismissed(self, name: str, how: str) -> SimulatedMember:
        member = self._named(name)
        member.dismissed = True
        self.record.mark(member, how)
        return member

    async def until_quiet(self, timeout: float = 300.0) -> None:
        """Wait until each group has every message done or dead, and its partitions are shared out among its running members.

        While there is work, faults continue. After that, no new faults happen until this returns, because otherwise no group would ever
        settle.

        Args:
            timeout: seconds after which anything that is not quiet is a violation. Faults may continue for up to half of them.

        Raises:
            SettingsError: `timeout` is not a number of seconds.
        """
        check_seconds("timeout", timeout, zero=True)
        now = anyio.current_time()
        groups, deadline = self._groups(), now + timeout
        while work_left(self.store, groups) and anyio.current_time() < now + timeout / 2:  # noqa: ASYNC110 -- a store notifies nobody
            await anyio.sleep(LOOK)
        self._source.calm = True
        try:
            while True:
                noises = self._noises(groups)
                if not noises or anyio.current_time() >= deadline:
                    break
                await anyio.sleep(LOOK)
        finally:
            self._source.calm = False
        for noise in noises:
            self.record.violation(f"not quiet after {timeout:g} s: {noise}")
        if not noises:
            self.record.quiet(groups)

    def _noises(self, groups: list[GroupName]) -> list[str]:
        noises = [f"{member.name} stands still" for member in self._members.values() if member.live and member.suspended]
        noises += [f"{one.name} stands still" for one in self._growers if not one.crashed and self._freezer.frozen(one)]
        topics = {member.topic for member in self._members.values() if member.live}
        noises += [f"{topic} is growing" for topic, state in self.store.topics.items() if state.pending is not None and topic in topics]
        if self._outages.noise:
            noises.append(self._outages.noise)
        if self._restarting:
            noises.append(f"{self._restarting} members are to start again")
        return [*noises, *work_left(self.store, groups), *unsettled_groups(self.store, groups, list(self._members.values()))]

    # -- faults of processes -----------------------------------------------------------------------------------------------------------

    def _fail(self, member: SimulatedMember, kind: Kind, seconds: float) -> None:
        if kind == "pause":
            self._pause(member, seconds)
        elif kind == "silent_network":
            self._network.silence(member.name, seconds)
        elif kind == "silent_notifications":
            self._network.mute(member.name, seconds)
        else:
            self._crash(member)
            self._restarting += 1
            self._start(self._restart, member, seconds)

    async def _grow(self, grower: Grower, topic: str, partitions: int) -> None:
        with grower.scope, contextlib.suppress(ConnectionFailed, AmbiguousEnqueueError):
            async with Producer(topic, URL) as producer:
                await producer.request_partition_increase(partitions)

    def _fail_grower(self, grower: Grower, kind: Kind, seconds: float) -> None:
        self._freezer.freeze(grower)
        if kind == "grower_crash":
            grower.crashed = True
            self.record.note(grower.name, "process", "crashes")
        else:
            self.record.note(grower.name, "process", f"pauses for {seconds:.3f} s")
            self._start(self._wake_grower, grower, seconds)

    async def _wake_grower(self, grower: Grower, after: float) -> None:
        await anyio.sleep(after)
        self.record.note(grower.name, "process", "goes on")
        self._freezer.thaw(grower)

    async def _restart(self, member: SimulatedMember, after: float) -> None:
        await anyio.sleep(after)
        self._restarting -= 1
        if not self._closing and not member.dismissed and self._members[member.name] is member:
            self.member(member.name, member.topic, member.handler, mode=member.mode, **member.options)

    def _crash(self, member: SimulatedMember) -> None:
        if not member.live:
            return
        self.record.mark(member, "crashes")
        member.crashed = True
        member.gone.set()
        self._freezer.freeze(member)

    def _pause(self, member: SimulatedMember, seconds: float) -> None:
        if not member.live or member.suspended:
            return
        self.record.mark(member, f"pauses for {seconds:.3f} s")
        self.record.disturb(seconds)
        self._freezer.freeze(member)
        self._start(self._go_on, member, seconds)

    async def _go_on(self, member: SimulatedMember, after: float) -> None:
        await anyio.sleep(after)
        if not member.crashed:
            member.thawed_at = anyio.current_time()
            self.record.mark(member, "goes on")
            self._freezer.thaw(member)

    # -- the end -----------------------------------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Let all members leave, and check what is left."""
        self._closing = self._source.calm = True
        await self._outages.call_off()
        members = [*self._members.values(), *self._gone]
        with anyio.move_on_after(END_LIMIT):
            for producer in self._producers:
                await producer.close()
            async with anyio.create_task_group() as leaving:
                for member in self._members.values():
                    if member.live:
                        leaving.start_soon(self.leave, member.name)
        for member in members:
            if member.live:
                self.record.violation(f"{member.name} had not left {END_LIMIT:g} s after it was asked to")
        self.bury()
        with anyio.move_on_after(END_LIMIT):
            for member in members:
                await member.ended.wait()
        for member in members:
            if not member.ended.is_set():
                self.record.violation(f"tasks of {member.name} are left running")
        await anyio.sleep(max((member.ttl for member in members), default=0.0) * 1.2 + 1.0)  # by then, crashed members are forgotten
        self.record.close()

    def bury(self) -> None:
        """Cancel the tasks of crashed members, and wait until they have noticed. No member crashes or pauses after this."""
        self._closing = self._source.calm = True
        processes: list[SimulatedMember | Grower] = [*self._members.values(), *self._gone, *self._growers]
        for process in processes:
            if process.crashed or isinstance(process, Grower):
                process.scope.cancel()
            if self._freezer.frozen(process):
                self._freezer.thaw(process)

    # -- within ------------------------------------------------------------------------------------------------------------------------

    def _named(self, name: str) -> SimulatedMember:
        member = self._members.get(name)
        if member is None:
            raise SettingsError(f"there is no member {name!r}")
        return member

    def _groups(self) -> list[GroupName]:
        members = (*self._gone, *self._members.values())
        return list(dict.fromkeys(member.group for member in members))

    def _open_broker(self, name: str, namespace: str, environment: Environment | None, confirmed: bool) -> Broker:  # noqa: FBT001 -- see memory_brokers
        owner = OWNER.get()
        process = owner if isinstance(owner, SimulatedMember | Outsider) else Outsider("scenario")
        kind = FaultyBroker if self.store.count == 1 else ClusteredBroker
        options: dict[str, Any] = {"network": self._network, "source": self._source, "owner": process, "record": self.record}
        return kind(name, namespace, environment, confirmed=confirmed, **options)

    def _environment(self, who: str) -> Environment:
        """Return a new environment for each start of a process, so that its random numbers do not depend on how many others draw."""
        self._starts[who] = start = self._starts.get(who, 0) + 1
        return replace(current_environment(), random=Random(f"{self._seed} {who} {start}"))  # noqa: S311 -- reproducible on purpose

    def _inside(self, process: SimulatedMember | Outsider) -> Context:
        context, environment = self._context.copy(), self._environment(process.name)
        context.run(OWNER.set, process)
        context.run(enter_environment, environment)
        return context

    def _start(self, function: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Start a task that belongs to no process that could be frozen."""
        self._context.copy().run(self._tasks.start_soon, function, *args)


def simulate(
    scenario: Callable[[Simulation], Awaitable[None]],
    seed: int = 0,
    backend: Literal["trio", "asyncio"] = "trio",
    faults: FaultPlan | Sequence[Fault] | None = None,
    limits: Limits | None = None,
    *,
    raises: bool = True,
    observers: Sequence[ObserverType] = (),
) -> Report:
    """Run a scenario under one seed and return a `Report` of what happened.

    When the scenario ends, all members leave, and what they leave behind is checked.

    Args:
        scenario: a coroutine function that takes a Simulation.
        seed: selects the interleaving and the faults.
        backend: "trio" or "asyncio".
        faults: a FaultPlan, or a list of the faults that are to happen, as in `Report.faults`; None: no faults. The whole list reproduces
            the trace, and you may leave out any of its faults.
        limits: how long the run may take. Exceeding them is a violation that names the tasks that take the steps. None: the defaults of
            Limits.
        raises: False: an exception of the scenario is not raised; it ends the run and is a violation.
        observers: subclasses of Observer that watch the run beside `Guarantees`, and may add violations.

    Raises:
        SettingsError: an argument is invalid.
        RuntimeError: an event loop is already running in this thread.
        Exception: any exception that the scenario raises, with the seed as a note.
    """
    check_callable("scenario", scenario)
    befall = check_faults(faults)
    record = Record(lambda: 0.0)
    source = FaultSource(seed, befall, lambda: 0.0)
    raised: Exception | None = None

    async def main() -> None:
        nonlocal record, source, raised
        clock = current_environment().clock
        began = clock()
        record = Record(lambda: clock() - began, (Guarantees, *observers))
        source = FaultSource(seed, befall, lambda: clock() - began)
        async with anyio.create_task_group() as tasks:
            with use_environment(current_environment()):
                simulation = Simulation(seed, source, record, tasks)
                try:
                    await scenario(simulation)
                    await simulation.finish()
                except Exception as error:  # noqa: BLE001 -- it is raised outside of the task group, which would wrap it
                    if raises:
                        raised = error
                    else:
                        record.violation(tell_raised(error))
                finally:
                    simulation.bury()
            tasks.cancel_scope.cancel()
        if raised is not None:
            raise raised

    try:
        virtual_run(main, seed=seed, backend=backend, limits=limits or Limits())
    except (VirtualDeadlock, VirtualTimeExceeded) as error:
        record.violations.append(str(error))  # the clock is gone
    except BaseException as error:
        error.add_note(f"simulated under seed {seed} on {backend}")
        overheard.tell(Call(scenario, seed, backend, faults, limits, observers, error=error))
        raise
    report = Report(
        seed=seed,
        backend=backend,
        violations=record.violations,
        trace_hash=record.hash(),
        trace=record.trace,
        produced=record.produced,
        dropped=record.dropped(),
        known=record.known,
        deliveries=record.deliveries(),
        settles=record.settles,
        leases=record.leases(),
        marks=record.marks,
        faults=source.befallen,
    )
    overheard.tell(Call(scenario, seed, backend, faults, limits, observers, report=report))
    return report
