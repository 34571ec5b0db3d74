"""The timeline for people who examine a failed seed, as text and as a picture, made from a report alone."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from redisaq import Message
from redisaq.testing import FaultPlan, Report, Simulation
from tests.simulation.judged import simulate
from tests.simulation.stories import SVG, Picture

NEAR = 0.03  # seconds: a coordinate is rounded to a tenth of a pixel
PIXEL = 0.0135  # seconds: no bar is narrower
PLAN = FaultPlan(lost_request=0.02, lost_reply=0.02, late_request=0.02, disconnect=0.02, delay=(0.0, 0.05))


async def three(sim: Simulation) -> None:
    """Three members, one of which pauses, one crashes, one leaves."""
    producer = sim.producer("orders", init_partitions=4)

    async def handle(message: Message[Any]) -> None:
        await anyio.sleep(0.3)
        if message.payload["n"] % 9 == 0 and message.attempt == 1:
            raise ValueError("the first time")

    for name in ("ann", "ben", "cleo"):
        sim.member(name, "orders", handle, group_name="billing", heartbeat_interval=1.0, heartbeat_ttl=4.0)
    await producer.batch_enqueue([{"n": n} for n in range(20)], partition_key="n")
    await anyio.sleep(3)
    await sim.pause("ben", 8.0)
    await anyio.sleep(5)
    await sim.crash("ann")
    await producer.batch_enqueue([{"n": n} for n in range(20)], partition_key="n")
    await sim.until_quiet(timeout=300)
    await sim.leave("cleo")


@pytest.fixture(scope="module")
def report() -> Report:
    """A real one."""
    report = simulate(three, seed=3, faults=PLAN)
    assert report.ok
    return report


def broken(report: Report, *texts: str) -> Report:
    """Return the report with violations."""
    return msgspec.structs.replace(report, violations=list(texts))


# -- the picture ---------------------------------------------------------------------------------------------------------------------


def test_each_lease_is_a_bar_from_its_beginning_to_its_end(report: Report) -> None:
    picture = Picture(report.timeline_svg())
    bars = picture.titled("rq-lease")
    assert len(bars) == len(report.leases) > 5
    for lease, (title, bar) in zip(sorted(report.leases, key=lambda one: one.member), bars.items(), strict=True):
        assert title.startswith(f"{lease.member} owns {lease.topic}/{lease.partition} from {lease.since:.3f}")
        since, until = picture.extent(bar)
        assert since == pytest.approx(lease.since, abs=NEAR)
        if lease.until is not None:
            assert until == pytest.approx(max(lease.until, lease.since + PIXEL), abs=NEAR)


def test_faults_marks_and_absences_are_there(report: Report) -> None:
    picture = Picture(report.timeline_svg())
    words = {
        "the request was lost": "request lost",
        "the reply was lost": "reply lost",
        "late": "request late",
        "the connection broke": "connection broken",
    }
    played = [words[outcome] for line in report.trace if (outcome := line.rpartition(": ")[2]) in words]
    titles = [one.findtext(f"{SVG}title") or "" for one in picture.of("rq-fault")]
    told = [title.split(": ")[2].rpartition(" (")[0] for title in titles if title]
    assert len(set(played)) == 4
    assert sorted(told) == sorted(played)
    assert list(picture.titled("rq-mark")) == [
        f"{one.time:.3f} s: {one.member} {one.what}"
        for name in ("ann", "ben", "cleo")
        for one in report.marks
        if one.member == name and not one.what.startswith("goes on")
    ]
    (paused,), (gone,) = picture.titled("rq-paused"), picture.titled("rq-crashed")
    assert paused.startswith("ben stands still for 8.000 s")
    assert gone.startswith("ann is gone for")


def test_the_same_report_gives_the_same_bytes(report: Report) -> None:
    again = simulate(three, seed=3, faults=PLAN)
    assert again.timeline_svg() == report.timeline_svg()
    assert again.timeline() == report.timeline()


# -- the text ------------------------------------------------------------------------------------------------------------------------


def test_the_text_tells_exactly_what_is_near_a_violation(report: Report) -> None:
    run = report.deliveries[len(report.deliveries) // 2]
    place = f"{run.topic}/{run.partition}"
    text = broken(report, f"at {run.started:.3f}: {run.member} began {place} twice").timeline(within=1.0)
    body = text.split("what happened")[1]
    near = [one for one in report.deliveries if abs(one.started - run.started) <= 1.0 and one.partition == run.partition]
    for one in near:
        assert f"runs {place} {one.entry_id}, attempt {one.attempt}" in body
    assert body.count(" runs orders/") == len(near), "of other partitions and times, none"
    assert body.index(f"{run.entry_id}, attempt {run.attempt}") < body.index("VIOLATION"), "behind what it is about"
    assert "in detail from" in body
