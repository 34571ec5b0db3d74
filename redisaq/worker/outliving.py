"""The file in which a child counts, so that its parent has every count if the child is killed between two reports.

The parent makes the file, which has no name, and hands its descriptor on. The child maps it; the kernel keeps what was stored.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import struct
import tempfile
from typing import BinaryIO

import msgspec

from redisaq.integrations.counts import SIZE, read
from redisaq.worker.reports import Family, Sample

logger = logging.getLogger("redisaq.worker")


def file_to_count_in() -> BinaryIO | None:
    """Return a file for the counts of a child; None if there is no place for it."""
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(tempfile.TemporaryFile())
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(file.fileno(), 0, SIZE)  # else a disk that is full later kills the child that counts (SIGBUS)
            else:
                os.ftruncate(file.fileno(), SIZE)
            stack.pop_all()  # the caller closes it
    except OSError as error:
        logger.warning("no temporary file (%s): if a child is killed, /metrics lacks what it counted since its last report", error)
        return None
    return file


def mapped(file: int) -> memoryview:
    """Return the file's bytes, to count in; close the descriptor, so that no process that the program starts has it."""
    memory = memoryview(mmap.mmap(file, SIZE))
    os.close(file)
    return memory


def counted_in(file: int) -> list[Family]:
    """Return what a child has counted in this file."""
    found: dict[str, Family] = {}
    try:
        for series, cells in read(os.pread(file, SIZE, 0)):
            family = found.setdefault(series.name, Family(series.name, series.kind, series.text, []))
            family.samples.extend(Sample(*one) for one in series.samples(cells))
    except (OSError, ValueError, IndexError, struct.error, msgspec.MsgspecError):  # the program has written there
        logger.exception("what a child has counted cannot be read: /metrics lacks what it counted since its last report")
        return []
    return list(found.values())
