"""What a child counts for /metrics: redisaq's own metrics of the App, and whatever the program has in prometheus_client's registry.

Without the package prometheus-client (extra `metrics`) nothing is counted.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable
from typing import Any, Protocol

import anyio

from redisaq.admin import Admin
from redisaq.app import App
from redisaq.callables import is_failure
from redisaq.integrations.counts import Counts
from redisaq.watching import Sampler
from redisaq.worker.outliving import mapped
from redisaq.worker.reports import Family, Job, Sample

logger = logging.getLogger("redisaq.worker")

INSTALLED = importlib.util.find_spec("prometheus_client") is not None


class Collected(Protocol):
    """One metric, as prometheus_client's registries collect it."""

    name: str
    type: str
    documentation: str
    samples: list[Any]


class Measuring:
    """The metrics of one child."""

    def __init__(self, app: App[Any], job: Job) -> None:
        """Begin to count.

        Args:
            app: what is counted.
            job: whether the groups' backlogs are measured.
        """
        from prometheus_client import REGISTRY, CollectorRegistry  # noqa: PLC0415 -- it may not be installed

        from redisaq.integrations.prometheus import Metrics  # noqa: PLC0415 -- likewise

        self._app = app
        self._url = job.url or app.url
        self._every = job.backlog if job.child == 1 else None
        self._complained = False
        self._sampler: Sampler | None = None
        own = CollectorRegistry()
        self._registries = (own, REGISTRY)
        self._metrics = Metrics(own, counts=None if job.counts is None else Counts(mapped(job.counts)))
        self._metrics.watch(app)

    def families(self) -> list[Family]:
        """Return all metrics. If the program has metrics of our names, ours count."""
        found: dict[str, Family] = {}
        try:
            for registry in self._registries:
                collected: Iterable[Collected] = registry.collect()
                for one in collected:
                    # Nobody has checked what a collector yields, and the parent cannot read a report with values of other types.
                    samples = [
                        Sample(each.name, {str(name): str(label) for name, label in each.labels.items()}, float(each.value))
                        for each in one.samples
                        if not each.name.endswith("_created")
                    ]
                    found.setdefault(one.name, Family(one.name, one.type, str(one.documentation), samples))
        except BaseException as error:  # of a collector of the program's: it must not end the child
            if not is_failure(error):
                raise
            if not self._complained:
                self._complained = True
                logger.exception("a collector in prometheus_client's registry failed: /metrics lacks what comes after it")
        return list(found.values())

    def attention(self) -> list[str]:
        """Return what needs attention, as sentences, if backlogs are measured."""
        if self._sampler is None:
            return []
        found = self._sampler.latest.attention
        return [" ".join(filter(None, (one.subject, one.sentence, one.code, one.more))) for one in found]

    async def run(self) -> None:
        """Measure backlogs, and look for what needs attention, if that is asked for; until cancelled. It has a connection of its own.

        After a failure it logs the error and begins again. The App continues meanwhile.
        """
        if self._every is None:
            return
        admin = Admin(self._url, namespace=self._app.namespace)
        groups = [(one.topic.name, one.group_name) for one in self._app.consumers]
        try:
            while True:
                try:
                    async with anyio.create_task_group() as tasks:
                        self._sampler = Sampler(admin, always=True)
                        tasks.start_soon(self._sampler.run)
                        await self._metrics.measure_backlogs(admin, groups, every=self._every)
                except Exception:  # who only looks must not end the child
                    logger.exception("measuring backlogs failed: it begins again in %g s", self._every)
                await anyio.sleep(self._every)
        finally:
            with anyio.CancelScope(shield=True):
                await admin.close()


def measuring(app: App[Any], job: Job) -> Measuring | None:
    """Return what counts for this child; None if it counts nothing."""
    return Measuring(app, job) if job.measure and INSTALLED else None


def as_text(families: Iterable[Family]) -> tuple[bytes, str]:
    """Return metrics as Prometheus reads them, and the content type of that."""
    from prometheus_client.core import Metric  # noqa: PLC0415 -- it may not be installed
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest  # noqa: PLC0415 -- likewise
    from prometheus_client.registry import Collector  # noqa: PLC0415 -- likewise

    class Given(Collector):
        def collect(self) -> Iterable[Metric]:
            for family in families:
                metric = Metric(family.name, family.text, family.kind)
                for one in family.samples:
                    metric.add_sample(one.name, one.labels, one.value)
                yield metric

    return generate_latest(Given()), CONTENT_TYPE_LATEST
