"""What this process calls itself: its connections for the server (CLIENT SETNAME), and its members of groups for Admin.

Input: the label that the user gave, or none. Output: a label, the name of a connection, a member's Profile. A fork changes the process, so
nothing here is cached.
"""

from __future__ import annotations

from redisaq.core.profile import Profile
from redisaq.environment import Environment

VERSION = "0.2.0"
"""The package's version; the build reads it here."""

CONNECTION = "redisaq:"
"""How the names of all connections begin."""

_PRINTABLE = range(33, 127)  # the characters that CLIENT SETNAME takes


def label_of(client: str | None, environment: Environment) -> str:
    """Return the user's label, or else "host:pid"."""
    return client or f"{environment.host()}:{environment.pid()}"


def connection_name(client: str | None, environment: Environment) -> str:
    """Return the name of a connection: the label, with characters replaced that the server does not accept."""
    return CONNECTION + "".join(letter if ord(letter) in _PRINTABLE else "_" for letter in label_of(client, environment))


def profile_of(client: str | None, environment: Environment, ttl: float) -> Profile:
    """Return what a member says about itself.

    Args:
        client: the user's label.
        environment: gives the machine and the process.
        ttl: seconds that its heartbeat lasts.
    """
    return Profile(label_of(client, environment), environment.host(), environment.pid(), VERSION, ttl)
