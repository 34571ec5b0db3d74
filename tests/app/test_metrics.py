"""Prometheus metrics against what was really done: 10,000 messages with failures, on the memory broker, in virtual time."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any

import anyio
import anyio.to_thread
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from redisaq import App, Consumer, DeadLetter, Discard, Message, PartialFailure, Producer, RetryAfter, RetryPolicy
from redisaq.integrations.prometheus import ERROR_TYPES, OTHER, Metrics
from redisaq.testing import virtual_run
from redisaq.worker.answers import Answers
from redisaq.worker.crew import Crew
from tests.unit.source import ROOT

CONSUMED = "messaging_client_consumed_messages_total"
SENT = "messaging_client_sent_messages_total"
TOPIC, GROUP = "messaging_destination_name", "messaging_consumer_group_name"


def values(registry: CollectorRegistry, name: str, **labels: str) -> list[float]:
    """Return the values of a metric that have these labels."""
    samples = [sample for family in registry.collect() for sample in family.samples if sample.name == name]
    return [sample.value for sample in samples if labels.items() <= sample.labels.items()]


def total(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return sum(values(registry, name, **labels))


def a_shop(done: Counter[str]) -> App[Any]:
    """Return an App whose handlers fail now and then, and count what they do."""
    seen = set[str]()
    app = App("memory://metrics")
    orders = app.topic("orders", int, partitions=4)
    quick = RetryPolicy(max_attempts=3, backoff=0.5, give_up_on=(LookupError,))

    @orders.consumer("billing", ordering="none", concurrency=50, retry=quick)
    async def bill(message: Message[int]) -> None:
        done["runs"] += 1
        await anyio.sleep(0.2)
        number, first = message.payload % 100, message.msg_id not in seen
        seen.add(message.msg_id)
        errors: dict[int, Exception] = {3: ValueError("first only"), 13: ValueError("always"), 23: KeyError("dead at once")}
        errors |= {33: RetryAfter(5), 43: Discard(), 53: DeadLetter("so it is")}
        if (error := errors.get(number)) is not None and (number not in (3, 33) or first):
            done[type(error).__name__] += 1
            raise error
        done["succeeded"] += 1

    @orders.batch_consumer("warehouse", batch_size=100, retry=quick)
    async def load(messages: list[Message[int]]) -> None:
        failed: dict[Message[int], Exception] = {one: OSError() for one in messages if one.payload % 100 == 3 and one.attempt == 1}
        done["loaded"] += len(messages) - len(failed)
        done["not loaded"] += len(failed)
        if failed:
            raise PartialFailure(failed)

    return app


def test_what_is_counted_is_what_was_done(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "redisaq")  # tracebacks of a thousand failures take longer than the rest
    registry, done = CollectorRegistry(), Counter[str]()
    app = a_shop(done)
    orders = app.topics["orders"]
    metrics = Metrics(registry)
    metrics.watch(app)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            for first in range(0, 10_000, 500):
                await orders.batch_enqueue(range(first, first + 500))
            with anyio.fail_after(10):
                while total(registry, "redisaq_handlers_running", **{GROUP: "billing"}) != 50:  # one may be between two messages
                    await anyio.sleep(0.01)
            assert total(registry, "redisaq_partitions_owned", **{GROUP: "billing"}) == 4
            assert total(registry, "redisaq_consumers_connected") == total(registry, "redisaq_consumers_healthy") == 2
            with anyio.move_on_after(1):
                await metrics.measure_backlogs(app.admin, [("orders", "billing")])
            assert 5_000 < total(registry, "redisaq_group_backlog_messages") <= 10_000
            with anyio.fail_after(3600):
                while any(info.unread + info.pending + info.retry for info in [await app.admin.group("orders", name) for name in GROUPS]):
                    await anyio.sleep(1)
            with anyio.move_on_after(1):
                await metrics.measure_backlogs(app.admin, [("orders", "billing"), ("orders", "nobody's")])
            await app.stop()

    virtual_run(main)

    billing, warehouse = {GROUP: "billing", TOPIC: "orders"}, {GROUP: "warehouse", TOPIC: "orders"}
    assert total(registry, SENT, **{TOPIC: "orders"}) == 10_000
    assert total(registry, CONSUMED, error_type="", **billing) == done["succeeded"] == 9_600
    expected = {"ValueError": 100 + 300, "KeyError": 100, "RetryAfter": 100, "Discard": 100, "DeadLetter": 100}
    for name, count in expected.items():
        assert done[name] == count
        ours = "" if name in ("ValueError", "KeyError") else "redisaq.outcomes."
        assert total(registry, CONSUMED, error_type=f"{ours}{name}", **billing) == count
    assert total(registry, CONSUMED, **billing) == done["runs"]
    took = total(registry, "messaging_process_duration_seconds_sum", **billing)
    assert total(registry, "messaging_process_duration_seconds_count", **billing) == done["runs"]
    assert took == pytest.approx(0.2 * done["runs"], rel=0.01)
    assert total(registry, "redisaq_message_wait_seconds_count", **billing) >= 10_000  # runs that RetryAfter ended are first runs, too
    assert total(registry, "redisaq_message_wait_seconds_bucket", le="300.0", **billing) >= 10_000
    assert total(registry, "redisaq_message_wait_seconds_bucket", le="5.0", **billing) < 10_000
    assert total(registry, "redisaq_messages_retried_total", **billing) == 100 + 200 + 100
    assert total(registry, "redisaq_messages_dead_total", **billing) == total(registry, "redisaq_group_dead_letters", **billing) == 300
    assert total(registry, CONSUMED, error_type="", **warehouse) == done["loaded"] == 10_000
    assert total(registry, CONSUMED, error_type="OSError", **warehouse) == done["not loaded"] == 100
    assert total(registry, "redisaq_messages_retried_total", **warehouse) == 100
    assert total(registry, "redisaq_partitions_acquired_total", **billing) == 4
    assert total(registry, "redisaq_partitions_revoked_total", **billing) == 4
    assert total(registry, "redisaq_group_backlog_messages", **billing) == 0
    assert values(registry, "redisaq_group_backlog_messages", **{GROUP: "nobody's"}) == []
    assert total(registry, "redisaq_handlers_running") == total(registry, "redisaq_partitions_owned") == 0


GROUPS = ("billing", "warehouse")


def test_error_types_are_bounded() -> None:
    metrics = Metrics(CollectorRegistry())
    kinds = [type(f"Error{number}", (Exception,), {}) for number in range(ERROR_TYPES + 10)]
    names = [metrics.error_type(kind) for kind in kinds]
    assert names[-10:] == [OTHER] * 10
    assert len(set(names)) == ERROR_TYPES + 1
    assert len(metrics._error_types) == ERROR_TYPES  # classes that are made as the program runs are not kept alive
    assert [metrics.error_type(kind) for kind in kinds] == names


def test_producers_and_consumers_are_watched_without_an_app() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(registry)

    async def main() -> None:
        async with Producer("orders", "memory://alone") as producer, Consumer("orders", "memory://alone", group_name="g") as consumer:
            metrics.watch(producer, consumer)
            await producer.batch_enqueue(range(7))
            await consumer.process(lambda _: None, until_empty=True)

    virtual_run(main)
    assert total(registry, SENT) == total(registry, CONSUMED, error_type="", **{GROUP: "g"}) == 7


# -- what others write about our metrics ------------------------------------------------------------------------------------------------


def names_of(text: str) -> set[str]:
    """Return the names of metrics in an expression of Prometheus: what may be followed by labels or a range, and is neither."""
    text = re.sub(r'"[^"]*"', "", text)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", text)
    words = re.findall(r"(?<![\w$.])([a-z_][a-z0-9_]*)(?!\s*(?:[\w(=!]|\{\{))", re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", text))
    return set(words) - {"and", "or", "unless", "bool"}


def exported() -> set[str]:
    """Return the names of all samples that a worker's /metrics may have."""
    registry = CollectorRegistry()
    app = App("memory://")
    Metrics(registry).watch(app)

    async def ask() -> bytes:
        return Answers(Crew(0, 0.0, 1.0), "", "").metrics().body

    text = (generate_latest(registry) + generate_latest(REGISTRY) + virtual_run(ask)).decode()
    kinds: Iterable[tuple[str, str]] = re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
    return {name + end for name, kind in kinds for end in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))}


def expressions(thing: Any) -> Iterable[str]:
    """Return every expression in a Grafana dashboard."""
    if isinstance(thing, dict):
        yield from (value for name, value in thing.items() if name in ("expr", "query") and isinstance(value, str))
        for value in thing.values():
            yield from expressions(value)
    elif isinstance(thing, list):
        for value in thing:
            yield from expressions(value)


def test_the_dashboard_shows_only_metrics_that_exist() -> None:
    dashboard = json.loads((ROOT / "docs" / "operate" / "deploy" / "grafana.json").read_text())
    found = [text.removeprefix("label_values(") for text in expressions(dashboard) if text != "prometheus"]
    used = set[str]().union(*map(names_of, found)) - {TOPIC, GROUP}
    assert len(used) > 15
    assert used <= exported()


def test_names_are_found_in_expressions() -> None:
    text = 'histogram_quantile(0.9, sum by (le, topic) (rate(a_bucket{x="b_c", y=~"d"}[$__rate_interval]))) > 5 and on (z) e_total'
    assert names_of(text) == {"a_bucket", "e_total"}
    assert names_of("sum(f) / max by (x) (g{})") == {"f", "g"}


@pytest.mark.anyio
async def test_another_thread_may_scrape() -> None:
    """`prometheus_client.start_http_server` does, in a thread that knows of no event loop."""
    app, registry, scraped = App("memory://scraped"), CollectorRegistry(), list[str]()
    orders, running = app.topic("orders", int), anyio.Event()
    Metrics(registry).watch(app)

    @orders.consumer("billing")
    async def bill(_: Message[int]) -> None:
        running.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        await tasks.start(app.serve)
        await orders.enqueue(1)
        await running.wait()
        thread = threading.Thread(target=lambda: scraped.append(generate_latest(registry).decode()))
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        tasks.cancel_scope.cancel()
    assert re.search("^redisaq_handlers_running.* 1.0$", scraped[0], re.MULTILINE)
    assert re.search("^redisaq_consumers_healthy.* 1.0$", scraped[0], re.MULTILINE)
