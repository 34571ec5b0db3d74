"""The Lua scripts: each is one atomic step of the protocol in one slot.

Invariant: a script receives all its keys by name, and computes none.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files

Argument = bytes | str | int
Command = tuple[Argument, ...]
"""A command's words."""


FOLDER = files("redisaq.brokers.redis") / "lua"


@dataclass(frozen=True)
class Script:
    """One file of lua/.

    Its text is read when the module is imported, because at a script's first use the process may have no file descriptor left.

    Attributes:
        name: the file's name.
        keys: how many of its arguments are keys.
        begins_with: files of lua/ to put before it: functions that several scripts use.
        text: the program.
        words: the first words of a command that runs it by hash: servers identify scripts by the SHA-1 of their text.
    """

    name: str
    keys: int
    begins_with: tuple[str, ...] = ()
    text: bytes = field(init=False, repr=False)
    words: tuple[bytes, bytes, bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Read the file and those before it."""
        text = b"".join((FOLDER / f"{name}.lua").read_bytes() for name in (*self.begins_with, self.name))
        sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "words", (b"EVALSHA", sha, b"%d" % self.keys))

    def __call__(self, *arguments: Argument) -> Command:
        """Return the command that runs the script by hash, its keys first."""
        return (*self.words, *arguments)


WHOLE = ("whole",)
FACTS = ("facts",)

HEARTBEAT = Script("heartbeat", keys=3, begins_with=WHOLE)
COMMIT = Script("commit", keys=3, begins_with=("whole", "note"))
INSTALL = Script("install", keys=1, begins_with=WHOLE)
REGISTER = Script("register", keys=1)
UNREGISTER = Script("unregister", keys=1)
RELEASE = Script("release", keys=1)
CLAIM = Script("claim", keys=2, begins_with=WHOLE)
DELIVERIES = Script("deliveries", keys=2)
SETTLE = Script("settle", keys=2)
REMAINING = Script("remaining", keys=3)
MAKE_TOPIC = Script("make_topic", keys=1, begins_with=WHOLE)
GROW_TOPIC = Script("grow_topic", keys=1, begins_with=WHOLE)
NAME_TOPIC = Script("name_topic", keys=1)
MAKE_STREAM = Script("make_stream", keys=1)
REMAKE_GROUP = Script("remake_group", keys=1)
RESOLVE = Script("resolve", keys=5)
START_RETRY = Script("start_retry", keys=2)
DUE = Script("due", keys=6)
DELAY = Script("delay", keys=3)
REDRIVE = Script("redrive", keys=4, begins_with=WHOLE)
DEAD_SUMMARIES = Script("dead_summaries", keys=1)
FIND = Script("find", keys=2)
APPEND_ONCE = Script("append_once", keys=4)
BACKLOG = Script("backlog", keys=1)
VIEW_STREAM = Script("view_stream", keys=2, begins_with=FACTS)
VIEW_GROUP = Script("view_group", keys=3)
VIEW_PARTITION = Script("view_partition", keys=5, begins_with=FACTS)
PAUSE = Script("pause", keys=2, begins_with=("note",))
SEEK = Script("seek", keys=4, begins_with=WHOLE)
DISBAND = Script("disband", keys=3)
DROP_GROUP = Script("drop_group", keys=5)
MAKE_GROUP = Script("make_group", keys=1)
KEEPING = Script("keeping", keys=3, begins_with=WHOLE)
TRIM = Script("trim", keys=1)
SIGHT = Script("sight", keys=2, begins_with=WHOLE)
LIST_PENDING = Script("list_pending", keys=2)
LIST_SCHEDULED = Script("list_scheduled", keys=2)
READ_DELAYED = Script("read_delayed", keys=2)
SEARCH = Script("search", keys=1)
STANDING = Script("standing", keys=4, begins_with=FACTS)
CANCEL_DELAYED = Script("cancel_delayed", keys=2)
CANCEL_RETRY = Script("cancel_retry", keys=3, begins_with=WHOLE)
RETRY_NOW = Script("retry_now", keys=2, begins_with=WHOLE)
GROUP_BACKLOG = Script("group_backlog", keys=3, begins_with=FACTS)
READ_SCHEDULES = Script("read_schedules", keys=1)
SET_SCHEDULE = Script("set_schedule", keys=1)

ALL = (
    HEARTBEAT,
    COMMIT,
    INSTALL,
    REGISTER,
    UNREGISTER,
    RELEASE,
    CLAIM,
    DELIVERIES,
    SETTLE,
    REMAINING,
    MAKE_TOPIC,
    GROW_TOPIC,
    NAME_TOPIC,
    MAKE_STREAM,
    REMAKE_GROUP,
    RESOLVE,
    START_RETRY,
    DUE,
    DELAY,
    REDRIVE,
    DEAD_SUMMARIES,
    FIND,
    APPEND_ONCE,
    BACKLOG,
    VIEW_STREAM,
    VIEW_GROUP,
    VIEW_PARTITION,
    PAUSE,
    SEEK,
    DISBAND,
    DROP_GROUP,
    MAKE_GROUP,
    KEEPING,
    TRIM,
    SIGHT,
    LIST_PENDING,
    LIST_SCHEDULED,
    READ_DELAYED,
    SEARCH,
    STANDING,
    CANCEL_DELAYED,
    CANCEL_RETRY,
    RETRY_NOW,
    GROUP_BACKLOG,
    READ_SCHEDULES,
    SET_SCHEDULE,
)
