"""Payloads for `redisaq produce`: checks that they are JSON, and reads them from standard input as they come.

Invariant: a line never waits for the next one, so what another program writes now and then is sent at once.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TextIO

import anyio
import msgspec

from redisaq.cli.common import USAGE, Refused
from redisaq.core.records import UNREADABLE

BATCH = 1000
"""The most lines of one batch."""

CHUNK = 1 << 20
"""Bytes that are read at once."""


def checked(data: bytes, what: str) -> bytes:
    """Check that bytes are JSON, and return them without the spaces around them.

    Raises:
        Refused: they are not.
    """
    data = data.strip()
    try:
        msgspec.json.decode(data)
    except UNREADABLE as error:
        raise Refused(f"{what} is not JSON ({error}); a text needs quotes of its own: '\"text\"'", USAGE) from error
    return data


async def batches(file: TextIO) -> AsyncGenerator[list[bytes]]:
    """Yield the lines of a file in batches: those together that come together.

    Raises:
        Refused: a line is not JSON. Those before it have been yielded.
    """
    number = 0
    async with aclosing(_read(file.fileno())) as read:
        async for lines in read:
            batch: list[bytes] = []
            for line in lines:
                number += 1
                if line.strip():
                    try:
                        batch.append(checked(line, f"line {number}"))
                    except Refused:
                        if batch:
                            yield batch
                        raise
                if len(batch) == BATCH:
                    yield batch
                    batch = []
            if batch:
                yield batch


async def _read(descriptor: int) -> AsyncGenerator[list[bytes]]:
    rest, waits = b"", True
    while True:
        if waits:
            try:
                await anyio.wait_readable(descriptor)
            except OSError:  # of a file on a disk, all that it has is there
                waits = False
        data = os.read(descriptor, CHUNK)
        *lines, rest = (rest + data).split(b"\n")
        if not data:
            yield [rest]
            return
        yield lines
