"""Connect to Redis over anyio: shared, reading and subscribed connections, TLS, and reconnection.

The layers above use a Link and nothing of hiredis.
"""

from __future__ import annotations

from redisaq.link.address import Address, ClusterAddress, SentinelAddress, TLSOptions, parse_address, parse_url
from redisaq.link.greeting import CLUSTER, LOGGED_OUT
from redisaq.link.link import Link
from redisaq.link.reading import ReadingConnection
from redisaq.link.resp import Command, pack
from redisaq.link.switchboard import Bell

__all__ = [
    "CLUSTER",
    "LOGGED_OUT",
    "Address",
    "Bell",
    "ClusterAddress",
    "Command",
    "Link",
    "ReadingConnection",
    "SentinelAddress",
    "TLSOptions",
    "pack",
    "parse_address",
    "parse_url",
]
