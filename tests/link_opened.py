"""A link for one block of a test, closed at its end."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from redisaq.link import Link, parse_address


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncGenerator[Link]:
    """Give a link to a server, with these options of Link."""
    link = Link(parse_address(url), **options)
    try:
        yield link
    finally:
        await link.close()
