"""Cron jobs: functions that a fleet of replicas calls at set times, each tick once.

A tick is a message. Every replica that serves enqueues the next tick of each job ahead of time, delayed, and with a `dedup_id` of its own,
so that the topic holds it once. The topic's group handles it like any message. All times are by the server's clock: it decides when a
delayed message is due, and the scheduler reads it together with what is stored of the jobs. So a replica whose clock is wrong enqueues the
same ticks as the others, and none of them comes early.

- `CronJob` is a job as the program declares it. `Scheduler` enqueues the ticks and stores their outcomes.
- The scheduler stores a tick after it has enqueued it. If it ends in between, another one enqueues the tick again, which the `dedup_id`
  makes harmless until a day after the tick.
- `Scheduler.guard` is the outermost middleware of the consumer: a tick that is not wanted never reaches the program.
- `run_now` enqueues one more tick, which carries a header: the guard lets it through at any time. Older versions discard it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import anyio
import msgspec

from redisaq import events
from redisaq.brokers.access import Shared
from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.schedules import ReadSchedules, Schedules, SetSchedule
from redisaq.core.in_flight import Flight
from redisaq.core.retry import describe, full_jitter
from redisaq.core.schedules import (
    LOOK,
    TOPIC_ENDS_WITH,
    CatchUp,
    Plan,
    Terms,
    TickRun,
    Timetable,
    decode_schedule,
    encode_schedule,
    plan,
    too_late,
    written,
)
from redisaq.core.server_clock import ServerClock
from redisaq.describing import name_of
from redisaq.environment import current_environment, time_limit
from redisaq.errors import AmbiguousEnqueueError, QueueFull, ServerFull, SettingsError, TopicMissingError
from redisaq.logs import log
from redisaq.message import Message
from redisaq.middleware import Next
from redisaq.outcomes import Discard, RetryAfter
from redisaq.producer import Producer
from redisaq.settings import RetryPolicy, check_handler, check_name, check_retry, check_seconds, check_str

if TYPE_CHECKING:
    from redisaq.admin import Admin  # a program that only runs jobs does not import it

GROUP = "cron"
"""The consumer group of the ticks."""

REMEMBERED = 86_400.0
"""Seconds after a tick during which the server refuses to accept it again."""

PATIENCE = 3600.0
"""Seconds for which a tick of an unknown job is put off: another version of the program may run at the same time."""

AGAIN = 60.0
"""Seconds between two tries of such a tick."""

SHORTEST_REST, LONGEST_REST = 0.05, 30.0
"""Bounds of the seconds between two tries while the server cannot accept it."""

STEP_TIME = 30.0
"""Seconds that one look at the schedules may take."""

LAST_WORD = 1.0
"""Seconds that a stopping program takes to store the outcomes of its last ticks."""

PASSING = (ConnectionError, ServerFull, QueueFull, AmbiguousEnqueueError)
"""Errors after which the scheduler tries again."""

LONGEST_NAME, LONGEST_ERROR = 200, 300

ASKED = "redisaq-asked"
"""The header of a tick that somebody asked for. Its value is of no importance."""

_logger = logging.getLogger("redisaq.cron")


class Tick(msgspec.Struct, frozen=True):
    """The argument of a cron job.

    Attributes:
        name: the job's name.
        at: when it is due, in the job's time zone. It begins later if no program was there, or an earlier tick of the job was still
            running.
    """

    name: str
    at: datetime


class PutOff(RetryAfter):
    """This program does not know the tick's job, and no handler has begun on it."""


@dataclass(frozen=True)
class CronJob:
    """A cron job of an App.

    Attributes:
        name: its name.
        terms: expression, time zone, catch-up and grace.
        timetable: its ticks.
        timeout: seconds that the handler may run; None: no limit.
        handler: the function that is called with a Tick.
        retry: what happens to ticks on which the handler fails.
    """

    name: str
    terms: Terms
    timetable: Timetable
    timeout: float | None
    handler: Callable[[Tick], Any]
    retry: RetryPolicy


@dataclass(frozen=True)
class JobPolicies(RetryPolicy):
    """The policy of the ticks' consumer: each tick has that of its job.

    Attributes:
        jobs: by name.
    """

    jobs: Mapping[str, CronJob] = field(default_factory=dict[str, CronJob])

    def of(self, message: Message[Any]) -> RetryPolicy:
        """Return the policy of a tick's job; the default for a job that the program does not have."""
        job = self.jobs.get(getattr(message.payload, "name", ""))
        return self if job is None else job.retry


def make_job(
    handler: Callable[[Tick], Any],
    spec: str,
    tz: str,
    *,
    name: str | None,
    catch_up: CatchUp,
    grace: float,
    timeout: float | None,
    retry: RetryPolicy | None,
) -> CronJob:
    """Return a job; see `App.cron`.

    Raises:
        SettingsError: a value is not valid.
    """
    check_handler("the handler", handler)
    name = getattr(handler, "__name__", None) if name is None else name
    if name is None:
        raise SettingsError("the handler has no name of its own: give the cron job one with name=")
    name = check_name("name", name)
    if len(name) > LONGEST_NAME:
        raise SettingsError(f"the name of a cron job has at most {LONGEST_NAME} characters, not {len(name)}")
    if catch_up not in ("none", "latest", "all"):
        raise SettingsError(f"catch_up must be 'none', 'latest' or 'all', not {catch_up!r}")
    spec = " ".join(check_str("the cron expression", spec).split())
    timeout = None if timeout is None else check_seconds("timeout", timeout)
    limit = msgspec.UNSET if timeout is None else timeout
    terms = Terms(spec, check_str("tz", tz), catch_up, check_seconds("grace", grace, zero=True), limit)
    return CronJob(name, terms, Timetable(spec, tz), timeout, handler, check_retry(RetryPolicy() if retry is None else retry))


class Scheduler:
    """Enqueues the ticks of an App's cron jobs, and stores their outcomes.

    Attributes:
        jobs: by name.
        retry: the policy of the ticks' consumer.
    """

    def __init__(self, producer: Producer, link: Shared) -> None:
        """Begin without jobs.

        Args:
            producer: the producer of the ticks' topic.
            link: the way to the server.
        """
        self.jobs: dict[str, CronJob] = {}
        self.retry = JobPolicies(jobs=self.jobs)
        self._producer = producer
        self._link = link
        self._changed = anyio.Event()
        self._own: dict[str, int] = {}  # job -> the newest tick that was enqueued here
        self._since: int | None = None  # the server's time at the last round
        self._server_clock = ServerClock()
        self._answered = anyio.Event()
        self._begun: dict[str, tuple[str, int]] = {}  # job -> the message that runs here now, and its tick
        self._runs: dict[str, TickRun] = {}  # to be written down
        self._stopping = False
        self._failed: dict[str, tuple[int, str]] = {}  # job -> the tick that failed here last, and of what
        self._removed: dict[str, int] = {}  # job that no program knows -> the tick that nobody wanted

    # -- enqueueing ----------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Enqueue ticks until cancelled. While the server cannot take them, try again forever.

        Raises:
            ServerError: the server does not permit it.
        """
        self._own, self._since, self._stopping, self._answered = {}, None, False, anyio.Event()
        self._begun, self._runs, self._failed, self._removed = {}, {}, {}, {}
        self._server_clock = ServerClock()
        failures, random = 0, current_environment().random
        while True:
            changed = self._changed = anyio.Event()
            try:
                await self._round()
            except PASSING as error:
                failures += 1
                if failures == 1:
                    log(_logger, logging.WARNING, f"cron jobs cannot be enqueued at the moment: {error}")
                await anyio.sleep(full_jitter(failures, base=SHORTEST_REST, most=LONGEST_REST, random=random))
            else:
                failures = 0
                with anyio.move_on_after(self._rest()):
                    await changed.wait()

    def stop(self) -> None:
        """Enqueue nothing more. The outcomes of running ticks are still stored."""
        self._stopping = True

    async def finish(self) -> None:
        """Store the outcomes of the last ticks, if the server accepts them at once."""
        if self._runs:
            with anyio.move_on_after(LAST_WORD), suppress(*PASSING):
                await self._round()

    def _rest(self) -> float:
        """Return for how many seconds there is nothing to do, if nothing happens."""
        now = self.now()
        coming = min((due for due in self._own.values() if due > now), default=math.inf)
        return min(LOOK, max(SHORTEST_REST, coming - now))

    def now(self) -> float:
        """Return the server's time in seconds, estimated from its answers."""
        return current_environment().clock() + self._server_clock.ahead

    async def _round(self) -> None:
        """Read once what the server has stored, and do what each job needs."""
        broker, schedules = self._link.broker, await self._look()
        for job in self.jobs.values():
            await self._schedule(broker, job, schedules.now, schedules.kept.get(job.name))
        self._since = schedules.now
        for name, tick in list(self._removed.items()):
            kept = schedules.kept.get(name)
            schedule = decode_schedule(kept)
            known = schedule is None or schedule.due > tick  # it is gone, or a program that has the job runs
            if known or await self._write(broker, name, kept, None):
                del self._removed[name]

    async def _look(self) -> Schedules:
        """Return what the server has stored, and learn its time."""
        clock = current_environment().clock
        sent = clock()
        with time_limit(STEP_TIME):
            schedules = await self._link.broker.do(ReadSchedules(self._producer.topic))
        self._server_clock.tell(schedules.now, sent=sent, heard=clock())
        self._answered.set()
        return schedules

    async def _schedule(self, broker: Broker, job: CronJob, now: int, kept: bytes | None) -> None:
        """Enqueue a job's ticks that are due, then store that."""
        schedule, own = decode_schedule(kept), self._own.get(job.name)
        since = None if self._since is None else self._since // 1_000_000
        if self._stopping:
            todo = Plan((), own if schedule is None and own is not None else 0 if schedule is None else schedule.due)
        else:
            todo = plan(job.terms, job.timetable, schedule, now=now // 1_000_000, since=since, own=own)
        for tick in todo.ticks:
            await self._producer.enqueue_due(
                Tick(job.name, job.timetable.at(tick)),
                due=tick * 1_000_000,  # also in the past: what is due is delivered in this order
                key=job.name,
                timeout=job.timeout,
                dedup_id=f"{job.name}@{tick}",
                dedup_window=max(0.0, tick - now / 1e6) + REMEMBERED,
            )
        run = self._runs.get(job.name)
        after = encode_schedule(written(job.terms, schedule, todo.due, run, starting=own is None))
        if after != kept and not await self._write(broker, job.name, kept, after):
            self._changed.set()  # another replica was faster: look again
            return
        self._own[job.name] = todo.due
        if self._runs.get(job.name) is run:
            self._runs.pop(job.name, None)

    async def _write(self, broker: Broker, job: str, was: bytes | None, value: bytes | None) -> bool:
        with time_limit(STEP_TIME):
            return await broker.do(SetSchedule(self._producer.topic, job, was=was, value=value))

    # -- handling ------------------------------------------------------------------------------------------------------------------

    async def guard(self, messages: tuple[Message[Any], ...], call_next: Next) -> None:
        """Let a tick through if the program wants it: middleware of the consumer.

        A tick that has begun before is wanted, however late its next attempt is, and so is one that was redriven, or asked for.
        """
        (message,) = messages
        tick: Tick = message.payload
        await self._answered.wait()  # else the server's time is not known here
        at, now, job = int(tick.at.timestamp()), self.now(), self.jobs.get(tick.name)
        asked = ASKED in message.headers
        if job is None or not (asked or job.timetable.has(at)):
            self._refuse(message, tick, at, now, known=job is not None)
        elif not asked and too_late(job.terms, job.timetable, at, now) and not await self._has_begun(message, job.name, at):
            self._report(job.name, TickRun(at, "missed", now))
            log(_logger, logging.WARNING, f"a tick of the cron job {job.name!r} was missed: it was due at {tick.at.isoformat()}")
            raise Discard
        else:
            self._begun[job.name] = (message.msg_id, at)
            self._report(job.name, TickRun(at, "running", now, message.attempt))
            await call_next()

    async def _has_begun(self, message: Message[Any], job: str, at: int) -> bool:
        """Return whether a handler has begun on it before: it failed, put itself off, lost its process, or was redriven.

        A tick that was delivered to a process that crashed may have waited there for an earlier tick. What is stored of the job decides.
        """
        flight = message if isinstance(message, Flight) else None
        if flight is None or flight.attempt > 1:
            return True
        if flight.body is not None:
            failure = flight.body.failure
            return flight.body.life > 0 or failure is None or failure.error_type != name_of(PutOff)
        if not flight.count:
            return False
        try:
            kept = decode_schedule((await self._look()).kept.get(job))
        except PASSING:
            raise PutOff(1.0) from None
        return kept is not None and kept.run is not None and kept.run.at == at and kept.run.outcome in ("running", "failed")

    def _refuse(self, message: Message[Any], tick: Tick, at: int, now: float, *, known: bool) -> None:
        """Put off, or discard, a tick whose job this program does not have.

        Raises:
            PutOff: for an hour after the tick came, another version of the program may take it.
            Discard: no program has taken it.
        """
        came = max(at, message.enqueued_at.timestamp() if message.enqueued_at is not None else 0.0)
        left = came + PATIENCE - now
        if left > 0:
            raise PutOff(max(1.0, min(AGAIN, left)))
        what = "has other times now" if known else "is not in the program any more"
        log(
            _logger,
            logging.WARNING,
            f"a tick of the cron job {tick.name!r} is discarded: the job {what} (it was due at {tick.at.isoformat()})",
        )
        if not known:
            self._removed[tick.name] = at
            self._changed.set()
        raise Discard

    def call(self, message: Message[Tick]) -> object:
        """Call the job with its tick, in the job's own time zone: the handler of the consumer.

        It is a plain function, so that it runs in a thread, as plain jobs must. The coroutine of an async one is awaited in the event loop.
        """
        tick = message.payload
        job = self.jobs[tick.name]
        return job.handler(Tick(tick.name, job.timetable.at(int(tick.at.timestamp()))))

    def observe(self, event: events.Event) -> None:
        """Record the outcome of a tick: called with every event of the consumer."""
        if not isinstance(event, events.MessageSucceeded | events.MessageFailed | events.MessageDead):
            return
        for name, (msg_id, at) in self._begun.items():
            if msg_id == event.msg_id:
                outcome: Literal["done", "failed", "dead"] = "done" if isinstance(event, events.MessageSucceeded) else "failed"
                error = ""
                if isinstance(event, events.MessageFailed):
                    if isinstance(event.error, Discard):
                        outcome = "done"
                    else:
                        error = ": ".join(filter(None, describe(event.error)[:2]))[:LONGEST_ERROR]
                        self._failed[name] = (at, error)
                elif isinstance(event, events.MessageDead):
                    outcome, (failed, error) = "dead", self._failed.get(name, (at, event.reason[:LONGEST_ERROR]))
                    error = error if failed == at else event.reason[:LONGEST_ERROR]
                self._report(name, TickRun(at, outcome, self.now(), event.attempt, error))
                return

    def _report(self, job: str, run: TickRun) -> None:
        known = self._runs.get(job)
        if known is None or run.at >= known.at:
            self._runs[job] = run
            self._changed.set()


async def run_now(admin: Admin, producer: Callable[[str], Producer], app: str, job: str) -> str:
    """Enqueue one tick of a cron job that is due now, and return the id of its message.

    The tick's time is the present, in whole seconds. There is one for each second at most, also if two people ask at the same time, or the
    schedule has a tick in that second. The job's own ticks stay as they are.

    Args:
        admin: looks at the job.
        producer: returns a producer of a topic, on the same server, for payloads that are JSON already.
        app: the program's name.
        job: the job's name.

    Raises:
        SettingsError: the program has no such job, it cannot be read, no program that has it is running, or the program's jobs are paused.
    """
    topic = f"{app}{TOPIC_ENDS_WITH}"
    found = next((one for one in await admin.schedules(app) if one.name == job), None)
    if found is None:
        raise SettingsError(f"{app} has no cron job {job}")
    if found.unreadable:
        raise SettingsError(f"the cron job {job} of {app} cannot be read: {found.unreadable}")
    at = int((await admin.server()).now.timestamp())
    due = found.next or found.overdue or found.last  # a tick is due before the program plans the next one
    if due is None or due.timestamp() < at - LOOK:
        raise SettingsError(f"no program that has the cron job {job} is running")
    try:
        group = await admin.group(topic, GROUP, partitions=())
    except TopicMissingError as error:
        raise SettingsError(f"no program that has the cron job {job} is running") from error
    if group.paused:
        raise SettingsError(f"the cron jobs of {app} are paused: resume the group {GROUP} of {topic} first")
    async with producer(topic) as sending:
        return await sending.enqueue(
            msgspec.json.encode(Tick(job, datetime.fromtimestamp(at, UTC))),
            key=job,
            headers={ASKED: "1"},
            timeout=found.timeout,
            dedup_id=f"{job}@{at}",
            dedup_window=REMEMBERED,
        )
