"""What a member says about itself, as other members and versions read it."""

from __future__ import annotations

import pytest

from redisaq.core.profile import Profile, encode_profile, read_profile


def test_what_a_member_does_not_say_is_unknown() -> None:
    assert read_profile(b"{}") == Profile(client="", host="", pid=0, version="", ttl=0.0)
    assert encode_profile(Profile()) == b"{}"


def test_what_a_later_version_says_besides_is_ignored() -> None:
    said = b'{"client":"web-1","host":"h","pid":7,"version":"9.0","ttl":12.0,"mood":"good"}'
    assert read_profile(said) == Profile("web-1", "h", 7, "9.0", 12.0)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"pid":"x"}', b"\xff"])
def test_what_cannot_be_read_counts_as_nothing_said(data: bytes) -> None:
    assert read_profile(data) is None
