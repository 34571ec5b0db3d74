"""The parent's answers over HTTP: /live, /ready, /metrics and /status, from what it knows of its children."""

from __future__ import annotations

import os

import anyio
import msgspec

from redisaq.identity import VERSION
from redisaq.worker.crew import Crew, CrewStatus
from redisaq.worker.http import Answer
from redisaq.worker.measuring import INSTALLED, as_text
from redisaq.worker.reports import Family, Sample


class Answers:
    """Answers by path."""

    def __init__(self, crew: Crew, app: str, backend: str) -> None:
        """Create them.

        Args:
            crew: the children.
            app: where the App is.
            backend: the event loop.
        """
        self._crew = crew
        self._app = app
        self._backend = backend
        self._paths = {"/live": self.live, "/ready": self.ready, "/metrics": self.metrics, "/status": self.status}

    def answer(self, path: str) -> Answer:
        """Return the answer for a path."""
        make = self._paths.get(path)
        return make() if make is not None else Answer(404, f"There are {', '.join(self._paths)}.\n".encode())

    def live(self) -> Answer:
        """Say whether every child's event loop turns."""
        return _verdict("live", self._crew.complaints(anyio.current_time()))

    def ready(self) -> Answer:
        """Say whether every child is connected and has joined."""
        return _verdict("ready", self._crew.hindrances(anyio.current_time()))

    def metrics(self) -> Answer:
        """Return the metrics of all children, and the parent's own."""
        if not INSTALLED:
            return Answer(501, b'Metrics need the package prometheus-client: pip install "redisaq[metrics]"\n')
        body, kind = as_text([*self._crew.totals.families(), *self._own()])
        return Answer(200, body, kind)

    def status(self) -> Answer:
        """Return the state of each child as JSON."""
        now = anyio.current_time()
        status = CrewStatus(
            app=self._app,
            backend=self._backend,
            pid=os.getpid(),
            version=VERSION,
            live=not self._crew.complaints(now),
            ready=not self._crew.hindrances(now),
            draining=self._crew.draining,
            deaths=self._crew.deaths,
            attention=[sentence for child in self._crew.children for sentence in child.attention],
            children=self._crew.statuses(now),
        )
        return Answer(200, msgspec.json.encode(status) + b"\n", "application/json")

    def _own(self) -> list[Family]:
        children = self._crew.statuses(anyio.current_time())
        return [
            _family("redisaq_worker_children", "gauge", "Child processes that there should be.", len(children)),
            _family("redisaq_worker_children_live", "gauge", "Children whose event loop turns.", sum(one.live for one in children)),
            _family("redisaq_worker_children_ready", "gauge", "Children that can handle messages.", sum(one.ready for one in children)),
            _family("redisaq_worker_deaths", "counter", "Children that ended although nobody asked them to.", self._crew.deaths),
        ]


def _family(name: str, kind: str, text: str, value: float) -> Family:
    return Family(name, kind, text, [Sample(f"{name}_total" if kind == "counter" else name, {}, value)])


def _verdict(word: str, problems: list[str]) -> Answer:
    if problems:
        return Answer(503, f"not {word}\n{chr(10).join(problems)}\n".encode())
    return Answer(200, f"{word}\n".encode())
