"""Reports of what is in handlers are small, whatever runs, and say when a handler began and how long it may take."""

from __future__ import annotations

from redisaq.core.in_flight import Flight
from redisaq.core.running import WATCHED, Running, encode_report, read_report, report_of


def flight(number: int, text: str = "m", timeout: float | None = None) -> Flight:
    return Flight("orders", None, timeout=timeout, key=text, msg_id=text, partition=3, attempt=2, entry=b"17-%d" % number)


def test_what_a_report_says() -> None:
    report = report_of([(flight(1), 90.0), (flight(2, timeout=7.0), 1.5)], now=1_700_000_000_250_000, members=2, timeout=30.0)
    assert report.count == 2
    assert report.messages == (
        Running("m", 3, "17-1", 2, 1_699_999_910_250, "m", 30.0),
        Running("m", 3, "17-2", 2, 1_699_999_998_750, "m", 7.0),
    )
    assert read_report(encode_report(report)) == report
    assert read_report(None) is None


def test_a_report_is_small() -> None:
    text = "ключ" * 10_000
    running = [(flight(number, text), 9000.0 - number) for number in range(5000)]
    for members, most in ((0, 100), (1, 100), (20, 100), (100, 20), (1000, 2), (100_000, 1)):
        report = report_of(running, now=1_700_000_000_250_000, members=members, timeout=None)
        assert report.count == 5000
        assert [one.entry_id for one in report.messages] == [f"17-{number}" for number in range(most)], "those that began first"
        assert len(encode_report(report)) < 100 + most * (4 * 100 + 100)


def test_members_report_for_ten_seconds_after_somebody_has_looked() -> None:
    """A page asks again sooner, and what nobody looks at costs nothing."""
    assert WATCHED == 10.0
