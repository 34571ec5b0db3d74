"""OpenTelemetry traces: spans for sending, processing and settling messages (extra `otel`).

A `Tracing` is three hooks: `on_send`, `middleware` and `on_event`. The context of a trace travels in the message's headers, as the global
propagator writes it (W3C `traceparent` by default). Names and attributes follow the semantic conventions for messaging; what they have no
name for begins with `messaging.redisaq.`.

- *send* covers the call that sends the message, and is the parent of all that happens to the message later.
- *process* covers one run of the handler. Its parent is the message's send span; of a batch, it is the root of a trace of its own, with a
  link to the send span of each message.
- *retry* and *dead_letter*, of the type "settle", say that the server has recorded what becomes of a failed message. Their parent is the
  process span that failed. Acknowledgements have no span: one request acknowledges many messages.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Generator, Sequence
from contextvars import ContextVar
from typing import Any

from opentelemetry import context as contexts, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from redisaq.core.retry import describe, sole
from redisaq.describing import name_of, text_of
from redisaq.events import Event, MessageDead, MessageEvent, MessageRetried, MessageStarted
from redisaq.message import Message
from redisaq.middleware import Next, Outgoing
from redisaq.outcomes import Discard, PartialFailure, RetryAfter

__all__ = ["Tracing"]

SCHEMA = "https://opentelemetry.io/schemas/1.37.0"
"""The version of the semantic conventions that names are taken from."""

KEPT = 10_000
"""Process spans that failed and whose settlement has not been reported yet: the newest ones are remembered."""

EXCEPTIONS = 10
"""Errors of a batch that are recorded one by one."""

_group: ContextVar[str] = ContextVar("redisaq_tracing_group", default="")
"""The consumer group whose handler runs in this task, as `on_event` last heard."""


class Tracing:
    """Traces an App, a Producer or a Consumer.

    `tracing = Tracing()`, then `App(middleware=[tracing.middleware], on_send=tracing.on_send, on_event=tracing.on_event)`. Put `middleware`
    first, so that the span covers the others. Without `on_event`, spans do not name the consumer group, and failures have no settle spans.
    Until the program sets a tracer provider up, hooks do nothing and messages carry no context.
    """

    def __init__(self, *, tracer_provider: TracerProvider | None = None, propagator: TextMapPropagator | None = None) -> None:
        """Create the hooks.

        Args:
            tracer_provider: makes the spans. None: the global one, whenever it is set.
            propagator: writes and reads the headers. None: the global one at the time of the call.
        """
        version = importlib.metadata.version("redisaq")
        self._tracer: Tracer = trace.get_tracer("redisaq", version, tracer_provider, SCHEMA)
        self._propagator = propagator
        self._failed: dict[tuple[str, str, int, str], Context] = {}  # by group, topic, partition and entry

    # -- sending -----------------------------------------------------------------------------------------------------------------

    def on_send(self, outgoing: Outgoing) -> None:
        """Start the message's send span, and write its context into the headers. The span ends with the call.

        A trace that is not sampled is written, too: its flag lets the services that follow leave it out as well.
        """
        attributes = _attributes("send", "send", outgoing.topic)
        if outgoing.key is not None:
            attributes["messaging.redisaq.message.key"] = outgoing.key
        span = self._tracer.start_span(f"send {outgoing.topic}", kind=SpanKind.PRODUCER, attributes=attributes)
        propagator = self._propagator or propagate.get_global_textmap()
        context = trace.set_span_in_context(span)
        propagator.inject(outgoing.headers, context)  # pyright: ignore[reportArgumentType] -- its setter is declared for less than it takes

        def end(msg_id: str, error: BaseException | None) -> None:
            if msg_id:
                span.set_attribute("messaging.message.id", msg_id)
            if error is not None:
                _record(span, error)
            span.end()

        outgoing.when_sent.append(end)

    # -- processing --------------------------------------------------------------------------------------------------------------

    async def middleware(self, messages: tuple[Message[Any], ...], call_next: Next) -> None:
        """Run the handler inside a process span."""
        with self.processing(*messages):
            await call_next()

    @contextlib.contextmanager
    def processing(self, *messages: Message[Any]) -> Generator[Span]:
        """Return a context manager that is a process span of one message or of a batch, for code that pulls messages.

        Write `async with message: with tracing.processing(message): ...`. Handlers need it not: `middleware` uses it.
        """
        parent, links = self._origins(messages)
        span = self._tracer.start_span(
            f"process {messages[0].topic}", parent, SpanKind.CONSUMER, _processing_attributes(messages), links=links
        )
        context = trace.set_span_in_context(span, parent)
        token = contexts.attach(context)
        try:
            yield span
        except BaseException as error:
            _record(span, error)
            self._remember(_failures(messages, error), span)
            raise
        finally:
            contexts.detach(token)
            span.end()

    def _origins(self, messages: Sequence[Message[Any]]) -> tuple[Context, list[Link]]:
        """Return the context that the work on these messages begins in, and links to where they come from."""
        propagator = self._propagator or propagate.get_global_textmap()
        found = [propagator.extract(message.headers, Context()) for message in messages]
        if len(messages) == 1:
            return found[0], []
        links: list[Link] = []
        for message, context in zip(messages, found, strict=True):
            origin = trace.get_current_span(context).get_span_context()
            if origin.is_valid:
                links.append(Link(origin, {"messaging.message.id": message.msg_id, "messaging.redisaq.message.attempt": message.attempt}))
        return Context(), links

    # -- settling ----------------------------------------------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        """Learn which group a handler starts for, and add a settle span for a failed message that will be retried, or is dead."""
        if isinstance(event, MessageStarted):
            _group.set(event.group)
        elif isinstance(event, MessageRetried):
            self._settled(event, "retry", {"messaging.redisaq.retry.delay": event.again_in})
        elif isinstance(event, MessageDead):
            self._settled(event, "dead_letter", {"messaging.redisaq.dead_letter.reason": event.reason})

    def _settled(self, event: MessageEvent, name: str, more: dict[str, Any]) -> None:
        context = self._failed.pop((event.group, event.topic, event.partition, event.entry_id), None)
        if context is None:  # it was not traced; or it died because processes crashed over it, so that no handler of this one failed
            return
        attributes = _attributes(name, "settle", event.topic) | more | {"messaging.consumer.group.name": event.group}
        attributes |= {
            "messaging.message.id": event.msg_id,
            "messaging.destination.partition.id": str(event.partition),
            "messaging.redisaq.message.attempt": event.attempt,
        }
        self._tracer.start_span(f"{name} {event.topic}", context, SpanKind.CLIENT, attributes).end()

    def _remember(self, messages: Sequence[Message[Any]], span: Span) -> None:
        origin = span.get_span_context()
        if not origin.is_valid:
            return
        context = trace.set_span_in_context(NonRecordingSpan(origin), Context())
        for message in messages:
            self._failed[_group.get(), message.topic, message.partition, message.entry_id] = context
        while len(self._failed) > KEPT:
            del self._failed[next(iter(self._failed))]


def _attributes(name: str, kind: str, topic: str) -> dict[str, Any]:
    return {
        "messaging.system": "redisaq",
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": topic,
    }


def _processing_attributes(messages: Sequence[Message[Any]]) -> dict[str, Any]:
    first = messages[0]
    attributes = _attributes("process", "process", first.topic) | {"messaging.destination.partition.id": str(first.partition)}
    if group := _group.get():
        attributes["messaging.consumer.group.name"] = group
    if len(messages) > 1:
        attributes["messaging.batch.message_count"] = len(messages)
        return attributes
    attributes |= {"messaging.message.id": first.msg_id, "messaging.redisaq.message.attempt": first.attempt}
    if first.key is not None:
        attributes["messaging.redisaq.message.key"] = first.key
    return attributes


def _failures(messages: Sequence[Message[Any]], error: BaseException) -> Sequence[Message[Any]]:
    """Return the messages that an error of the handler is about. A cancellation may be the end of their time limit, which is a failure."""
    cause = _cause(error)
    return [*cause.of(messages)] if isinstance(cause, PartialFailure) else messages


def _cause(error: BaseException) -> BaseException:
    return sole(error) if isinstance(error, Exception) else error


def _record(span: Span, error: BaseException) -> None:
    """Write down on a span that it ended with an error."""
    cause = _cause(error)
    if not isinstance(cause, Exception):
        span.set_attribute("error.type", "cancelled")
        span.set_status(Status(StatusCode.ERROR, "cancelled: its time limit or its lease has ended, or the program stops"))
        return
    if isinstance(cause, Discard | RetryAfter):  # the handler decided so: it is no error
        span.set_attribute("messaging.redisaq.outcome", "discarded" if isinstance(cause, Discard) else "retry_after")
        return
    errors = list(cause.errors.values()) if isinstance(cause, PartialFailure) else [cause]
    if isinstance(cause, PartialFailure):
        span.set_attribute("messaging.redisaq.batch.failed_count", len(errors))
    for one in errors[:EXCEPTIONS]:
        kind, text, traceback = describe(one)
        span.add_event("exception", {"exception.type": kind, "exception.message": text, "exception.stacktrace": traceback})
    span.set_attribute("error.type", name_of(type(cause)))
    span.set_status(Status(StatusCode.ERROR, text_of(cause)))
