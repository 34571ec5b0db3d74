"""What a child counts: the program's own metrics beside ours, what its groups have left to do, and what needs attention."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, cast

import anyio
import msgspec
import pytest
from prometheus_client import REGISTRY, Counter
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from redisaq import App, DeadLetter, Message
from redisaq.testing import virtual_run
from redisaq.watching import Sampler
from redisaq.worker import measuring as measuring_module, reports
from redisaq.worker.measuring import Measuring, measuring
from redisaq.worker.reports import HEAD, Family, Job, Pulse, Sample, framed, send


def a_job(*, child: int = 1, measure: bool = True, backlog: float | None = None) -> Job:
    return Job("shop:app", child, 2, "asyncio", None, None, measure=measure, backlog=backlog, pulse=1.0)


class Broken(Collector):
    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        try:
            raise anyio.get_cancelled_exc_class()  # it awaits nothing, so nobody has cancelled it
        except anyio.NoEventLoopError:
            raise ZeroDivisionError from None


async def families_of(measured: Measuring) -> list[Family]:
    """Return what it counts, within an event loop."""
    return measured.families()


class Loose(Collector):
    """Yields values that Prometheus takes, and that are no floats."""

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        values: list[tuple[str, Any]] = [("shop_open", True), ("shop_price", Decimal("1.5")), ("shop_lots", 1 << 70)]
        for name, value in values:
            metric = Metric(name, "What the program says.", "gauge")
            metric.add_sample(name, cast("dict[str, str]", {"shop": 7}), value)
            yield metric


def test_what_a_collector_yields_arrives_as_floats_and_text() -> None:
    """Else the child could not write its report, or its parent could not read it: it would count as stalled."""
    loose = Loose()
    REGISTRY.register(loose)
    try:
        families = Measuring(App("memory://"), a_job()).families()
    finally:
        REGISTRY.unregister(loose)
    report = msgspec.msgpack.decode(framed(Pulse("serving", ready=True, consumers=[], metrics=families))[HEAD:], type=Pulse)
    values = {sample.name: sample.value for family in report.metrics for sample in family.samples}
    assert [values[name] for name in ("shop_open", "shop_price", "shop_lots")] == [1.0, 1.5, float(1 << 70)]
    assert [sample.labels for family in report.metrics if family.name == "shop_open" for sample in family.samples] == [{"shop": "7"}]


@pytest.mark.anyio
@pytest.mark.parametrize("label", ["\udcff", "x" * 1000], ids=["no text", "too long"])
async def test_a_report_whose_metrics_cannot_be_sent_goes_without_them(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST_BYTES", 1000)
    family = Family("shop_files", "gauge", "What the program says.", [Sample("shop_files", {"file": label}, 1.0)])
    pipe, receiving = anyio.create_memory_object_stream[bytes](1)
    sending: Any = pipe  # of the same shape as a stream of bytes
    with pipe, receiving:
        assert not await send(sending, Pulse("serving", ready=True, consumers=[], metrics=[family]))
        report = msgspec.msgpack.decode(receiving.receive_nowait()[HEAD:], type=Pulse)
    assert report == Pulse("serving", ready=True, consumers=[], metrics=[])


@pytest.fixture
def own() -> Iterator[Counter]:
    """A metric of the program's own."""
    counter = Counter("shop_invoices", "What the program counts.", ["kind"])
    yield counter
    REGISTRY.unregister(counter)


def test_metrics_of_the_program_are_reported_too(own: Counter, caplog: pytest.LogCaptureFixture) -> None:
    own.labels("big").inc(3)
    found = Measuring(App("memory://"), a_job())
    families = {family.name: family for family in found.families()}
    assert [(one.name, one.labels, one.value) for one in families["shop_invoices"].samples] == [
        ("shop_invoices_total", {"kind": "big"}, 3.0)
    ]
    assert "redisaq_partitions_owned" in families
    broken = Broken()
    REGISTRY.register(broken)
    try:
        with caplog.at_level(logging.ERROR):
            assert "redisaq_partitions_owned" in {family.name for family in found.families()}
            assert "redisaq_partitions_owned" in {family.name for family in anyio.run(families_of, found)}
    finally:
        REGISTRY.unregister(broken)
    assert caplog.text.count("a collector in") == 1
    assert measuring(App("memory://"), a_job(measure=False)) is None


def test_backlogs_and_what_needs_attention() -> None:
    app = App("memory://attention")
    orders = app.topic("orders", int)

    @orders.consumer("billing")
    async def bill(message: Message[int]) -> None:
        if message.payload:
            raise DeadLetter("no such customer")
        await anyio.sleep_forever()

    found, other = Measuring(app, a_job(backlog=15.0)), Measuring(app, a_job(child=2, backlog=15.0))

    def backlog() -> list[float]:
        return [one.value for family in found.families() if family.name == "redisaq_group_backlog_messages" for one in family.samples]

    async def main() -> None:
        async with app, anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            await orders.batch_enqueue([1, 0, 0])
            tasks.start_soon(found.run)
            await other.run()  # it has nothing to measure
            with anyio.fail_after(100):
                while not (found.attention() and backlog() == [2.0]):
                    await anyio.sleep(1)
            tasks.cancel_scope.cancel()

    virtual_run(main)
    assert "dead letter" in found.attention()[0]
    assert other.attention() == []


def test_a_failure_of_what_only_looks_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    began: list[Failing] = []

    class Failing(Sampler):
        async def run(self, **options: Any) -> None:
            began.append(self)
            if len(began) == 1:
                raise ZeroDivisionError
            await super().run(**options)

    monkeypatch.setattr(measuring_module, "Sampler", Failing)

    async def main() -> None:
        with anyio.move_on_after(100):
            await Measuring(App("memory://failing"), a_job(backlog=15.0)).run()

    virtual_run(main)
    assert len(began) == 2
    assert caplog.text.count("measuring backlogs failed") == 1
