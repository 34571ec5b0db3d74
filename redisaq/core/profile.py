"""What a member of a group says about itself: where it runs, and what runs there.

It is kept as bytes beside the group's document. No member acts on a profile. Members of older versions have none, and an unreadable one
counts as none.
"""

from __future__ import annotations

import msgspec

from redisaq.core.records import UNREADABLE


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A member's description of itself.

    Attributes:
        client: its label.
        host: the name of its machine.
        pid: its process there.
        version: its version of redisaq.
        ttl: seconds that a heartbeat lasts.
    """

    client: str = ""
    host: str = ""
    pid: int = 0
    version: str = ""
    ttl: float = 0.0


class Presence(msgspec.Struct, frozen=True):
    """A profile, and since when its member is in the group.

    Attributes:
        since: the server's time at which it joined, microseconds.
        profile: what it said of itself.
    """

    since: int
    profile: Profile


_decoder = msgspec.json.Decoder(Profile)


def encode_profile(profile: Profile) -> bytes:
    """Return the profile as JSON."""
    return msgspec.json.encode(profile)


def read_profile(data: bytes) -> Profile | None:
    """Return the profile, None if it cannot be read."""
    try:
        return _decoder.decode(data)
    except UNREADABLE:
        return None
