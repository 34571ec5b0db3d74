"""An application: holds the topics and handlers of a program, and runs its producers and consumers.

You declare topics, handlers and resources, and the App starts and ends the producers and consumers. It is built only from the public
classes. One event loop at a time may enter it. Links are opened before the lifespan begins and closed after it has ended, and messages are
consumed only while it lasts.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypedDict, TypeVar, Unpack, cast, overload

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from redisaq.brokers.access import RedisURL, Shared, text_of_url
from redisaq.callables import both, function_of
from redisaq.consumer import STEPS_TO_BEGIN, Consumer
from redisaq.core.codec import Serializer
from redisaq.core.schedules import TOPIC_ENDS_WITH, CatchUp
from redisaq.cron import GROUP, CronJob, Scheduler, Tick, make_job
from redisaq.error_groups import leaves_of
from redisaq.errors import RedisaqError, SettingsError
from redisaq.events import Event
from redisaq.message import Message
from redisaq.middleware import Middleware, Outgoing, check_middleware
from redisaq.producer import SEND_TIMEOUT, Producer
from redisaq.settings import (
    MOST_PARTITIONS,
    HandlingOptions,
    RetryPolicy,
    check_callable,
    check_client,
    check_count,
    check_handler,
    check_name,
    check_plain,
    check_seconds,
    check_str,
)

if TYPE_CHECKING:
    from redisaq.admin import Admin
    from redisaq.admin_views import ScheduleInfo

S = TypeVar("S")
T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")

MOST_JOBS = 1000
"""Cron jobs that one replica runs at once, and ticks that it reads at once: those of one slow job must not hold up the others."""

_NO_OPTIONS_OF_A_TOPIC = {"init_partitions": "partitions", "namespace": "the App's", "client": "the App's"}
_NO_OPTIONS_OF_A_CONSUMER = {
    "group_name": "the decorator's first argument",
    "namespace": "the App's",
    "client": "the App's",
    "init_partitions": "the topic's: partitions",
    "payload_type": "the topic's",
}

_serving: ContextVar[App[Any] | None] = ContextVar("redisaq_serving", default=None)
"""The App whose handler, or a task that its handler started, is running this code."""


class ProducerOptions(TypedDict, total=False):
    """The options of `App.topic` besides name, payload type and partitions. They are those of `Producer`."""

    maxlen: int | None
    approximate: bool
    retention: Literal["acked"] | None
    retention_idle: float
    max_backlog: int | None
    max_payload: int
    send_timeout: float
    acks: Literal["primary", "replica"]
    serializer: Serializer | None
    on_send: Callable[[Outgoing], object] | None
    debug: bool
    logger: logging.Logger | None


@dataclass(frozen=True)
class Subscription(Generic[T]):
    """A consumer of an App, and its handler.

    Attributes:
        topic: the topic that it consumes.
        group_name: its consumer group.
        handler: the function that it calls with messages.
        consumer: the Consumer, for statistics and `attach`.
        batch_size: the most messages in a batch. None: the handler receives one message at a time.
        batch_wait: seconds that a batch may wait until it is full.
    """

    topic: Topic[T]
    group_name: str
    handler: Callable[..., Any]
    consumer: Consumer[T]
    batch_size: int | None = None
    batch_wait: float = 0.0

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Consume until stopped."""
        if self.batch_size is None:
            await self.consumer.process(self.handler, task_status=task_status)
        else:
            size, wait = self.batch_size, self.batch_wait
            await self.consumer.process_batch(self.handler, batch_size=size, batch_wait=wait, task_status=task_status)


class Topic(Generic[T]):
    """A topic of an App, created by `App.topic`. It enqueues messages and declares consumers.

    Attributes:
        name: the topic's name.
        payload_type: the type of its payloads. None: any type.
        partitions: the least number of partitions that it has.
        producer: the Producer that enqueues its messages, for statistics and growing.
    """

    def __init__(
        self, app: App[Any], name: str, payload_type: object, partitions: int, *, options: Mapping[str, Any], producer: Producer
    ) -> None:
        """Create a topic. `App.topic` calls this.

        Args:
            app: the App that it belongs to.
            name: the topic's name.
            payload_type: the type of its payloads. None: any type.
            partitions: the least number of partitions.
            options: the options that `App.topic` was given.
            producer: the Producer that enqueues its messages.
        """
        self.name = name
        self.payload_type = payload_type
        self.partitions = partitions
        self.producer = producer
        self._app = app
        self._options = dict(options)

    def __repr__(self) -> str:
        """Show name and size."""
        return f"<Topic {self.name!r} of at least {self.partitions} partition(s)>"

    def agrees(self, payload_type: object, partitions: int, options: Mapping[str, Any]) -> bool:
        """Return whether it was declared with the same arguments."""
        return (self.payload_type, self.partitions, self._options) == (payload_type, partitions, dict(options))

    async def enqueue(
        self,
        payload: T | Message[T],
        *,
        key: str | None = None,
        partition_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        dedup_id: str | None = None,
        dedup_window: float = 3600.0,
    ) -> str:
        """Append one message and return its id: see `Producer.enqueue`. It connects if you have not entered the App."""
        return await self.producer.enqueue(
            payload,
            key=key,
            partition_key=partition_key,
            headers=headers,
            timeout=timeout,
            delay=delay,
            at=at,
            dedup_id=dedup_id,
            dedup_window=dedup_window,
        )

    async def batch_enqueue(
        self,
        payloads: Iterable[T | Message[T]],
        *,
        key: str | None = None,
        partition_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        delay: float | None = None,
        at: datetime | None = None,
    ) -> list[str]:
        """Append several messages in one round trip and return their ids: see `Producer.batch_enqueue`."""
        return await self.producer.batch_enqueue(
            payloads, key=key, partition_key=partition_key, headers=headers, timeout=timeout, delay=delay, at=at
        )

    def consumer(
        self, group_name: str, *, batch_size: int = 10, **options: Unpack[HandlingOptions]
    ) -> Callable[[Callable[[Message[T]], R]], Callable[[Message[T]], R]]:
        """Return a decorator that makes a function the handler of this topic's messages. The function itself does not change.

        Args:
            group_name: the consumer group.
            batch_size: the most entries of one read.
            options: options of `Consumer`.

        Raises:
            SettingsError: an option is not valid or belongs to the App, or the App already has a consumer of this group.
        """
        group_name = check_name("group_name", group_name)  # now: used as `@topic.consumer` it would get the handler, and declare nothing

        def decorate(handler: Callable[[Message[T]], R]) -> Callable[[Message[T]], R]:
            check_handler("the handler", handler)
            self._app.subscribe(Subscription(self, group_name, handler, self._new_consumer(group_name, batch_size, options)))
            return handler

        return decorate

    def batch_consumer(
        self, group_name: str, *, batch_size: int = 10, batch_wait: float = 0.05, **options: Unpack[HandlingOptions]
    ) -> Callable[[Callable[[list[Message[T]]], R]], Callable[[list[Message[T]]], R]]:
        """Return a decorator that makes a function the handler of lists of this topic's messages: see `Consumer.process_batch`.

        Args:
            group_name: the consumer group.
            batch_size: the most messages in a list.
            batch_wait: seconds that a list may wait until it is full.
            options: options of `Consumer`.

        Raises:
            SettingsError: as for `consumer`.
        """
        group_name = check_name("group_name", group_name)
        batch_wait = check_seconds("batch_wait", batch_wait, zero=True)

        def decorate(handler: Callable[[list[Message[T]]], R]) -> Callable[[list[Message[T]]], R]:
            check_handler("the handler", handler)
            consumer = self._new_consumer(group_name, batch_size, options)
            self._app.subscribe(Subscription(self, group_name, handler, consumer, batch_size, batch_wait))
            return handler

        return decorate

    def _new_consumer(self, group_name: str, batch_size: int, options: HandlingOptions) -> Consumer[T]:
        _refuse(options, _NO_OPTIONS_OF_A_CONSUMER)
        return self._app.new_consumer(self, group_name, batch_size, options)


class App(Generic[S]):
    """The topics and consumers of a program, and the resources that they need while they run.

    `async with app:` connects and runs the lifespan, for a program that only produces. `serve` also consumes.
    """

    @overload
    def __init__(
        self: App[None],
        redis_url: RedisURL | None = ...,
        *,
        name: str = ...,
        namespace: str = ...,
        lifespan: None = ...,
        middleware: Sequence[Middleware] = ...,
        on_event: Callable[[Event], object] | None = ...,
        on_send: Callable[[Outgoing], object] | None = ...,
        client: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: App[A],
        redis_url: RedisURL | None = ...,
        *,
        name: str = ...,
        namespace: str = ...,
        lifespan: Callable[[App[A]], AbstractAsyncContextManager[A]],
        middleware: Sequence[Middleware] = ...,
        on_event: Callable[[Event], object] | None = ...,
        on_send: Callable[[Outgoing], object] | None = ...,
        client: str | None = ...,
    ) -> None: ...
    def __init__(
        self,
        redis_url: RedisURL | None = None,
        *,
        name: str = "app",
        namespace: str = "redisaq",
        lifespan: Callable[[App[Any]], AbstractAsyncContextManager[Any]] | None = None,
        middleware: Sequence[Middleware] = (),
        on_event: Callable[[Event], object] | None = None,
        on_send: Callable[[Outgoing], object] | None = None,
        client: str | None = None,
    ) -> None:
        """Create an App. It does not connect yet.

        Args:
            redis_url: as for a Producer. None: the value of REDISAQ_URL when it connects, otherwise redis://localhost:6379/0.
            name: the program's name, for what belongs to the App itself: the ticks of its cron jobs are in the topic `<name>-cron`.
            namespace: the first part of every key.
            lifespan: called with the App when it is entered. The value that it yields becomes `state`.
            middleware: wraps every handler, outside the consumer's own middleware.
            on_event: called with every event of every consumer, after the consumer's own `on_event`.
            on_send: called with every message before it is serialized, after the topic's own `on_send`.
            client: the label of its members of groups, and part of the names of its connections (CLIENT SETNAME); default: "host:pid".

        Raises:
            SettingsError: a value is not valid.
        """
        self.name = check_name("name", name)
        self.namespace = check_name("namespace", namespace)
        if lifespan is not None:
            check_callable("lifespan", lifespan)
            if inspect.isasyncgenfunction(function_of(lifespan)):
                raise SettingsError("lifespan must make an async context manager: decorate it with contextlib.asynccontextmanager")
        self._lifespan = lifespan
        self._middleware = check_middleware(middleware)
        if on_event is not None:
            check_plain("on_event", on_event)
        if on_send is not None:
            check_plain("on_send", on_send)
        self._on_event = on_event
        self._on_send = on_send
        self._url = None if redis_url is None else text_of_url("redis_url", redis_url)
        self._client = check_client(client)
        self._consuming = Shared(self._url, namespace, self._client)
        self._producing: dict[float, Shared] = {}  # by send_timeout, which holds for a whole link
        self._topics: dict[str, Topic[Any]] = {}
        self._subscriptions: list[Subscription[Any]] = []
        self._admin: Admin | None = None
        self._entered: AsyncExitStack | None = None
        self._up = False  # entered, the lifespan included
        self._state: Any = None
        self._given_state: tuple[Any] | None = None
        self._observer: Callable[[Event], object] | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._starting: anyio.CancelScope | None = None  # of `serve`, while it enters the App
        self._stopping = False
        self._scheduler: Scheduler | None = None

    @property
    def admin(self) -> Admin:
        """An Admin that uses the App's producing link. The App closes it."""
        if self._admin is None:
            from redisaq.admin import Admin  # noqa: PLC0415 -- a program that declares an App need not look after topics

            self._admin = Admin(cast("Any", self._producing_link(SEND_TIMEOUT)), namespace=self.namespace, client=self._client)
        return self._admin

    @property
    def url(self) -> str:
        """The URL that it connects to: the given one, otherwise the value of REDISAQ_URL, otherwise the default. It may hold a password."""
        return self._consuming.url

    @property
    def state(self) -> S:
        """The value that the lifespan yielded; None without a lifespan.

        Raises:
            RuntimeError: the App has not been entered.
        """
        if self._entered is None:
            reason = "the App's state is made when it is entered: use `async with app:`, or serve it"
            raise RuntimeError(reason)
        return cast("S", self._state)

    @property
    def topics(self) -> Mapping[str, Topic[Any]]:
        """The App's topics, by name."""
        return MappingProxyType(self._topics)

    @property
    def consumers(self) -> Sequence[Subscription[Any]]:
        """The App's consumers, in the order in which they were declared."""
        return tuple(self._subscriptions)

    @property
    def crons(self) -> Sequence[CronJob]:
        """The App's cron jobs, in the order in which they were declared."""
        return () if self._scheduler is None else tuple(self._scheduler.jobs.values())

    async def schedules(self) -> list[ScheduleInfo]:
        """Return the cron jobs that the server knows of programs of this name, with their last and next ticks: see `Admin.schedules`."""
        return await self.admin.schedules(self.name)

    # -- declaring ---------------------------------------------------------------------------------------------------------------

    @overload
    def topic(self, name: str, payload_type: None = ..., *, partitions: int = ..., **options: Unpack[ProducerOptions]) -> Topic[Any]: ...
    @overload
    def topic(self, name: str, payload_type: type[A], *, partitions: int = ..., **options: Unpack[ProducerOptions]) -> Topic[A]: ...
    @overload
    def topic(self, name: str, payload_type: object, *, partitions: int = ..., **options: Unpack[ProducerOptions]) -> Topic[Any]: ...
    def topic(self, name: str, payload_type: object = None, *, partitions: int = 1, **options: Unpack[ProducerOptions]) -> Topic[Any]:
        """Declare a topic and return it.

        Args:
            name: the topic's name.
            payload_type: the type of payloads. Handlers receive it, and type checkers check `enqueue` against it.
            partitions: the least partitions: the topic is created with this many, or grows to them. A topic never shrinks.
            options: options of `Producer`.

        Raises:
            SettingsError: an option is not valid, or the topic was already declared with different arguments.
        """
        name = check_name("topic", name)
        partitions = check_count("partitions", partitions, most=MOST_PARTITIONS)
        _refuse(options, _NO_OPTIONS_OF_A_TOPIC)
        if (standing := self._topics.get(name)) is not None:
            if not standing.agrees(payload_type, partitions, options):
                raise SettingsError(f"topic {name!r} was declared before, with another payload type, size or options")
            return standing
        given: dict[str, Any] = {**options, "on_send": both(options.get("on_send"), self._on_send)}
        link = self._producing_link(check_seconds("send_timeout", options.get("send_timeout", SEND_TIMEOUT)))
        producer = Producer(name, cast("Any", link), init_partitions=partitions, namespace=self.namespace, **given)
        topic: Topic[Any] = Topic(self, name, payload_type, partitions, options=options, producer=producer)
        self._topics[name] = topic
        return topic

    def cron(
        self,
        spec: str,
        *,
        tz: str = "UTC",
        name: str | None = None,
        catch_up: CatchUp = "latest",
        grace: float = 60.0,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
    ) -> Callable[[Callable[[Tick], R]], Callable[[Tick], R]]:
        """Return a decorator that calls a function at set times, once for all replicas of the program. The function itself does not change.

        Each tick is a message in the topic `<name of the App>-cron`: middleware, events, retries and dead letters apply to it. It is
        delivered at least once. A job never overlaps itself: the next tick waits until the function has returned. The server's clock says
        when a tick is due. Needs the extra `cron`.

        Args:
            spec: a cron expression of five fields, or of six, of which the first is the second.
            tz: an IANA time zone. Where clocks are set forward or back, a job at a fixed time runs once: right after the gap, or at the
                first of both times.
            name: the job's name, unique in the App; default: the function's name.
            catch_up: what to do about ticks that nobody was there for: "none", "latest" (run the newest), or "all" (the newest 1,000).
            grace: seconds after which a tick that has not begun is missed. With "none" it is dropped, with "latest" only if a later one is
                due.
            timeout: seconds that the function may run.
            retry: what happens to a tick on which the function fails; None: `RetryPolicy()`, so it is tried five times in all. With
                `blocking=True` the job's next tick waits until this one has succeeded or is a dead letter.

        Raises:
            SettingsError: a value is not valid, another job has the name, or the package cronsim is missing.
        """
        spec = check_str("the cron expression", spec)  # now: used as `@app.cron` it would get the function, and declare nothing

        def decorate(handler: Callable[[Tick], R]) -> Callable[[Tick], R]:
            self._add_job(make_job(handler, spec, tz, name=name, catch_up=catch_up, grace=grace, timeout=timeout, retry=retry))
            return handler

        return decorate

    def _add_job(self, job: CronJob) -> None:
        if self._tasks is not None:
            reason = "the App is serving: declare its cron jobs before"
            raise RuntimeError(reason)
        if self._scheduler is not None and job.name in self._scheduler.jobs:
            raise SettingsError(f"the App has a cron job {job.name!r} already: give one of them another name with name=")
        if self._scheduler is None:
            topic = self.topic(f"{self.name}{TOPIC_ENDS_WITH}", Tick, retention="acked")
            scheduler = Scheduler(topic.producer, self._producing_link(SEND_TIMEOUT))
            options: HandlingOptions = {"ordering": "key", "concurrency": MOST_JOBS, "on_event": scheduler.observe}
            options["retry"] = scheduler.retry
            consumer = self.new_consumer(topic, GROUP, MOST_JOBS, options, outermost=(scheduler.guard,))
            self.subscribe(Subscription(topic, GROUP, scheduler.call, consumer))
            self._scheduler = scheduler
        self._scheduler.jobs[job.name] = job

    def new_consumer(
        self, topic: Topic[T], group_name: str, batch_size: int, options: HandlingOptions, *, outermost: Sequence[Middleware] = ()
    ) -> Consumer[T]:
        """Return a Consumer of a topic that uses the App's link, middleware and `on_event`. `Topic.consumer` calls this."""
        given: dict[str, Any] = {
            **options,
            "batch_size": batch_size,
            "client": self._client,
            "middleware": (*outermost, *self._middleware, *check_middleware(options.get("middleware", ()))),
            "on_event": both(self._observer, both(options.get("on_event"), self._on_event)),
        }
        link = cast("Any", self._consuming)
        kind = topic.payload_type
        return Consumer(topic.name, link, payload_type=kind, group_name=group_name, namespace=self.namespace, **given)

    def subscribe(self, subscription: Subscription[Any]) -> None:
        """Add a consumer. `Topic.consumer` calls this.

        Raises:
            SettingsError: the App already has a consumer of this topic and group.
            RuntimeError: the App is serving.
        """
        if self._tasks is not None:
            reason = "the App is serving: declare its consumers before"
            raise RuntimeError(reason)
        for one in self._subscriptions:
            if (one.topic, one.group_name) == (subscription.topic, subscription.group_name):
                raise SettingsError(f"the App has a consumer of group {one.group_name!r} of topic {one.topic.name!r} already")
        self._subscriptions.append(subscription)

    def observe(self, on_event: Callable[[Event], object]) -> None:
        """Also call `on_event` with every event of every consumer, before the functions that the App and the consumers were given.

        It holds for consumers that are declared later, too. A run that has begun is not affected.

        Raises:
            SettingsError: it is not a plain function of one argument.
        """
        check_plain("on_event", on_event)
        self._observer = both(on_event, self._observer)
        for one in self._subscriptions:
            one.consumer.observe(on_event)

    @contextlib.contextmanager
    def replace(self, *, url: RedisURL | None = None, state: object = ...) -> Generator[Self]:
        """Use another server or another state within the block, for tests. If you give a state, the lifespan does not run.

        Raises:
            RuntimeError: the App has been entered.
            SettingsError: the URL is not valid.
        """
        if self._entered is not None:
            reason = "the App has been entered: replace what it uses before"
            raise RuntimeError(reason)
        before, given = self._url, self._given_state
        if url is not None:
            self._use(text_of_url("url", url))
        if state is not ...:
            self._given_state = (state,)
        try:
            yield self
        finally:
            self._use(before)
            self._given_state = given

    def _use(self, url: str | None) -> None:
        self._url = url
        for link in (self._consuming, *self._producing.values()):
            link.use(url)

    # -- living ------------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the producing link, create the topics, and run the lifespan up to its `yield`. Nothing is consumed.

        Raises:
            ConnectionFailed: the server cannot be reached, or refused the connection.
            RuntimeError: the App has been entered already.
        """
        if self._entered is not None:
            reason = "the App has been entered already"
            raise RuntimeError(reason)
        async with AsyncExitStack() as stack:
            self._entered = stack
            try:
                stack.push_async_callback(self._close_links)
                await self.admin.connect()
                for topic in tuple(self._topics.values()):
                    await topic.producer.connect()
                if self._given_state is not None:
                    (self._state,) = self._given_state
                elif self._lifespan is not None:
                    self._state = await stack.enter_async_context(self._lifespan(self))
            except BaseException:
                self._entered = None
                raise
            self._entered = stack.pop_all()
        self._up = True
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """End the lifespan and close the links, in the reverse order of entering."""
        stack, self._up = self._entered, False
        if stack is not None:
            try:
                await stack.__aexit__(kind, error, traceback)
            finally:
                self._entered = self._state = None

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Consume until stopped or cancelled. If you have not entered the App, enter it before and leave it afterwards.

        If you cancel `serve`, it cancels the handlers, acknowledges finished messages and hands the rest to other members at once.

        Args:
            task_status: `await nursery.start(app.serve)` returns when every consumer has its first assignment.

        Raises:
            SettingsError: the App has no consumer and no cron job.
            RuntimeError: the App is already serving.
            ConnectionFailed: the first connection failed. Later ones are retried forever.
            ConsumerError: a consumer failed, which ended the others; the reason is its cause. A handler's exception never ends a consumer.
        """
        if self._tasks is not None or self._starting is not None:
            reason = "the App is serving already"
            raise RuntimeError(reason)
        if not self._subscriptions:
            raise SettingsError(
                "the App has no consumer: declare one with @topic.consumer(group_name), or a cron job with @app.cron(…), or use "
                "`async with app:` to produce"
            )
        self._stopping = False
        # The scope is around all of it: a lifespan may hold a task group, which has to end before the scope does.
        with anyio.CancelScope() as entering:
            async with AsyncExitStack() as stack:
                self._starting = entering
                try:
                    if self._entered is None:
                        await stack.enter_async_context(self)
                finally:
                    self._starting = None
                if not entering.cancel_called:
                    token = _serving.set(self)
                    try:
                        await self._consume(task_status)
                    except BaseExceptionGroup as group:
                        raise_first(group)
                    finally:
                        _serving.reset(token)
        if entering.cancel_called:
            task_status.started()

    async def _consume(self, task_status: TaskStatus[None]) -> None:
        scheduler = self._scheduler
        try:
            async with anyio.create_task_group() as beside:
                if scheduler is not None:
                    beside.start_soon(scheduler.run, name="redisaq scheduler")
                async with anyio.create_task_group() as self._tasks:
                    async with anyio.create_task_group() as starting:
                        for one in self._subscriptions:
                            starting.start_soon(
                                partial(self._tasks.start, self._run, one), name=f"redisaq {one.topic.name} {one.group_name}"
                            )
                    task_status.started()
                beside.cancel_scope.cancel()
            if scheduler is not None:
                await scheduler.finish()
        finally:
            self._tasks = None

    async def _run(self, one: Subscription[Any], *, task_status: TaskStatus[None]) -> None:
        if self._stopping:
            task_status.started()
        else:
            await one.run(task_status=task_status)

    async def stop(self) -> None:
        """Drain: start no new message, and let running handlers finish within their `drain_timeout`. Then `serve` and `stop` return.

        If `serve` is still entering the App, this cancels the entering, the lifespan included. Called from a handler, it only requests the
        stop and returns at once. It also stops a `serve` that was started just before with `start_soon`. If the App is not serving, it does
        nothing, and a later `serve` is not affected.
        """
        await self._begin_to_stop()
        if _serving.get() is self and self._tasks is not None:
            for one in self._subscriptions:
                self._tasks.start_soon(one.consumer.stop, name="redisaq stop")
            return
        async with anyio.create_task_group() as tasks:
            for one in self._subscriptions:
                tasks.start_soon(one.consumer.stop)

    def healthy(self, *, within: float = 10.0) -> bool:
        """Return whether the App is entered and, if it serves, every consumer is healthy (see `Consumer.healthy`). For readiness probes."""
        return self._up and (self._tasks is None or all(one.consumer.healthy(within=within) for one in self._subscriptions))

    async def close(self) -> None:
        """Stop without waiting for handlers, and close the links. You may call it at any time, from any task, more than once.

        If cancelled, it has closed the links all the same.
        """
        try:
            await self._begin_to_stop()
            async with anyio.create_task_group() as tasks:
                for one in self._subscriptions:
                    tasks.start_soon(one.consumer.close)
        finally:
            await self._close_links()

    async def _begin_to_stop(self) -> None:
        """Let no more consumers start. A `serve` that was started just now with `start_soon` has begun before this returns."""
        for _ in range(STEPS_TO_BEGIN):
            if self._starting is not None or self._tasks is not None:
                break
            await checkpoint()
        self._stopping = True
        if self._starting is not None:
            self._starting.cancel()
        if self._scheduler is not None:
            self._scheduler.stop()

    async def _close_links(self) -> None:
        with anyio.CancelScope(shield=True):  # a link that has to wait for a silent server gives up within a second
            for topic in tuple(self._topics.values()):  # another task may declare one meanwhile
                await topic.producer.close()
            if self._admin is not None:
                await self._admin.close()
            for link in (self._consuming, *self._producing.values()):
                await link.close()

    def _producing_link(self, send_timeout: float) -> Shared:
        if send_timeout not in self._producing:
            self._producing[send_timeout] = Shared(self._url, self.namespace, self._client)
        return self._producing[send_timeout]


def _refuse(options: Mapping[str, object], owners: Mapping[str, str]) -> None:
    """Raise SettingsError if one of the options is given elsewhere."""
    for name, owner in owners.items():
        if name in options:
            raise SettingsError(f"{name} is no option here: it is {owner}")


def raise_first(group: BaseExceptionGroup[BaseException]) -> None:
    """Raise an interrupt that is in a group, or else the first of redisaq's own errors, or else the only exception; or else the group."""
    leaves = list(leaves_of(group))
    for kinds in ((KeyboardInterrupt, SystemExit), (RedisaqError,)):
        for leaf in leaves:
            if isinstance(leaf, kinds):
                raise leaf
    if len(leaves) == 1:
        raise leaves[0]
    raise group
