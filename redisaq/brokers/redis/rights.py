"""The rights that a user of the server needs, as its access rules name them.

What scripts call is read in their text. What is sent outside scripts is listed here, and a test compares it with what really is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from redisaq.brokers.redis.scripts import SCRIPTS, Script

OUTSIDE_SCRIPTS = (
    *("hello", "auth", "ping", "select", "info", "client|info", "client|kill", "client|unblock", "cluster|info", "cluster|slots"),
    *("eval", "evalsha", "type", "unlink", "scan", "smembers", "wait", "xreadgroup", "ssubscribe", "sunsubscribe"),
)
"""Commands that are sent as such, and that no script need call."""

DISPENSABLE = frozenset(
    {"client|info", "client|kill", "client|unblock", "cluster|info", "cluster|slots", "dbsize", "spublish", "ssubscribe", "type", "wait"}
)
"""Commands without which redisaq works on, less well; without CLUSTER SLOTS it cannot connect to a cluster."""

_CALLS = re.compile(rb"redis\.p?call\('(\w+)'(?:, '(\w+)')?")
_WITH_SUBCOMMANDS = frozenset({"xgroup", "xinfo"})


def called_by(scripts: Iterable[Script]) -> set[str]:
    """Return the commands that scripts call."""
    found: set[str] = set()
    for script in scripts:
        for command, word in _CALLS.findall(script.text):
            name = command.decode().lower()
            found.add(f"{name}|{word.decode().lower()}" if name in _WITH_SUBCOMMANDS else name)
    return found


def commands_needed() -> list[str]:
    """Return all commands that are used: first those outside scripts, then the others, sorted."""
    return [*OUTSIDE_SCRIPTS, *sorted(called_by(SCRIPTS.values()) - set(OUTSIDE_SCRIPTS))]


def access_rules(namespace: str) -> list[str]:
    """Return the access rules of a user who needs no other rights, as ACL SETUSER takes them."""
    return [
        f"~{namespace}:topics",
        f"~{{{namespace}:*",
        f"&{{{namespace}:*",
        *(f"+{command}" for command in commands_needed()),
    ]
