"""The picture of a report: each lease has its bar, each fault its mark, and a parser takes it, whatever things are called."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from redisaq.errors import SettingsError
from redisaq.testing import Delivery, Mark, Report
from tests.simulation.stories import EMPTY, FULL, SVG, Picture, lease, run, told

NEAR = 0.02  # seconds: a tenth of a pixel of some 1,100 for 10 s, rounded


def picture(report: Report, **options: float) -> Picture:
    return Picture(report.timeline_svg(**options))  # type: ignore[arg-type]


def test_each_lease_has_its_bar_from_its_beginning_to_its_end() -> None:
    drawn = picture(FULL)
    bars = drawn.titled("rq-lease")
    assert list(bars) == [
        "a owns orders/1 from 1.000 s until 8.000 s: crashed, token 1001",
        "b owns orders/2 from 1.500 s until 7.000 s: released, token 1002",
        "b owns orders/0 from 2.000 s and has it still, token 1000",
        "b owns orders/1 from 5.500 s until 6.500 s: lost, token 1001",
    ]
    extents = [drawn.extent(bar) for bar in bars.values()]
    for found, wanted in zip(extents, [(1.0, 8.0), (1.5, 7.0), (2.0, 10.0), (5.5, 6.5)], strict=True):
        assert found == pytest.approx(wanted, abs=NEAR)
    ends = [[one.tag.removeprefix(SVG) for one in bar if one.get("class") == "rq-cap"] for bar in bars.values()]
    assert ends == [["rect"], [], ["path"], ["rect"]]  # crashed and lost: a cap; not ended: an arrow


def test_a_partition_has_one_colour_and_lanes_of_one_member_do_not_overlap() -> None:
    drawn = picture(FULL)
    of_one: list[str | None] = []
    others: set[str | None] = set()
    tops: dict[str, float] = {}
    for title, group in drawn.titled("rq-lease").items():
        bar = group.find(f"{SVG}rect[@class='rq-bar']")
        assert bar is not None
        (of_one.append if "orders/1 " in title else others.add)(bar.get("fill"))
        tops[title[:15]] = float(bar.get("y", ""))
    assert len(set(of_one)) == 1
    assert len(others) == 2
    assert not others & set(of_one)
    assert tops["b owns orders/0"] < tops["b owns orders/1"] < tops["b owns orders/2"]
    assert tops["a owns orders/1"] < tops["b owns orders/0"]


def test_members_are_rows_in_the_order_in_which_they_joined_and_then_others() -> None:
    names = [one for one in picture(FULL).texts() if one in ("a", "b", "producer-0", "server")]
    assert names == ["a", "b", "producer-0", "server"]


def test_what_the_server_lost_is_a_line_through_all_rows() -> None:
    drawn = picture(FULL)
    failover, slot = drawn.of("rq-loss")
    assert failover.findtext(f"{SVG}title") == "7.500 s: failover (the last 0.300 s are forgotten)"
    assert slot.findtext(f"{SVG}title") == "7.600 s: slot loss (orders/2 is gone)"
    for line, time in ((failover, 7.5), (slot, 7.6)):
        assert drawn.time(float(line.get("x1", ""))) == pytest.approx(time, abs=NEAR)
        assert float(line.get("y1", "")) < min(float(row.get("y", "")) for row in drawn.of("rq-row"))


def test_each_fault_is_a_mark_and_each_kind_has_its_own_shape() -> None:
    drawn = picture(FULL)
    faults = drawn.titled("rq-fault")
    assert sorted(faults) == [
        "2.000 s: a: request lost (settle)",
        "2.500 s: a: reply lost (read)",
        "3.000 s: b: request late (heartbeat)",
        "3.500 s: producer-0: connection broken (append)",
        "7.500 s: server: failover (the last 0.300 s are forgotten)",
        "7.600 s: server: slot loss (orders/2 is gone)",
        "9.100 s: b: slow handler (0.400 s longer)",
    ]
    shapes: set[tuple[str, str]] = set()
    for title, fault in faults.items():
        path = fault.find(f"{SVG}path")
        assert path is not None
        shapes.add((path.get("d", ""), path.get("class", "")))
        place = re.fullmatch(r"translate\((\S+) (\S+)\)", path.get("transform", ""))
        assert place is not None
        assert drawn.time(float(place[1])) == pytest.approx(float(title.split()[0]), abs=NEAR)
    assert len(shapes) == 7
    for kind in ("request lost", "reply lost", "request late", "connection broken", "failover", "slot loss", "slow handler"):
        assert drawn.texts().count(kind) == 1  # in the legend


def test_marks_and_absences_of_members_are_shown() -> None:
    drawn = picture(FULL)
    assert list(drawn.titled("rq-absence")) == [
        "a is gone for 1.000 s, from 8.000 to 9.000 s",
        "a stands still for 1.000 s, from 4.500 to 5.500 s",
    ]
    marks = list(drawn.titled("rq-mark"))
    assert "8.000 s: a crashes" in marks
    assert "4.500 s: a pauses for 1.000 s" in marks
    assert len(marks) == 6  # "goes on" is the end of the shaded time


def test_a_violation_is_a_line_through_all_rows_with_its_text_and_one_without_a_time_only_the_text() -> None:
    drawn = picture(FULL)
    (line,) = drawn.of("rq-violation")[:1]
    assert drawn.time(float(line.get("x1", ""))) == pytest.approx(6.0, abs=NEAR)
    assert line.get("x1") == line.get("x2")
    rows = drawn.of("rq-row")
    assert float(line.get("y1", "")) < min(float(row.get("y", "")) for row in rows)
    assert float(line.get("y2", "")) > max(float(row.get("y", "")) + float(row.get("height", "")) for row in rows)
    assert "1.  6.000 s: b began orders/1 7-0 attempt 1 while a runs 5-0 since 5.900" in drawn.texts()
    assert "2.  it stood still" in drawn.texts()
    assert len(drawn.of("rq-broken")) == 1


def test_violations_that_stand_close_together_do_not_cover_each_other() -> None:
    drawn = picture(told(violations=[f"at 1.00{n}: bad {n}" for n in range(5)], leases=[lease("a", 0, 0.0, 100.0)]))
    spots = [(float(one.get("cx", "")), float(one.get("cy", ""))) for one in drawn.of("rq-flag")]
    assert all(math.dist(one, other) > 13 for index, one in enumerate(spots) for other in spots[:index])


def test_runs_of_handlers_are_ticks_in_their_lane_and_many_in_one_pixel_are_one() -> None:
    drawn = picture(FULL)
    assert list(drawn.titled("rq-failed")) == ["b runs orders/0 5-0, attempt 1, from 9.000 to 9.500 s: raised"]
    many = told(deliveries=[run("a", 0, 50 + n * 1e-6, 50.001) for n in range(5000)], leases=[lease("a", 0, 0.0, 100.0)])
    (tick,) = picture(many).titled("rq-run")
    assert tick.endswith("and 4995 more")


def test_a_run_that_never_ended_lasts_until_its_member_crashed() -> None:
    drawn = picture(
        told(
            deliveries=[run("a", 0, 1.0, None, "running"), run("b", 0, 1.0, None, "running")],
            leases=[lease("a", 0, 0.0, 4.0, "crashed"), lease("b", 0, 0.0, 10.0)],
            marks=[Mark(0.0, "a", "joins"), Mark(4.0, "a", "crashes")],
        )
    )
    ticks = [one for one in drawn.of("rq-failed") if one.find(f"{SVG}title") is not None]
    ends = [drawn.time(float(one.get("x", "")) + float(one.get("width", ""))) for one in ticks]
    assert ends == pytest.approx([4.0, 10.0], abs=NEAR)


@pytest.mark.parametrize("name", ['<a href="x">&amp;</a>', "]]>", "\x00\x1b[31m\n", "\ud800", "é 木 🚀", "x" * 300, "--", "\u202ertl"])
def test_whatever_things_are_called_a_parser_takes_it(name: str) -> None:
    report = told(
        violations=[f"at 1.000: {name}"],
        trace=[f"1.000000 {name} settle: late"],
        leases=[lease(name, 0, 0.0, 2.0, topic=name)],
        deliveries=[Delivery(name, name, name, 0, name, name, 1, 1, 0.5, 1.5, name)],
        marks=[Mark(0.0, name, "joins"), Mark(1.0, name, f"pauses {name}"), Mark(1.5, name, name)],
    )
    text = report.timeline_svg()
    text.encode()
    drawn = Picture(text)
    assert len(drawn.titled("rq-lease")) == 1
    tags = {one.tag.removeprefix(SVG) for one in drawn.root.iter()}
    assert tags <= {"svg", "title", "style", "defs", "pattern", "path", "rect", "line", "circle", "text", "g"}


def test_it_asks_for_nothing_from_elsewhere() -> None:
    text = FULL.timeline_svg().replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|@import|@font-face|href|<script|\bon\w+=", text)
    assert set(re.findall(r"url\(([^)]*)\)", text)) == {"#rq-paused-hatch", "#rq-crashed-hatch"}
    assert "prefers-color-scheme:dark" in text


def test_the_same_report_gives_the_same_bytes() -> None:
    assert FULL.timeline_svg() == FULL.timeline_svg()


def test_nothing_and_one_member_alone_are_pictures_too() -> None:
    assert "seed 1 on trio: no violation" in picture(EMPTY).texts()
    alone = picture(told(marks=[Mark(0.0, "a", "joins")]))
    assert "a" in alone.texts()
    assert "nan" not in alone.text


def test_a_window_shows_only_what_lies_in_it() -> None:
    drawn = picture(FULL, around=6.0, within=0.2)
    assert [title[:15] for title in drawn.titled("rq-lease")] == [
        "a owns orders/1",
        "b owns orders/2",
        "b owns orders/0",
        "b owns orders/1",
    ]
    for bar in drawn.titled("rq-lease").values():
        assert drawn.extent(bar) == pytest.approx((5.8, 6.2), abs=0.001)
        assert not [one for one in bar if one.get("class") == "rq-cap" and one.tag == f"{SVG}rect"]  # their ends are elsewhere
    assert not drawn.titled("rq-fault")
    assert len(drawn.of("rq-broken")) == 1
    assert not picture(FULL, around=9.0, within=0.2).of("rq-broken")


def test_everything_stands_within_the_picture_however_long_the_run_is() -> None:
    leases = [lease(member, n % 12, n * 10.0, n * 10.0 + 40.0) for n in range(2000) for member in "abcde"]
    drawn = picture(told(leases=leases))
    width, height = float(drawn.root.get("width", "")), float(drawn.root.get("height", ""))
    assert (width, drawn.root.get("viewBox")) == (1280.0, f"0 0 1280 {drawn.root.get('height')}")
    for one in drawn.root.iter(f"{SVG}rect"):
        if one.get("x") is not None:
            assert 0 <= float(one.get("x", "")) <= float(one.get("x", "")) + float(one.get("width", "")) <= width
            assert 0 <= float(one.get("y", "")) <= float(one.get("y", "")) + float(one.get("height", "")) <= height
    assert len(drawn.of("rq-grid")) < 20


def test_what_cannot_be_drawn_is_refused() -> None:
    for options in ({"width": 10}, {"around": math.nan}, {"around": -1.0}, {"around": 1.0, "within": 0.0}, {"within": math.inf}):
        with pytest.raises(SettingsError):
            FULL.timeline_svg(**options)


def test_a_report_is_saved_as_what_the_name_says(tmp_path: Path) -> None:
    file = FULL.save(tmp_path / "new" / "failing.svg")
    assert file.read_text(encoding="utf-8") == FULL.timeline_svg()
    assert FULL.save(str(tmp_path / "failing.txt")).read_text(encoding="utf-8") == FULL.timeline(limit=None) + "\n"
    with pytest.raises(SettingsError, match=r"not as 'failing.png'"):
        FULL.save(tmp_path / "failing.png")
