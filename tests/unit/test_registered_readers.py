"""What the server says of registered readers becomes the marks by which they are killed (T3)."""

from __future__ import annotations

from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.leases import install
from redisaq.brokers.steps.leases import Install
from redisaq.brokers.terms import GroupName, ReaderMark


def test_a_reader_at_a_socket_whose_path_is_not_ascii_is_killed_too() -> None:
    """The address is the path then."""
    _, answer = install(Install(GroupName("orders", "billing"), 0, 2, "B", foreign=True), Keys("ns"))
    registered = [b"reader:7:abc", "/run/ü/redis.sock:0".encode(), b"reader:8:abc", b"/run/\xff:0", b"reader:x:abc", b"junk"]
    installed = answer([1, b"2", b"A", registered, None, None])
    assert installed.readers == (ReaderMark(7, "/run/ü/redis.sock:0", "abc"), ReaderMark(8, "", "abc"))
