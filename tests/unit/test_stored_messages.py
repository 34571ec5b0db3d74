"""What an Admin makes of messages that redisaq did not write."""

from __future__ import annotations

import pytest

from redisaq.administering.reading import MessageDecoder


@pytest.mark.parametrize("headers", [b'{"a":"\xff"}', b'{"a":"\\ud800"}', b"[" * 100_000, b"7"])
def test_no_headers_make_reading_fail(headers: bytes) -> None:
    found = MessageDecoder("orders", None).entry(3, b"1-1", [b"i", b"m", b"d", b"1", b"h", headers])
    assert (found.msg_id, found.data, found.headers) == ("m", b"1", {})
    assert found.unreadable
