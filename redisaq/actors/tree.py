"""A frozen picture of a supervisor at one instant, made without waiting; and the names of actors in it."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

from redisaq.errors import SettingsError

Status = Literal["new", "starting", "running", "restarting", "stopping", "finished", "stopped", "failed"]
"""The state of an actor or a supervisor.

- new: not started.
- starting: in its first `on_start`.
- running: in `run`.
- restarting: failed, or taken down with a sibling, and not up again yet.
- stopping: asked to end.
- finished: its `run` returned.
- stopped: it was stopped or cancelled.
- failed: its error left the supervisor.
"""


@dataclass(frozen=True)
class Node:
    """An actor or a supervisor, as it was when `tree()` was called.

    Attributes:
        name: unique among siblings.
        path: the names from the root down to it, with slashes between.
        status: its state.
        depth: messages waiting in its mailbox; 0 for a supervisor, as in all that follow.
        capacity: the most messages that its mailbox holds.
        handled: messages that it has finished.
        restarts: how often it was restarted.
        last_error: its latest failure, survived or not.
        busy_since: the loop's time since when it has not been waiting for a message, None if it waits. If it stays busy while `handled`
            does not change, it has been working on one message all that time.
        children: a supervisor's actors in the order they were started; an actor's own supervisors.
    """

    name: str
    path: str
    status: Status
    depth: int = 0
    capacity: int = 0
    handled: int = 0
    restarts: int = 0
    last_error: BaseException | None = None
    busy_since: float | None = None
    children: tuple[Node, ...] = ()


def check_name(name: str) -> str:
    """Return the name of an actor or a supervisor if it can be part of a path."""
    if not isinstance(name, str) or not name or "/" in name or not name.isprintable():
        raise SettingsError(f"name: at least one printable character and no slash, not {name!r}")
    return name


def snake_case(name: str) -> str:
    """Return a class's name in the form of an actor's name: HTTPReader becomes http_reader."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).strip("_").lower()


def unique_name(name: str, taken: Container[str]) -> str:
    """Return the name, or the first of name_2, name_3, … that is not taken."""
    if name not in taken:
        return name
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"
