"""What the demo's views show: the board that reports change, and both views of it."""

from __future__ import annotations

import io
import re
import sys

import pytest

from redisaq.cli.demo.board import Board, partitions_in_words, ranges
from redisaq.cli.demo.reports import (
    Acquired,
    ChildSettings,
    Failed,
    Finished,
    Looked,
    Noted,
    Processed,
    Produced,
    Ready,
    Released,
    Report,
    decode_report,
    decode_settings,
    encode,
)
from redisaq.cli.demo.view import choose_view
from redisaq.cli.demo.view_plain import PlainView
from redisaq.cli.demo.view_rich import RichView, picture

NAMES = ["consumer-1", "consumer-2"]


@pytest.fixture
def board() -> Board:
    """Four partitions, two consumers with two each, some messages on their way."""
    board = Board("trio, a private Valkey", messages=10, partitions=4, consumers=NAMES)
    for row, pid in zip(board.consumers.values(), (101, 102), strict=True):
        row.pid, row.state = pid, "running"
    for number, name in enumerate(["consumer-1", "consumer-1", "consumer-2", "consumer-2"]):
        board.take(name, Acquired(number), 1.0)
    board.take("producer", Produced([str(n) for n in range(8)]), 1.1)
    for n in range(4):
        board.take(NAMES[n // 2], Processed(n, str(n)), 1.2)
    board.take("consumer-2", Looked(2, 5), 1.3)
    return board


def owners(board: Board) -> list[str | None]:
    return [row.owner for row in board.partitions]


def test_reports_change_it(board: Board) -> None:
    assert owners(board) == ["consumer-1", "consumer-1", "consumer-2", "consumer-2"]
    assert board.all_owned
    assert board.balanced
    assert (board.tally.produced, board.tally.processed) == (8, 4)
    assert [row.processed for row in board.partitions] == [1, 1, 1, 1]
    assert board.consumers["consumer-2"].in_hand == 7


def test_a_late_release_does_not_take_from_the_new_owner(board: Board) -> None:
    """Two pipes: the new owner's report may be read before that of the old one."""
    board.take("consumer-2", Acquired(1), 2.0)
    board.take("consumer-1", Released(1, lost=False), 2.0)
    assert owners(board)[1] == "consumer-2"
    assert board.consumers["consumer-1"].partitions == {0}
    assert board.consumers["consumer-2"].partitions == {1, 2, 3}
    assert not board.balanced


def test_a_kill_frees_partitions_and_a_takeover_is_told(board: Board) -> None:
    board.killed("consumer-1", 3.0)
    assert owners(board) == [None, None, "consumer-2", "consumer-2"]
    assert not board.all_owned
    board.take("consumer-2", Acquired(0), 4.5)
    board.take("consumer-2", Acquired(1), 4.75)
    board.tick(4.8)
    board.say(5.0, "over")
    assert [line.text for line in board.lines] == [
        "killed consumer-1 (SIGKILL); it owned partitions 0-1",
        "consumer-2 took over partitions 0-1, 1.75 s after the kill",
        "over",
    ]
    assert board.takeover is not None
    assert board.takeover.complete


def test_what_is_noted_and_what_fails_is_a_line(board: Board) -> None:
    board.take("consumer-1", Noted("reaches the server again"), 2.0)
    board.take("consumer-1", Failed("no such database"), 2.5)
    assert [(line.at, line.text, line.tone) for line in board.lines] == [
        (2.0, "consumer-1 reaches the server again", "plain"),
        (2.5, "consumer-1 failed: no such database", "bad"),
    ]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [(set[int](), "no partition"), ({4}, "partition 4"), ({3, 1, 2}, "partitions 1-3"), ({0, 1, 5, 7, 8, 9}, "partitions 0-1 5 7-9")],
)
def test_numbers_in_few_characters(numbers: set[int], text: str) -> None:
    assert partitions_in_words(numbers) == text
    assert text.endswith(ranges(numbers))


REPORTS: list[Report] = [
    Ready(),
    Produced(["a", "b"]),
    Finished(),
    Processed(3, "a"),
    Acquired(3),
    Released(3, lost=True),
    Looked(1, 2),
    Noted("übel\n"),
    Failed("no"),
]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: type(report).__name__)
def test_a_report_is_one_line(report: Report) -> None:
    line = encode(report)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_report(line[:-1]) == report


def test_settings_are_one_line() -> None:
    settings = ChildSettings("consumer", "trio", "redis://:pass@host", "n", "t", 3, 100, 5, 0.1, 0.01, 0.5, 2.0)
    assert decode_settings(encode(settings)) == settings


# -- views ------------------------------------------------------------------------------------------------------------------------------


def test_plain_lines_tell_each_thing_once_and_how_it_stands_at_most_twice_a_second(board: Board) -> None:
    out = io.StringIO()
    with PlainView(out) as view:
        board.say(1.0, "begun")
        board.take("producer", Produced([f"more {tick}" for tick in range(20)]), 1.0)
        for tick in range(11):
            now = 2.0 + tick / 10
            if tick:
                board.take("consumer-1", Processed(0, f"more {tick}"), now)
            board.tick(now)
            view.show(board, now)
        board.say(3.1, "ended")
        board.over = True
        view.show(board, 9.0)
    lines = out.getvalue().splitlines()
    assert lines[0] == "redisaq demo: trio, a private Valkey"
    assert lines[1] == "  1.00 s  * begun"
    assert lines[-1] == "  3.10 s  * ended"
    standing = [line for line in lines if "produced 28/10" in line]
    assert len(standing) == 3  # at 2.0, 2.5 and 3.0
    assert "consumer-1 [0-1]" in standing[0]
    assert len(lines) == 6


def test_plain_lines_do_not_repeat_what_stands_still(board: Board) -> None:
    out = io.StringIO()
    with PlainView(out) as view:
        for tick in range(100):
            view.show(board, tick / 10)
    assert len(out.getvalue().splitlines()) == 2


def drawn(board: Board, now: float, width: int, height: int) -> list[str]:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    with console.capture() as capture:
        console.print(picture(board, now, width=width, height=height))
    return capture.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (200, 60), (40, 12)])
@pytest.mark.parametrize(("partitions", "consumers"), [(1, 2), (12, 3), (100, 5)])
def test_the_picture_fits(width: int, height: int, partitions: int, consumers: int) -> None:
    board = Board("trio, a private Valkey", messages=1000, partitions=partitions, consumers=[f"consumer-{n}" for n in range(consumers)])
    for number in range(partitions):
        board.take(f"consumer-{number % consumers}", Acquired(number), 1.0)
    for tick in range(50):
        board.say(tick, "a long line about something that happened in the demo " * 4)
    for killed in (False, True):
        if killed:
            board.killed("consumer-0", 60.0)
        lines = drawn(board, 61.5, width, height)
        assert max(map(len, lines)) <= width
        if height >= 24:
            assert len(lines) < height


def test_the_picture_shows_owners_and_who_has_none(board: Board) -> None:
    board.killed("consumer-1", 3.0)
    text = "\n".join(drawn(board, 4.5, 100, 30))
    assert re.search(r"0 □ no owner +1\.5 s", text)
    assert "2 ■ consumer-2" in text
    assert re.search(r"consumer-1 +101 +killed", text)
    assert re.search(r"consumer-2 +102 +running +2-3 +7 +2", text)
    assert "8 of 10" in text
    assert "4 of 10" in text
    assert "killed consumer-1 (SIGKILL); it owned partitions 0-1" in text
    board.over = True
    assert "no owner" not in "\n".join(drawn(board, 4.5, 100, 30))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_the_picture_and_gets_itself_back(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with choose_view(out, plain=False) as view:
        assert isinstance(view, RichView)
        view.show(board, 2.0)
        assert "\x1b[?25l" in out.getvalue()  # no cursor meanwhile
    assert out.getvalue().rstrip().endswith("\x1b[?25h")


def test_everything_else_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(choose_view(io.StringIO(), plain=False), PlainView)
    assert isinstance(choose_view(Terminal(), plain=True), PlainView)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(choose_view(Terminal(), plain=False), PlainView)


def test_without_rich_a_terminal_gets_lines_and_is_told_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setitem(sys.modules, "rich", None)
    assert isinstance(choose_view(Terminal(), plain=False), PlainView)
    assert 'pip install "redisaq[cli]"' in capsys.readouterr().err
