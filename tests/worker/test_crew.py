"""What a parent concludes from its children's reports: live, ready, and the sums of their metrics."""

from __future__ import annotations

import socket

import msgspec
import pytest

from redisaq.worker.answers import Answers
from redisaq.worker.crew import Crew
from redisaq.worker.reports import ConsumerView, Family, Job, Pulse, Sample, framed, read_job
from redisaq.worker.totals import Totals


def view(*, connected: bool = True) -> ConsumerView:
    return ConsumerView("orders", "billing", "running", "m", [], 0, 0, 0, 0, 0, connected, 0.1)


def serving(*, ready: bool = True, connected: bool = True) -> Pulse:
    return Pulse("serving", ready, [view(connected=connected)], [])


def test_a_child_is_live_while_its_reports_come_or_while_it_is_started() -> None:
    crew = Crew(1, 0.0, stalled_after=10.0)
    (child,) = crew.children
    child.start(7, 100.0)
    assert crew.complaints(100_000.0) == []  # importing may take long
    assert crew.hindrances(512.0) == ["child 1 (pid 7) has been starting for 412 s"]
    child.report(serving(), 200.0)
    assert crew.complaints(210.0) == crew.hindrances(210.0) == []
    assert crew.complaints(210.1) == crew.hindrances(210.1) == ["child 1 (pid 7): its event loop has not turned for 10 s"]
    child.end("was ended by SIGKILL", 211.0, again=True)
    assert crew.complaints(10_000.0) == []
    assert crew.hindrances(10_000.0) == ["child 1 is waiting"]
    child.start(8, 212.0)
    assert not child.came_up
    assert crew.complaints(10_000.0) == []


def test_why_a_child_is_not_ready_is_reported() -> None:
    crew = Crew(2, 0.0, stalled_after=10.0)
    for child in crew.children:
        child.start(child.number, 0.0)
        child.report(serving(), 0.0)
    assert crew.hindrances(1.0) == []
    crew.children[0].report(serving(ready=False, connected=False), 1.0)
    assert crew.hindrances(1.0) == ["child 1: no connection for billing of orders"]
    crew.children[0].report(serving(ready=False), 1.0)
    assert crew.hindrances(1.0) == ["child 1: a consumer has not joined its group"]
    crew.draining = True
    assert crew.hindrances(1.0)[0] == "draining"


def counter(value: float, **labels: str) -> Family:
    return Family("done", "counter", "", [Sample("done_total", labels, value)])


def gauge(value: float) -> Family:
    return Family("now", "gauge", "", [Sample("now", {}, value)])


def test_counters_are_summed_and_stay_when_a_child_dies_while_gauges_are_kept_apart() -> None:
    totals = Totals()
    totals.update(1, [counter(3, topic="a"), gauge(5)])
    totals.update(2, [counter(4, topic="a"), counter(1, topic="b"), gauge(6)])
    done = [Sample("done_total", {"topic": "a"}, 7), Sample("done_total", {"topic": "b"}, 1)]
    now = [Sample("now", {"child": "1"}, 5), Sample("now", {"child": "2"}, 6)]
    assert [family.samples for family in totals.families()] == [done, now]
    totals.bury(1)
    totals.bury(1)  # it had reported nothing since
    assert [family.samples for family in totals.families()] == [done, now[1:]]
    totals.update(1, [counter(10, topic="a"), gauge(1)])
    assert totals.families()[0].samples[0].value == 17


def test_a_job_travels_over_a_pipe() -> None:
    job = Job("shop:app", 1, 2, "trio", "redis://:secret@here", "json", measure=True, backlog=None, pulse=1.0)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(framed(job))
        assert read_job(theirs) == job
        ours.close()
        with pytest.raises(ConnectionError):
            read_job(theirs)


@pytest.mark.anyio
async def test_what_is_answered() -> None:
    crew = Crew(1, 0.0, stalled_after=float("inf"))
    (child,) = crew.children
    answers = Answers(crew, "shop:app", "asyncio")
    assert (answers.answer("/live").status, answers.answer("/ready").status, answers.answer("/no").status) == (200, 503, 404)
    child.start(7, 0.0)
    child.report(serving(), 0.0)
    crew.totals.update(1, [counter(3, topic='a"\\\n'), gauge(float("inf"))])
    assert answers.answer("/ready").body == b"ready\n"
    metrics = answers.answer("/metrics")
    assert metrics.kind.startswith("text/plain; version=")
    lines = metrics.body.decode().splitlines()
    assert {'done_total{topic="a\\"\\\\\\n"} 3.0', 'now{child="1"} +Inf', "redisaq_worker_children 1.0"} <= set(lines)
    assert "# TYPE done_total counter" in lines
    status = msgspec.json.decode(answers.answer("/status").body)
    assert (status["app"], status["live"], status["ready"]) == ("shop:app", True, True)
    assert status["children"][0]["consumers"][0]["topic"] == "orders"
