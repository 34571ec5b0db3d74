"""Traces: the spans of producers and handlers, as the SDK's in-memory exporter gets them; in virtual time, on the memory broker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler
from opentelemetry.trace import SpanKind, StatusCode

from redisaq import App, Consumer, Discard, Message, PartialFailure, Producer, RetryPolicy
from redisaq.errors import PayloadTooLarge
from redisaq.integrations.opentelemetry import KEPT, Tracing
from redisaq.middleware import Outgoing
from redisaq.testing import virtual_run

Run: TypeAlias = Callable[[Callable[[], Awaitable[None]]], None]
ATTEMPT = "messaging.redisaq.message.attempt"


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine function in virtual time."""
    return lambda main: virtual_run(main, backend=request.param)


class Traced:
    """The hooks, and what they have traced."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(tracer_provider=self.provider)

    def app(self, request: pytest.FixtureRequest) -> App[None]:
        tracing = self.tracing
        return App(f"memory://{request.node.name}", middleware=[tracing.middleware], on_send=tracing.on_send, on_event=tracing.on_event)

    @property
    def spans(self) -> list[ReadableSpan]:
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def tree(self) -> list[Any]:
        """Return the names of all spans, each with those of its children."""

        def below(parent: int | None) -> list[Any]:
            found: list[Any] = []
            for span in self.spans:
                if (span.parent.span_id if span.parent else None) == parent:
                    children = below(span.context.span_id)
                    found.append((span.name, children) if children else span.name)
            return found

        return below(None)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_one_trace_over_a_producer_two_services_and_a_retry(run: Run, request: pytest.FixtureRequest) -> None:
    traced = Traced()
    app = traced.app(request)
    orders, mails = app.topic("orders"), app.topic("mails")
    msg_ids: list[str] = []

    @orders.consumer("billing", retry=RetryPolicy(max_attempts=3, backoff=1.0, jitter=False))
    async def bill(message: Message[Any]) -> None:
        if message.attempt == 1:
            raise ValueError("no answer of the bank")
        await mails.enqueue({"to": message.payload})

    @mails.consumer("post")
    def post(_message: Message[Any]) -> None:  # in a thread, which the context follows
        trace.get_current_span().add_event("posted")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            with traced.provider.get_tracer("shop").start_as_current_span("order"):
                msg_ids.append(await orders.enqueue("user-7", key="user-7"))
            with anyio.fail_after(60):
                while not traced.named("process mails"):
                    await anyio.sleep(0.1)
            await app.stop()

    run(main)
    assert traced.tree() == [
        ("order", [("send orders", [("process orders", ["retry orders"]), ("process orders", [("send mails", ["process mails"])])])])
    ]
    assert len({span.context.trace_id for span in traced.spans}) == 1
    send, first, second, post_span = (*traced.named("send orders"), *traced.named("process orders"), *traced.named("process mails"))
    assert [span.kind for span in (send, first)] == [SpanKind.PRODUCER, SpanKind.CONSUMER]
    assert attributes(send) == {
        "messaging.system": "redisaq",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "messaging.message.id": msg_ids[0],
        "messaging.redisaq.message.key": "user-7",
    }
    assert attributes(first) == {
        "messaging.system": "redisaq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "0",
        "messaging.consumer.group.name": "billing",
        "messaging.message.id": msg_ids[0],
        "messaging.redisaq.message.key": "user-7",
        "messaging.redisaq.message.attempt": 1,
        "error.type": "ValueError",
    }
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert [event.name for event in first.events] == ["exception"]
    assert "no answer of the bank" in str(dict(first.events[0].attributes or {})["exception.stacktrace"])
    assert attributes(second)[ATTEMPT] == 2
    (retry,) = traced.named("retry orders")
    assert (retry.kind, attributes(retry)["messaging.operation.type"]) == (SpanKind.CLIENT, "settle")
    assert attributes(retry)["messaging.redisaq.retry.delay"] == 1.0
    assert [event.name for event in post_span.events] == ["posted"]


def test_a_batch_is_linked_to_where_its_messages_come_from(run: Run, request: pytest.FixtureRequest) -> None:
    traced = Traced()
    app = traced.app(request)
    orders = app.topic("orders")
    done = anyio.Event()

    @orders.batch_consumer("warehouse", batch_size=10, batch_wait=1.0, retry=RetryPolicy(max_attempts=1))
    async def load(messages: list[Message[Any]]) -> None:
        done.set()
        raise PartialFailure({messages[1]: ValueError("broken")})

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            await orders.batch_enqueue([1, 2, 3])
            with anyio.fail_after(60):
                await done.wait()
            await app.stop()

    run(main)
    sends = traced.named("send orders")
    (batch,) = traced.named("process orders")
    assert [link.context.span_id for link in batch.links] == [span.context.span_id for span in sends]
    assert batch.parent is None
    assert attributes(batch)["messaging.batch.message_count"] == 3
    assert attributes(batch)["messaging.redisaq.batch.failed_count"] == 1
    assert "messaging.message.id" not in attributes(batch)
    assert len(traced.named("dead_letter orders")) == 1
    assert attributes(traced.named("dead_letter orders")[0])["messaging.message.id"] == attributes(sends[1])["messaging.message.id"]


def test_messages_that_are_pulled(run: Run, request: pytest.FixtureRequest) -> None:
    traced = Traced()
    tracing = traced.tracing
    url = f"memory://{request.node.name}"

    async def main() -> None:
        async with Producer("orders", url, on_send=tracing.on_send) as producer:
            await producer.enqueue(1)
        consumer = Consumer("orders", url, group_name="billing", on_event=tracing.on_event)
        async with consumer, consumer.messages() as messages:
            async for message in messages:
                async with message:
                    with tracing.processing(message):
                        trace.get_current_span().add_event("pulled")
                break

    run(main)
    assert traced.tree() == [("send orders", ["process orders"])]
    assert attributes(traced.named("process orders")[0])["messaging.consumer.group.name"] == "billing"


def headers_sent(run: Run, request: pytest.FixtureRequest, tracing: Tracing) -> dict[str, str]:
    seen: list[dict[str, str]] = []

    def on_send(outgoing: Outgoing) -> None:
        tracing.on_send(outgoing)
        seen.append(outgoing.headers)

    async def main() -> None:
        async with Producer("orders", f"memory://{request.node.name}", on_send=on_send) as producer:
            await producer.enqueue(1)

    run(main)
    return seen[0]


def test_nothing_is_added_where_no_tracing_is_set_up(run: Run, request: pytest.FixtureRequest) -> None:
    assert headers_sent(run, request, Tracing(tracer_provider=trace.NoOpTracerProvider())) == {}


def test_what_is_not_sampled_here_is_not_sampled_there(run: Run, request: pytest.FixtureRequest) -> None:
    traced = Traced(ParentBased(ALWAYS_OFF))
    headers = headers_sent(run, request, traced.tracing)
    assert not int(headers["traceparent"].rpartition("-")[2], 16) & trace.TraceFlags.SAMPLED
    there = Traced()  # it would sample a trace of its own
    with there.tracing.processing(Message("orders", 1, headers=headers)):
        pass
    assert (traced.spans, there.spans) == ([], [])


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": "no context"},
        {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01"},
        {"traceparent": "\x00\udcff" * 1000, "tracestate": "=,=" * 1000, "baggage": "%zz=;;;" * 5000},
        {},
    ],
)
def test_headers_that_are_no_context_harm_nothing(headers: dict[str, str]) -> None:
    traced = Traced()
    messages = [Message("orders", n, headers=headers, msg_id=str(n)) for n in range(2)]
    with traced.tracing.processing(messages[0]):
        pass
    with traced.tracing.processing(*messages):
        pass
    one, batch = traced.spans
    assert (one.parent, batch.parent, len(batch.links)) == (None, None, 0)


@pytest.mark.anyio
async def test_how_a_handler_ends() -> None:
    traced = Traced()
    message = Message("orders", 1)
    with pytest.raises(Discard), traced.tracing.processing(message):
        raise Discard
    with pytest.raises(ExceptionGroup), traced.tracing.processing(message):
        raise ExceptionGroup("a task group's", [KeyError("one")])
    with anyio.CancelScope() as scope, traced.tracing.processing(message):
        scope.cancel()
        await anyio.sleep(1)
    discarded, grouped, cancelled = traced.spans
    assert (attributes(discarded)["messaging.redisaq.outcome"], discarded.status.status_code) == ("discarded", StatusCode.UNSET)
    assert (attributes(grouped)["error.type"], attributes(cancelled)["error.type"]) == ("KeyError", "cancelled")
    assert cancelled.status.status_code is StatusCode.ERROR


def test_a_send_that_fails(run: Run, request: pytest.FixtureRequest) -> None:
    traced = Traced()

    async def main() -> None:
        async with Producer("orders", f"memory://{request.node.name}", on_send=traced.tracing.on_send, max_payload=500) as producer:
            with pytest.raises(PayloadTooLarge):
                await producer.batch_enqueue([1, "x" * 1000])

    run(main)
    assert [attributes(span)["error.type"] for span in traced.named("send orders")] == ["redisaq.errors.PayloadTooLarge"] * 2


def test_failures_that_nobody_settles_here_are_forgotten_some_time() -> None:
    traced = Traced()
    for number in range(0, KEPT + 500, 500):
        batch = [Message("orders", 0, entry=b"%d-0" % n) for n in range(number, number + 500)]
        with pytest.raises(ValueError, match="all"), traced.tracing.processing(*batch):
            raise ValueError("all")
    assert len(traced.tracing._failed) == KEPT
