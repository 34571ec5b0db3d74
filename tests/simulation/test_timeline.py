"""What people look at when a seed fails: the timeline as text and as a picture, made from a report alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import anyio
import msgspec
import pytest

from redisaq import Message
from redisaq.errors import SettingsError
from redisaq.testing import Delivery, FaultPlan, Lease, Mark, Report, Settle, Simulation, simulate

SVG = "{http://www.w3.org/2000/svg}"
PLAN = FaultPlan(lost_request=0.02, lost_reply=0.02, late_request=0.02, disconnect=0.02, delay=(0.0, 0.05))

EMPTY = Report(
    seed=0,
    backend="trio",
    violations=[],
    trace_hash="0" * 64,
    trace=[],
    produced=[],
    dropped=[],
    deliveries=[],
    settles=[],
    leases=[],
    marks=[],
)


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


def drawn(report: Report, **options: Any) -> ET.Element:
    """Return the picture, parsed."""
    return ET.fromstring(report.timeline_svg(**options))  # noqa: S314 -- our own


def groups(root: ET.Element, class_: str) -> list[ET.Element]:
    """Return the elements of a class."""
    return [one for one in root.iter() if class_ in (one.get("class") or "").split()]


def titles(root: ET.Element, class_: str) -> list[str]:
    """Return what pointing at the elements of a class shows, outside of the legend."""
    legend = {id(one) for legend in groups(root, "rq-legend") for one in legend.iter()}
    return [one.findtext(f"{SVG}title") or "" for one in groups(root, class_) if id(one) not in legend]


# -- the picture ---------------------------------------------------------------------------------------------------------------------


def test_each_lease_is_a_bar_from_its_beginning_to_its_end(report: Report) -> None:
    root = drawn(report)
    axis = {float(one.text[:-2]): float(one.get("x", "")) for one in groups(root, "rq-axis")[0].iter(f"{SVG}text") if one.text}
    (first, left), (last, right) = min(axis.items()), max(axis.items())
    per_second = (right - left) / (last - first)
    legend = {id(one) for one in groups(root, "rq-legend")[0].iter()}
    bars = [one for one in groups(root, "rq-lease") if id(one) not in legend]
    assert len(bars) == len(report.leases) > 5
    end = max(one.until or 0.0 for one in report.leases)
    for lease in report.leases:
        (bar,) = [one for one in bars if f"token {lease.token}" in (one.findtext(f"{SVG}title") or "") and _is(lease, one)]
        rect = bar.find(f"{SVG}rect")
        assert rect is not None
        assert float(rect.get("x", "")) == pytest.approx(left + (lease.since - first) * per_second, abs=1.5)
        width = max(1.0, ((end if lease.until is None else lease.until) - lease.since) * per_second)
        assert float(rect.get("width", "")) == pytest.approx(width, abs=1.5)
        capped = any("rq-cap" in (one.get("class") or "") for one in bar)
        assert capped == (lease.end in ("lost", "crashed", ""))


def _is(lease: Lease, bar: ET.Element) -> bool:
    return (bar.findtext(f"{SVG}title") or "").startswith(f"{lease.member} owns {lease.topic}/{lease.partition} from {lease.since:.3f}")


def test_faults_marks_and_absences_are_there(report: Report) -> None:
    root = drawn(report)
    words = {
        "the request was lost": "request lost",
        "the reply was lost": "reply lost",
        "late": "request late",
        "the connection broke": "connection broken",
    }
    befell = [words[outcome] for line in report.trace if (outcome := line.rpartition(": ")[2]) in words]
    told = [title.split(": ")[2].rpartition(" (")[0] for title in titles(root, "rq-fault")]
    assert len(set(befell)) == 4
    assert sorted(told) == sorted(befell)
    assert titles(root, "rq-mark") == [
        f"{one.time:.3f} s: {one.member} {one.what}"
        for name in ("ann", "ben", "cleo")
        for one in report.marks
        if one.member == name and not one.what.startswith("goes on")
    ]
    (paused,), (gone,) = titles(root, "rq-paused"), titles(root, "rq-crashed")
    assert paused.startswith("ben stands still for 8.000 s")
    assert gone.startswith("ann is gone for")
    assert len(groups(root, "rq-member")) >= 3


def test_violations_are_numbered_lines_at_their_moments(report: Report) -> None:
    root = drawn(broken(report, "at 2.500: something <&> happened", "at 4.000: worse", "nobody knows when"))
    assert titles(root, "rq-broken") == ["2.500 s: something <&> happened", "4.000 s: worse"]
    assert [one.text for one in groups(root, "rq-number")] == ["1", "2"]
    assert [one.text for one in groups(root, "rq-told")] == [
        "1.  2.500 s: something <&> happened",
        "2.  4.000 s: worse",
        "3.  nobody knows when",
    ]


def test_a_window_shows_what_is_in_it(report: Report) -> None:
    root = drawn(report, around=5.0, within=1.0)
    shown = [lease for lease in report.leases if lease.since <= 6.0 and (lease.until is None or lease.until >= 4.0)]
    assert len(titles(root, "rq-lease")) == len(shown) < len(report.leases)


@pytest.mark.parametrize("name", ['<script>alert("1")</script>', "a&b", "two\nlines", "\x00\x1b[31m", "«é»" * 60])
def test_names_cannot_break_either(name: str) -> None:
    entry = "1-1"
    report = msgspec.structs.replace(
        EMPTY,
        violations=[f"at 0.500: {name}"],
        deliveries=[Delivery(name, name, name, 0, "m", entry, 1, 7, 0.1, 0.2, "returned")],
        settles=[Settle(0.3, name, name, name, 0, 7, (entry,), "done", accepted=True)],
        leases=[Lease(name, name, name, 0, 7, 0.0, None, "")],
        marks=[Mark(0.0, name, "joins")],
    )
    root = drawn(report)
    assert [one.tag for one in root.iter() if "script" in one.tag] == []
    assert len(titles(root, "rq-lease")) == 1
    lines = report.timeline().splitlines()
    assert all(line.isprintable() for line in lines)
    assert sum("VIOLATION" in line for line in lines) == 1


def test_nothing_and_one_member() -> None:
    assert groups(drawn(EMPTY), "rq-member") == []
    assert "nothing" in EMPTY.timeline()
    alone = msgspec.structs.replace(EMPTY, marks=[Mark(0.0, "a", "joins")])
    assert len(groups(drawn(alone), "rq-member")) == 1
    assert re.search(r"0\.000 +a +joins", alone.timeline())


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


def test_the_text_is_bounded_and_says_what_is_left_out(report: Report) -> None:
    whole, short = report.timeline(limit=None), report.timeline(limit=10)
    events = [line for line in short.splitlines() if re.match(r" +\d+\.\d{3}  ", line)]
    assert len(events) == 10
    assert "left out: " in short
    assert "see more: timeline(around=" in short
    times = [float(line.split()[0]) for line in whole.splitlines() if re.match(r" +\d+\.\d{3}  ", line)]
    assert times == sorted(times)
    assert len(times) > 20


# -- saving ----------------------------------------------------------------------------------------------------------------------------


def test_saving(report: Report, tmp_path: Path) -> None:
    picture = report.save(tmp_path / "new" / "seed.svg")
    assert picture.read_text(encoding="utf-8") == report.timeline_svg()
    assert report.save(str(tmp_path / "seed.txt")).read_text(encoding="utf-8") == report.timeline(limit=None) + "\n"
    with pytest.raises(SettingsError, match="svg"):
        report.save(tmp_path / "seed.png")
