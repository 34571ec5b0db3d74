"""Connect to Redis over anyio: shared, reading and subscribed connections, TLS, and reconnection.

The layers above use a Caller and nothing of hiredis.
"""

from __future__ import annotations

from redisaq.link.address import Address, ClusterAddress, SentinelAddress, TLSOptions, parse_address, parse_url
from redisaq.link.caller import Caller, Carrier, InOrder, key_of
from redisaq.link.greeting import LOGGED_OUT, read_info
from redisaq.link.link import Link
from redisaq.link.reading import ReadingConnection
from redisaq.link.resp import Command, pack
from redisaq.link.switchboard import Bell

__all__ = [
    "LOGGED_OUT",
    "Address",
    "Bell",
    "Caller",
    "Carrier",
    "ClusterAddress",
    "Command",
    "InOrder",
    "Link",
    "ReadingConnection",
    "SentinelAddress",
    "TLSOptions",
    "key_of",
    "pack",
    "parse_address",
    "parse_url",
    "read_info",
]
