"""What a user of `redisaq top` has chosen, and how each key changes that. Pure functions."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec.structs import replace

from redisaq.watching import GroupView, Screen, Snapshot, TopicView
from redisaq.watching.words import group_name

KEYS = (
    ("↑ ↓, j k", "choose a row"),
    ("⏎", "open the group"),
    ("esc", "back"),
    ("← →", "choose a partition"),
    ("o", "order by trouble or by name"),
    ("f", "filter by name; ⏎ ends it"),
    ("a", "height: messages or age"),
    ("space", "freeze, and go on"),
    ("?", "these keys"),
    ("q", "quit"),
)


class Choice(msgspec.Struct, frozen=True):
    """What has been chosen.

    Attributes:
        open: the topic and the name of the group that is open; None: the overview.
        row: the topic and the name of the group that is chosen in the overview; None: the first.
        partition: the partition that is chosen; None: none.
        order: the order of the rows.
        height: what the columns of partitions show.
        topic: only this topic's groups, and what needs attention there, are shown; "": those of all topics.
        words: rows whose names do not contain this are left out.
        typing: whether keys are letters of `words`.
        frozen: whether new snapshots are not shown.
        help: whether the keys are shown.
        done: whether to quit.
    """

    open: tuple[str, str] | None = None
    row: tuple[str, str] | None = None
    partition: int | None = None
    order: Literal["trouble", "name"] = "trouble"
    height: Literal["messages", "age"] = "messages"
    topic: str = ""
    words: str = ""
    typing: bool = False
    frozen: bool = False
    help: bool = False
    done: bool = False

    @property
    def screen(self) -> Screen:
        """What to watch."""
        if self.open is None:
            return Screen("topic", self.topic) if self.topic else Screen("overview")
        if self.partition is None:
            return Screen("group", *self.open)
        return Screen("partition", *self.open, self.partition)


Row = tuple[TopicView, GroupView | None]


def pressed(choice: Choice, key: str, snapshot: Snapshot) -> Choice:
    """Return what is chosen after a key."""
    if choice.typing:
        return _typed(choice, key)
    everywhere = {"q": {"done": True}, "?": {"help": not choice.help}, " ": {"frozen": not choice.frozen}}
    if key in everywhere:
        return replace(choice, **everywhere[key])
    if key in ("escape", "backspace"):
        back = {"help": False} if choice.help else {"open": None, "partition": None} if choice.open else {"words": "", "topic": ""}
        return replace(choice, **back)
    return _in_group(choice, key, snapshot) if choice.open else _in_overview(choice, key, snapshot)


def _typed(choice: Choice, key: str) -> Choice:
    if key == "escape":
        return replace(choice, typing=False, words="")
    if key == "enter":
        return replace(choice, typing=False)
    if key == "backspace":
        return replace(choice, words=choice.words[:-1])
    return replace(choice, words=choice.words + key) if len(key) == 1 and key.isprintable() else choice


def _in_overview(choice: Choice, key: str, snapshot: Snapshot) -> Choice:
    names = [(topic.topic, "" if group is None else group.group) for topic, group in rows(snapshot, choice)]
    at = names.index(choice.row) if choice.row in names else 0
    match key:
        case "up" | "k" | "down" | "j" if names:
            to = at + (1 if key in ("down", "j") else -1)
            return replace(choice, row=names[max(0, min(len(names) - 1, to))])
        case "enter" if names and names[at][1]:
            return replace(choice, open=names[at], row=names[at], partition=None)
        case "o":
            return replace(choice, order="name" if choice.order == "trouble" else "trouble")
        case "f":
            return replace(choice, typing=True, words="")
        case _:
            return choice


def _in_group(choice: Choice, key: str, snapshot: Snapshot) -> Choice:
    group = None if choice.open is None else snapshot.group(*choice.open)
    numbers = [] if group is None else [one.partition for one in group.partitions]
    match key:
        case "left" | "right" | "h" | "l" if numbers:
            if choice.partition not in numbers:
                return replace(choice, partition=numbers[0])
            at = numbers.index(choice.partition) + (1 if key in ("right", "l") else -1)
            return replace(choice, partition=numbers[max(0, min(len(numbers) - 1, at))])
        case "a":
            return replace(choice, height="age" if choice.height == "messages" else "messages")
        case _:
            return choice


def rows(snapshot: Snapshot, choice: Choice) -> list[Row]:
    """Return the rows of the overview: each group, and each topic that has none."""
    found: list[Row] = [(topic, group) for topic in topics(snapshot, choice) for group in (topic.groups or (None,))]
    found = [row for row in found if choice.words.lower() in group_name(row[0].topic, row[1].group if row[1] else "").lower()]
    if choice.order == "trouble":
        severity = {"bad": 0, "warn": 1, "calm": 2}
        found.sort(key=lambda row: severity.get((row[1].severity if row[1] else None) or "", 3))
    return found


def topics(snapshot: Snapshot, choice: Choice) -> list[TopicView]:
    """Return the topics to show: the chosen one, or all."""
    return [topic for topic in snapshot.topics if choice.topic in ("", topic.topic)]
