"""App: declaring, entering, serving, stopping; in virtual time, on the memory broker."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias, cast

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint

from redisaq import App, Consumer, Message, Producer, RetryPolicy, events
from redisaq.errors import ConsumerError, SettingsError
from redisaq.middleware import Next, Outgoing
from redisaq.testing import virtual_run

Run: TypeAlias = Callable[[Callable[[], Awaitable[None]]], None]


class Order(msgspec.Struct):
    number: int
    customer: str = ""


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine function in virtual time."""
    return lambda main: virtual_run(main, backend=request.param)


def an_app(request: pytest.FixtureRequest, **options: Any) -> App[Any]:
    return App(f"memory://{request.node.name}", **options)


def nothing(_: Any) -> None:
    """Handle anything."""


async def until(condition: Callable[[], bool], within: float = 60.0) -> None:
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.01)


def test_an_app_produces_consumes_and_stops(run: Run, request: pytest.FixtureRequest) -> None:
    app = an_app(request)
    orders = app.topic("orders", Order, partitions=2)
    billed, loaded = list[int](), list[list[int]]()

    @orders.consumer("billing", ordering="key")
    async def bill(message: Message[Order]) -> None:
        billed.append(message.payload.number)

    @orders.batch_consumer("warehouse", batch_size=50, batch_wait=0.2)
    async def load(messages: list[Message[Order]]) -> None:
        loaded.append([message.payload.number for message in messages])

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            assert [sorted(one.consumer.assignment) for one in app.consumers] == [[0, 1], [0, 1]]
            msg_id = await orders.enqueue(Order(0), key="a")
            assert isinstance(msg_id, str)
            await orders.batch_enqueue([Order(n) for n in range(1, 10)])
            await until(lambda: len(billed) == 10 and sum(map(len, loaded)) == 10)
            await app.stop()
        assert [one.consumer.statistics().state for one in app.consumers] == ["stopped", "stopped"]

    run(main)
    assert sorted(billed) == list(range(10))
    assert max(map(len, loaded)) > 1
    assert callable(bill)
    assert callable(load)


def test_handlers_stay_plain_functions(request: pytest.FixtureRequest) -> None:
    orders = an_app(request).topic("orders", Order)

    def bill(message: Message[Order]) -> int:
        return message.payload.number

    assert orders.consumer("billing")(bill) is bill
    assert bill(Message(topic="orders", payload=Order(3))) == 3


def test_the_lifespan_encloses_what_is_consumed(run: Run, request: pytest.FixtureRequest) -> None:
    said = list[str]()

    @asynccontextmanager
    async def resources(app: App[dict[str, int]]) -> AsyncGenerator[dict[str, int]]:
        said.append("up")
        await app.topics["orders"].enqueue(Order(7))  # the link is open by now
        yield {"rate": 2}
        said.append("down")

    app = App(f"memory://{request.node.name}", lifespan=resources)

    @app.topic("orders", Order).consumer("billing")
    async def bill(message: Message[Order]) -> None:
        said.append(f"{message.payload.number} at {app.state['rate']}")

    async def main() -> None:
        for _ in range(2):  # an App may be served again
            async with anyio.create_task_group() as tasks:
                await tasks.start(app.serve)
                await until(lambda: said[-1] == "7 at 2")
                await app.stop()

    run(main)
    assert said == ["up", "7 at 2", "down"] * 2
    with pytest.raises(RuntimeError, match="made when it is entered"):
        _ = app.state


def test_a_lifespan_may_hold_a_task_group(run: Run, request: pytest.FixtureRequest) -> None:
    """Its cancel scope is still there when `serve` has entered the App, and while `stop` cancels the entering."""
    said, pauses = list[str](), [1000.0, 0.0]

    @asynccontextmanager
    async def beside(app: App[None]) -> AsyncGenerator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            said.append("healthy" if app.healthy() else "entering")
            try:
                await anyio.sleep(pauses.pop())
                yield
            finally:
                said.append("down")
            tasks.cancel_scope.cancel()

    app = an_app(request, lifespan=beside)
    app.topic("orders").consumer("billing")(nothing)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            await app.stop()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.serve)
            await until(lambda: not pauses)
            await app.stop()
        assert anyio.current_time() < 900

    run(main)
    assert said == ["entering", "down"] * 2


def test_entering_consumes_nothing(run: Run, request: pytest.FixtureRequest) -> None:
    app = an_app(request)
    orders = app.topic("orders", Order, partitions=3)
    handled = list[int]()

    @orders.consumer("billing")
    async def bill(message: Message[Order]) -> None:
        handled.append(message.payload.number)

    async def main() -> None:
        async with app:
            await orders.enqueue(Order(1))
            await anyio.sleep(60)
            assert not handled
            assert len((await app.admin.topic("orders")).partitions) == 3
            with pytest.raises(RuntimeError, match="entered already"):
                await app.__aenter__()
            async with anyio.create_task_group() as tasks:  # in an App that is entered, serve leaves it entered
                await tasks.start(app.serve)
                await until(lambda: handled == [1])
                with pytest.raises(RuntimeError, match="serving already"):
                    await app.serve()
                with pytest.raises(RuntimeError, match="is serving: declare"):
                    orders.consumer("other")(bill)
                await app.stop()
            await orders.enqueue(Order(2))

    run(main)


def test_a_lifespan_that_fails_leaves_the_app_unentered(run: Run, request: pytest.FixtureRequest) -> None:
    fails = True

    @asynccontextmanager
    async def resources(_: App[int]) -> AsyncGenerator[int]:
        if fails:
            raise OSError("no database")
        yield 1

    app = App(f"memory://{request.node.name}", lifespan=resources)

    async def main() -> None:
        nonlocal fails
        with pytest.raises(OSError, match="no database"):
            async with app:
                pass
        fails = False
        async with app:
            assert app.state == 1

    run(main)


def test_middleware_wraps_handlers_apps_outside_consumers(run: Run, request: pytest.FixtureRequest) -> None:
    said = list[str]()

    def named(name: str) -> Callable[[tuple[Message[Any], ...], Next], Awaitable[None]]:
        async def middleware(messages: tuple[Message[Any], ...], call_next: Next) -> None:
            said.append(f"{name} {len(messages)}")
            await call_next()
            said.append(f"{name} end")

        return middleware

    app = an_app(request, middleware=[named("app")])
    orders = app.topic("orders", Order)

    @orders.consumer("billing", middleware=[named("consumer")])
    def bill(message: Message[Order]) -> None:  # plain: in a worker thread
        said.append(f"bill {message.payload.number}")

    @orders.batch_consumer("warehouse", batch_size=2, batch_wait=5.0)
    async def load(messages: list[Message[Order]]) -> None:
        said.append(f"load {len(messages)}")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            await orders.enqueue(Order(1))
            await until(lambda: "app end" in said)
            assert said == ["app 1", "consumer 1", "bill 1", "consumer end", "app end"]
            said.clear()
            await orders.enqueue(Order(2))
            await until(lambda: said.count("app end") == 2)
            await app.stop()

    run(main)
    assert [word for word in said if word in ("app 2", "load 2")] == ["app 2", "load 2"]


def test_what_middleware_does_decides_what_becomes_of_the_message(run: Run, request: pytest.FixtureRequest) -> None:
    told, handled = list[events.Event](), list[int]()

    async def guard(messages: tuple[Message[Order], ...], call_next: Next) -> None:
        number = messages[0].payload.number
        if number == 0:
            return  # done without a handler
        await call_next()
        if number == 1:
            await call_next()
        if number == 2:
            raise ValueError("after the handler")

    app = an_app(request, middleware=[guard], on_event=told.append)
    orders = app.topic("orders", Order)

    @orders.consumer("billing", retry=RetryPolicy(max_attempts=1))
    async def bill(message: Message[Order]) -> None:
        handled.append(message.payload.number)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            await orders.batch_enqueue([Order(n) for n in range(4)])
            await until(lambda: 3 in handled)
            await app.stop()
        async with app:
            dead = [(letter.error_type, letter.error) async for letter in app.admin.dead_letters("orders", "billing")]
        assert [kind for kind, _ in dead] == ["RuntimeError", "ValueError"]
        assert "call_next twice" in dead[0][1]

    run(main)
    assert handled == [1, 2, 3]
    assert len([event for event in told if isinstance(event, events.MessageSucceeded)]) == 2


def test_middleware_ends_with_the_timeout_of_the_handler(run: Run, request: pytest.FixtureRequest) -> None:
    ended = list[str]()

    async def slow(_: tuple[Message[Any], ...], call_next: Next) -> None:
        try:
            await call_next()
            await anyio.sleep_forever()
        finally:
            ended.append("middleware")

    app = an_app(request, middleware=[slow])
    orders = app.topic("orders")

    @orders.consumer("billing", timeout=2.0, retry=RetryPolicy(max_attempts=1))
    async def bill(message: Message[Any]) -> None:
        pass

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            await orders.enqueue(1)
            await until(lambda: bool(ended), within=3.0)
            await app.stop()
        async with app:
            assert [letter.error_type async for letter in app.admin.dead_letters("orders", "billing")] == ["TimeoutError"]

    run(main)


def test_on_send_sees_each_message_and_writes_headers(run: Run, request: pytest.FixtureRequest) -> None:
    seen, got = list[tuple[str, Any, str | None]](), list[dict[str, str]]()

    def note(outgoing: Outgoing) -> None:
        seen.append((outgoing.topic, outgoing.payload, outgoing.key))
        outgoing.headers["tenant"] = "t1"

    app = an_app(request, on_send=note)
    orders = app.topic("orders", partitions=1, on_send=lambda outgoing: outgoing.headers.update(own="yes"))

    @orders.consumer("billing")
    async def bill(message: Message[Any]) -> None:
        got.append(dict(message.headers))

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            await orders.enqueue({"n": 1}, headers={"trace": "x"}, partition_key="n")
            await orders.batch_enqueue([{"n": 2}])
            await orders.enqueue(Message(topic="orders", payload=3, key="k"))
            await until(lambda: len(got) == 3)
            await app.stop()

    run(main)
    assert seen == [("orders", {"n": 1}, "1"), ("orders", {"n": 2}, None), ("orders", 3, "k")]
    assert got == [{"trace": "x", "own": "yes", "tenant": "t1"}, {"own": "yes", "tenant": "t1"}, {"own": "yes", "tenant": "t1"}]


def test_what_on_send_raises_sends_nothing(run: Run, request: pytest.FixtureRequest) -> None:
    def refuse(outgoing: Outgoing) -> None:
        if outgoing.payload == 2:
            raise PermissionError("not this one")

    async def main() -> None:
        async with Producer("orders", f"memory://{request.node.name}", on_send=refuse) as producer:
            with pytest.raises(PermissionError):
                await producer.batch_enqueue([1, 2])
            assert producer.statistics().sent == 0

    run(main)


def test_a_consumer_that_ends_ends_the_app(run: Run, request: pytest.FixtureRequest) -> None:
    class Broken(Exception):
        pass

    app = an_app(request)
    orders = app.topic("orders")

    @orders.consumer("billing", on_event=lambda _: None)
    async def bill(message: Message[Any]) -> None:
        pass

    @orders.consumer("other")
    async def other(message: Message[Any]) -> None:
        pass

    async def main() -> None:
        async def fail(_: object, **__: Any) -> None:
            await anyio.sleep(5)
            raise ConsumerError("the consumer ended") from Broken()

        app.consumers[1].consumer.process = fail  # type: ignore[method-assign,assignment]  # it has no ready-made way to end
        with anyio.fail_after(30), pytest.raises(ConsumerError, match="the consumer ended"):
            await app.serve()
        assert app.consumers[0].consumer.statistics().state == "stopped"

    run(main)


def test_stopping_while_the_lifespan_begins_cancels_it(run: Run, request: pytest.FixtureRequest) -> None:
    came = list[str]()

    @asynccontextmanager
    async def slow(_: App[None]) -> AsyncGenerator[None]:
        came.append("begun")
        try:
            await anyio.sleep(1000)
            yield
        finally:
            came.append("ended")

    app = an_app(request, lifespan=slow)
    app.topic("orders").consumer("billing")(nothing)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.serve)
            await until(lambda: bool(came))
            await app.stop()
        assert anyio.current_time() < 900
        with pytest.raises(RuntimeError):
            _ = app.state

    run(main)
    assert came == ["begun", "ended"]


@pytest.mark.parametrize("ending", ["stop", "close"])
@pytest.mark.parametrize("entered", [True, False], ids=["entered", "not entered"])
def test_an_end_while_consumers_start_is_not_lost(run: Run, request: pytest.FixtureRequest, ending: str, *, entered: bool) -> None:
    """Also right after `start_soon`: trio decides by chance which of the two goes first, so that is tried some times."""
    app = an_app(request)
    for name in ("orders", "mails"):
        app.topic(name).consumer("workers")(nothing)

    async def main() -> None:
        for turns in (*[0] * 10, *range(1, 16)):
            async with AsyncExitStack() as stack:
                if entered:
                    await stack.enter_async_context(app)
                with anyio.fail_after(60):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(app.serve)
                        for _ in range(turns):
                            await checkpoint()
                        await getattr(app, ending)()

    run(main)


def test_an_app_that_was_stopped_before_serves_all_the_same(run: Run, request: pytest.FixtureRequest) -> None:
    app = an_app(request)
    app.topic("orders").consumer("workers")(nothing)

    async def main() -> None:
        await app.stop()
        await app.close()
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            assert app.healthy()
            assert app.consumers[0].consumer.statistics().state == "running"
            await app.stop()

    run(main)


def test_a_close_that_is_cancelled_has_closed_the_links(run: Run, request: pytest.FixtureRequest) -> None:
    app = an_app(request)
    orders = app.topic("orders")
    orders.consumer("workers")(nothing)

    async def main() -> None:
        await orders.enqueue(1)
        assert orders.producer.statistics().connected
        with anyio.CancelScope() as scope:
            scope.cancel()
            await app.close()
        assert not orders.producer.statistics().connected

    run(main)


def test_observers_see_every_event_whatever_other_subscribers_raise(run: Run, request: pytest.FixtureRequest) -> None:
    def fail(_: events.Event) -> None:
        raise ValueError

    seen = list[events.Event]()
    app = an_app(request, on_event=fail)
    app.topic("before").consumer("workers", on_event=fail)(nothing)
    app.observe(seen.append)
    app.topic("after").consumer("workers", on_event=fail)(nothing)
    for one in app.consumers:
        one.consumer.consumer_name = f"{one.topic.name}-1"
    assert [one.consumer.consumer_name for one in app.consumers] == ["before-1", "after-1"]
    with pytest.raises(SettingsError):
        app.consumers[0].consumer.consumer_name = "{}"
    with pytest.raises(SettingsError):
        app.observe(cast("Any", lambda: None))

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            infos = [await app.admin.group(name, "workers") for name in ("before", "after")]
            assert [[one.name for one in info.members] for info in infos] == [["before-1"], ["after-1"]]
            await app.stop()

    run(main)
    joined = [event.topic for event in seen if isinstance(event, events.MemberJoined)]
    assert sorted(joined) == ["after", "before"]


def test_an_app_says_where_it_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    app = App()
    assert app.url == "redis://localhost:6379/0"
    monkeypatch.setenv("REDISAQ_URL", "memory://there")
    assert app.url == "memory://there"
    with app.replace(url="memory://here"):
        assert app.url == "memory://here"


def test_a_handler_may_stop_the_app(run: Run, request: pytest.FixtureRequest) -> None:
    app = an_app(request)
    orders = app.topic("orders", int)
    handled = list[str]()

    @orders.consumer("first")
    async def first(message: Message[int]) -> None:
        await app.stop()
        handled.append("first")

    @orders.consumer("second")
    async def second(message: Message[int]) -> None:
        await app.stop()
        await anyio.sleep(1)
        handled.append("second")

    async def main() -> None:
        async with app:
            await orders.enqueue(1)
            with anyio.fail_after(10):
                await app.serve()

    run(main)
    assert sorted(handled) == ["first", "second"]


def test_cancelled_it_gives_back_what_is_in_hand(run: Run, request: pytest.FixtureRequest) -> None:
    app = an_app(request)
    orders = app.topic("orders", int)
    begun = list[int]()

    @orders.consumer("billing")
    async def bill(message: Message[int]) -> None:
        begun.append(message.attempt)
        await anyio.sleep_forever()

    async def main() -> None:
        for times in (1, 2):
            async with anyio.create_task_group() as tasks:
                await tasks.start(app.serve)
                if times == 1:
                    await orders.enqueue(1)
                while len(begun) < times:
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()

    run(main)
    assert begun == [1, 1]  # no attempt was used


def test_replace_is_for_tests(run: Run, request: pytest.FixtureRequest) -> None:
    ran = list[str]()

    @asynccontextmanager
    async def resources(_: App[str]) -> AsyncGenerator[str]:
        ran.append("lifespan")
        yield "real"

    app = App("redis://nowhere.invalid:1/0", lifespan=resources)
    orders = app.topic("orders", int)
    handled = list[tuple[int, str]]()

    @orders.consumer("billing")
    async def bill(message: Message[int]) -> None:
        handled.append((message.payload, app.state))

    async def main() -> None:
        with app.replace(url=f"memory://{request.node.name}", state="fake"):
            async with anyio.create_task_group() as tasks:
                await tasks.start(app.serve)
                await orders.enqueue(1)
                await until(lambda: bool(handled))
                with pytest.raises(RuntimeError, match="has been entered"), app.replace(state="other"):
                    pass
                await app.stop()

    run(main)
    assert handled == [(1, "fake")]
    assert not ran


def test_the_url_comes_from_the_environment(run: Run, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDISAQ_URL", f"memory://{request.node.name}")
    app = App()
    orders = app.topic("orders", int)

    async def main() -> None:
        async with app:
            await orders.enqueue(1)
        async with Producer("orders", f"memory://{request.node.name}") as producer:
            assert producer.statistics().partitions == 1

    run(main)


def consume(app: Any, handler: Any = nothing, **options: Any) -> object:
    """Declare a consumer with whatever is given, as code without types may."""
    return app.topic("orders", Order).consumer("x", **options)(handler)


async def an_async_handler(message: Message[Order]) -> None:
    """Take one message, as no middleware does."""


async def undecorated(_: App[Any]) -> AsyncGenerator[None]:
    """Be a lifespan without its decorator."""
    yield


REFUSED: list[tuple[Callable[[App[Any]], object], str]] = [
    (lambda app: app.topic("orders", int), "declared before"),
    (lambda app: app.topic("orders", Order, partitions=2), "was declared before, with"),
    (lambda app: app.topic("orders", Order, maxlen=3), "'orders' was declared before"),
    (lambda app: app.topic("or{ders"), "braces"),
    (lambda app: app.topic("more", partitions=0), "^partitions must be from 1"),
    (lambda app: app.topic("more", **cast("Any", {"init_partitions": 3})), "init_partitions is no option here: it is partitions"),
    (lambda app: app.topic("more", **cast("Any", {"client": "x"})), "client is no option here: it is the App"),
    (lambda app: app.topic("more", send_timeout=-1), "send_timeout must be more than 0"),
    (lambda app: app.topic("more", send_timeout=cast("Any", [1])), "send_timeout must be a number of seconds"),
    (lambda app: app.topic("orders", Order).consumer("billing")(nothing), "consumer of group 'billing'"),
    (lambda app: app.topic("orders", Order).batch_consumer("billing")(nothing), "of group 'billing' of topic"),
    (lambda app: consume(app, namespace="y"), "namespace is no option here"),
    (lambda app: consume(app, init_partitions=3), "the topic's: partitions"),
    (lambda app: consume(app, payload_type=int), "payload_type is no option here: it is the topic's"),
    (lambda app: consume(app, client="x"), "client is no option here"),
    (lambda app: app.topic("orders", Order).consumer(cast("Any", nothing)), "group_name must be a str, not function"),
    (lambda app: app.topic("orders", Order).batch_consumer(cast("Any", nothing)), "must be a str, not function"),
    (lambda app: app.topic("orders", Order).batch_consumer("x", batch_wait=-1.0), "batch_wait must be at least 0"),
    (lambda app: app.cron(cast("Any", nothing)), "the cron expression must be a str, not function"),
    (lambda app: consume(app, concurency=3), "no setting 'concurency'"),
    (lambda app: consume(app, Order), "the handler must be"),
    (lambda app: consume(app, middleware=[print]), "must be async functions"),
    (lambda app: consume(app, middleware=[an_async_handler]), "called with .messages, call_next., and .* cannot be: too many"),
    (lambda _: App("http://x"), "begins with none of"),
    (lambda _: App(cast("Any", 3)), "must be a str"),
    (lambda _: App(lifespan=cast("Any", undecorated)), "lifespan must make an async context manager: decorate it"),
    (lambda _: App(name=""), "name must have 1 to 256"),
    (lambda _: App(middleware=cast("Any", "abc")), "must be a list"),
]


@pytest.mark.parametrize(
    ("declare", "words"),
    REFUSED,
    ids=lambda value: value if isinstance(value, str) else "-",
)
def test_what_cannot_work_is_refused_where_it_is_declared(
    declare: Callable[[App[Any]], object], words: str, request: pytest.FixtureRequest
) -> None:
    app = App("memory://refused")

    @app.topic("orders", Order).consumer("billing")
    async def bill(message: Message[Order]) -> None:
        pass

    with pytest.raises(SettingsError, match=words):
        declare(app)
    assert len(app.consumers) == 1


def test_a_topic_named_twice_is_one_topic(request: pytest.FixtureRequest) -> None:
    app = an_app(request)
    assert app.topic("orders", Order, partitions=3) is app.topic("orders", Order, partitions=3)
    assert list(app.topics) == ["orders"]


def test_topics_may_be_declared_while_it_is_entered_and_left(run: Run, request: pytest.FixtureRequest) -> None:
    app = an_app(request)
    app.topic("orders")

    async def declare() -> None:
        for number in range(1000):
            app.topic(f"more-{number}")
            await checkpoint()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(declare)
            async with app:
                await checkpoint()
            assert 1 < len(app.topics) < 1000
            tasks.cancel_scope.cancel()

    run(main)


def test_an_app_without_consumers_says_so(run: Run, request: pytest.FixtureRequest) -> None:
    async def main() -> None:
        with pytest.raises(SettingsError, match="no consumer: declare one"):
            await an_app(request).serve()

    run(main)


def test_it_is_healthy_while_its_consumers_are_members(run: Run, request: pytest.FixtureRequest) -> None:
    app = an_app(request)
    orders = app.topic("orders", int)

    @orders.consumer("billing")
    async def bill(message: Message[int]) -> None:
        pass

    waiting = Consumer("nothing", f"memory://{request.node.name}")

    async def main() -> None:
        consumer = app.consumers[0].consumer
        assert not app.healthy()
        assert not consumer.healthy()
        async with app:
            assert app.healthy()  # it only produces
            assert not consumer.healthy()
            async with anyio.create_task_group() as tasks:
                await tasks.start(app.serve)
                assert app.healthy()
                assert consumer.healthy()
                await tasks.start(waiting.process, bill)
                assert waiting.healthy()  # it waits for its topic
                await anyio.sleep(60)
                assert app.healthy(within=0.1)
                await waiting.stop()
                await app.stop()
            assert not waiting.healthy()
            assert not consumer.healthy()
        assert not app.healthy()
        with pytest.raises(SettingsError, match="within must be more than 0"):
            consumer.healthy(within=0)

    run(main)
