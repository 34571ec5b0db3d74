"""What `redisaq top` shows of a snapshot, as text, and what keys do."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec import structs
from rich.console import Console

from redisaq.cli.choosing import Choice, pressed
from redisaq.cli.frames import frame
from redisaq.cli.terminal import parse
from redisaq.watching import Screen, Snapshot
from tests.dashboard.scenes import BEHIND, HERE, NOW, curves, group, member, partition, snapshot, topic

LATE = group(severity="bad", state="behind", unread=297_120, oldest=721.0, fresh=8, dead=31)
QUIET = group(name="warehouse", handled=410.0, handled_curve=curves(411.0))
SCENE = snapshot(topic("emails", group("emails", "mailer")), topic("orders", QUIET, LATE), topic("sessions"), attention=(BEHIND,), well="")


def shown(found: Snapshot, choice: Choice | None = None, width: int = 128, height: int = 34) -> str:
    """Return a frame as the text that a pipe gets."""
    console = Console(width=width, height=height, record=True, color_system=None, force_terminal=False, highlight=False, quiet=True)
    console.begin_capture()
    console.quiet = False
    console.print(frame(found, choice or Choice(), width, height))
    return console.end_capture()


def press(keys: Sequence[str], found: Snapshot = SCENE, choice: Choice | None = None) -> Choice:
    choice = choice or Choice()
    for key in keys:
        choice = pressed(choice, key, found)
    return choice


def test_the_overview_says_what_is_wrong_first_then_the_rows_by_trouble() -> None:
    lines = shown(SCENE).splitlines()
    assert lines[0].split() == [
        "redisaq",
        "top",
        "redis://cache-1.prod:6379/0",
        "/",
        "shop",
        "Valkey",
        "9.1",
        "●",
        "every",
        "2",
        "s",
        "20:47:31",
    ]
    assert lines[2].rstrip() == "NEEDS ATTENTION (1)"
    assert lines[3].rstrip() == "▲  orders › billing  is 12 min behind and falling further back. 412/s come in."
    assert lines[5].split() == [
        "TOPIC",
        "GROUP",
        "IN/s",
        "OUT/s",
        "24",
        "MIN",
        "BACKLOG",
        "OLDEST",
        "RUN",
        "RETRY",
        "DEAD",
        "MEMBERS",
        "STATE",
    ]
    assert lines[6].split() == [
        "orders",
        "4",
        "billing",
        "412",
        "158",
        "▂▂▂▂▂▂▂▂▂▂▂▂",
        "297",
        "k",
        "▲",
        "12",
        "min",
        "1",
        "3",
        "31",
        "AB",
        "behind",
    ]
    assert [line.split()[:3] for line in lines[7:9]] == [["emails", "4", "mailer"], ["orders", "4", "warehouse"]]
    assert "no group reads it" in lines[9]


@pytest.mark.parametrize(
    ("width", "gone"),
    [(128, []), (120, ["24 MIN"]), (100, ["24 MIN", "RETRY"]), (80, ["24 MIN", "RETRY", "RUN"])],
)
def test_a_narrow_terminal_drops_the_curve_then_retries_then_run(width: int, gone: list[str]) -> None:
    wordy = structs.replace(BEHIND, more="158/s are handled. " * 9)
    text = shown(structs.replace(SCENE, attention=(wordy,)), width=width)
    heads = ["TOPIC", "GROUP", "IN/s", "OUT/s", "24 MIN", "BACKLOG", "OLDEST", "RUN", "RETRY", "DEAD", "MEMBERS", "STATE"]
    assert sorted(head for head in heads if head not in text) == sorted(gone)
    assert max(map(len, text.splitlines())) <= width
    assert text.splitlines()[3].startswith("▲")
    assert "297 k" in text
    assert "behind" in text


def test_nothing_wrong_says_so() -> None:
    text = shown(snapshot(topic("orders", QUIET)))
    assert "✓ Nothing. All is well." in text


def test_no_topics() -> None:
    assert "No topics yet. The database has 41,212 other keys" in shown(snapshot(server=structs.replace(HERE, other_keys=41_212)))


def test_a_server_that_is_away_keeps_the_numbers() -> None:
    text = shown(structs.replace(SCENE, server=structs.replace(HERE, state="away", since=NOW - 41)))
    assert "▲ away since 20:46:50" in text
    assert "297 k" in text


def test_a_long_list_shows_the_chosen_row_and_how_many_are_left() -> None:
    many = snapshot(*(topic(f"t{number:03}", group(f"t{number:03}", "g")) for number in range(100)))
    text = shown(many, Choice(order="name"), height=24)
    assert "t000" in text
    assert "more" in text
    assert len(text.splitlines()) <= 24
    text = shown(many, press(["j"] * 60, many, Choice(order="name")), height=24)
    assert "t060" in text
    assert "t000" not in text


def test_a_group() -> None:
    text = shown(SCENE, Choice(open=("orders", "billing"), partition=1))
    for words in (
        "orders › billing   behind   in 412/s  out 158/s  backlog 297 k  oldest 12 min 01 s",
        "owner    A   B   A   B",
        "partition 1  owner B ip-10-0-3-1:4001, token 3  unread 5  pending 1",
        " A   ip-10-0-3-0:4000  0.2.0    19:07  0, 2      1.1 s  ━·········",
        "4r8zq1mt6x0vckd3  customer-8812     1   B     2  41 s",
        "20:46:31  B  joined, took 1 and 3",
    ):
        assert words in text
    assert max(map(len, shown(SCENE, Choice(open=("orders", "billing"), partition=1), width=80).splitlines())) <= 80


def test_a_partition_without_an_owner_is_said_without_colours() -> None:
    parts = (partition(0, 0), partition(1, None, 40, unowned=NOW - 9))
    found = snapshot(topic("orders", structs.replace(group(), partitions=parts)))
    text = shown(found, Choice(open=("orders", "billing"), partition=1))
    assert "owner    A  !!!" in text
    assert "owner nobody for 9 s" in text


def test_of_too_many_partitions_the_worst_are_shown() -> None:
    parts = tuple(partition(number, None if number == 7000 else number % 2, number % 911) for number in range(10_000))
    found = snapshot(topic("orders", structs.replace(group(), partitions=parts)))
    text = shown(found, Choice(open=("orders", "billing")))
    assert "the worst of 10,000, and 9,976 more" in text
    assert "!!!" in text
    numbers = next(line for line in text.splitlines() if "7000" in line).split()
    assert (numbers[0], len(numbers)) == ("7000", 24)


def test_a_group_without_members() -> None:
    assert "No members." in shown(snapshot(topic("orders", group(members=()))), Choice(open=("orders", "billing")))


def test_a_group_that_is_gone() -> None:
    assert "There is no group orders › billing any more." in shown(snapshot(topic("orders")), Choice(open=("orders", "billing")))


def test_what_users_named_cannot_move_the_cursor() -> None:
    hostile = group("evil\x1b[2J", "g\u202eroup", members=(member(0, host="h\x07[/b]", version="[/x]"),))
    hostile_topic = topic("evil\x1b[2J", hostile)
    found = snapshot(hostile_topic, attention=(structs.replace(BEHIND, subject="evil\x1b[2J"),))
    text = shown(found) + shown(found, Choice(open=("evil\x1b[2J", "g\u202eroup")))
    text += shown(snapshot(hostile_topic, well="Nothing. cleared by \x1b[2J"))
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "[/b]" in text
    assert "evil\\x1b[2J" in text


def test_the_groups_of_one_topic() -> None:
    """`redisaq top orders`: nothing of other topics is shown, until `esc`."""
    choice = Choice(topic="emails")
    text = shown(SCENE, choice)
    assert "mailer" in text
    assert "warehouse" not in text
    assert "falling further back" not in text
    assert "topic: emails" in text
    assert "falling further back" in shown(SCENE, Choice(topic="orders"))
    assert "warehouse" in shown(SCENE, press(["escape"], choice=choice))
    assert choice.screen == Screen("topic", "emails")
    assert "There is no topic nothing." in shown(SCENE, Choice(topic="nothing"))


def test_keys_of_the_overview() -> None:
    assert press(["j"]).row == ("emails", "mailer")
    assert press(["j", "k", "up"]).row == ("orders", "billing")
    assert press(["down"] * 9).row == ("sessions", "")
    assert press(["enter"]).open == ("orders", "billing")
    assert press([*["down"] * 9, "enter"]).open is None
    assert (press(["o"]).order, press(["o", "o"]).order) == ("name", "trouble")
    assert press(["q"]).done
    assert (press([" "]).frozen, press([" ", " "]).frozen) == (True, False)
    assert "choose a row" in shown(SCENE, press(["?"]))
    assert not press(["?", "escape"]).help


def test_a_filter() -> None:
    choice = press([*"fWARE"])
    assert (choice.words, choice.typing) == ("WARE", True)
    text = shown(SCENE, choice)
    assert "warehouse" in text
    assert "mailer" not in text
    assert press([*"fq", "backspace", *"ware", "enter"]).words == "ware"
    assert press([*"fq", "escape"]) == Choice()
    assert press([*"fq", "enter", "escape"]) == Choice()


def test_keys_of_a_group() -> None:
    choice = press(["enter", "right", "right", "a"])
    assert (choice.open, choice.partition, choice.height) == (("orders", "billing"), 1, "age")
    assert (choice.screen.view, choice.screen.partition) == ("partition", 1)
    assert press(["left"] * 3, choice=choice).partition == 0
    assert press(["escape"], choice=choice).open is None
    assert press(["escape"], choice=choice).row == ("orders", "billing")


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        ("q", ["q"]),
        ("\x1b[A\x1bOB\x1b[C\x1b[D", ["up", "down", "right", "left"]),
        ("\r\x7f\x1b", ["enter", "backspace", "escape"]),
        ("\x1b[15~j\x1b[1;5Ck", ["j", "k"]),
        ("\x00é", ["é"]),
    ],
)
def test_what_a_terminal_sends(sent: str, keys: list[str]) -> None:
    assert parse(sent) == keys
