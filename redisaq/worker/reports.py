"""What a parent and its child send each other over their pipe: one job to the child, then reports to the parent.

Each message is msgpack, with its length before it.
"""

from __future__ import annotations

import socket
from typing import Literal, TypeAlias

import msgspec
from anyio.abc import ByteSendStream
from anyio.streams.buffered import BufferedByteReceiveStream

HEAD = 4  # bytes of a length
MOST_BYTES = 1 << 26
"""The longest report."""

Backend: TypeAlias = Literal["asyncio", "uvloop", "trio"]
LogFormat: TypeAlias = Literal["text", "json"]


class Job(msgspec.Struct, frozen=True):
    """What a child is to do. It travels over the pipe because the URL may hold a password, and environments are inherited.

    Attributes:
        app: where the App is, as MODULE:NAME.
        child: the child's number, from 1.
        processes: how many children there are.
        backend: the event loop.
        url: the server's URL; None: the App's own.
        log: the format of log lines; None: text, unless the program sets up logging itself.
        measure: count for /metrics.
        backlog: seconds between two measurements of the groups' backlogs; None: they are not measured.
        pulse: seconds between two reports.
        counts: the file descriptor of the file to count in, so that the parent has what was counted if this process is killed; None: it
            counts in memory of its own.
    """

    app: str
    child: int
    processes: int
    backend: Backend
    url: str | None
    log: LogFormat | None
    measure: bool
    backlog: float | None
    pulse: float
    counts: int | None = None


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One value of a metric."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric with all its values, as Prometheus's clients call it."""

    name: str
    kind: str
    text: str
    samples: list[Sample]


class ConsumerView(msgspec.Struct, frozen=True):
    """One consumer of a child, for /status.

    Attributes:
        topic: the topic that it consumes.
        group: its group.
        state: see `ConsumerStatistics`.
        member: its incarnation.
        partitions: those it owns.
        running: messages in a handler.
        waiting: messages read, waiting for a handler.
        handled: handlers that returned.
        failed: handlers that raised.
        trimmed: entries that trimming took before they were done with.
        connected: the server answers.
        last_heartbeat: seconds since the last heartbeat that was answered.
    """

    topic: str
    group: str
    state: str
    member: str
    partitions: list[int]
    running: int
    waiting: int
    handled: int
    failed: int
    trimmed: int
    connected: bool
    last_heartbeat: float | None


class Pulse(msgspec.Struct, frozen=True, tag="pulse"):
    """A regular report: the child's event loop turns.

    Attributes:
        state: "starting" until every consumer has its first assignment, then "serving"; "draining" after it was asked to stop.
        ready: it serves, and every consumer is connected and has joined, or waits for its topic.
        consumers: what each consumer looks like.
        metrics: every metric of the process.
        attention: what needs attention in the App's namespace, as sentences; only the child that measures backlogs knows.
    """

    state: Literal["starting", "serving", "draining"]
    ready: bool
    consumers: list[ConsumerView]
    metrics: list[Family]
    attention: list[str] = []


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The child cannot run the program.

    Attributes:
        status: the exit status to end with: 2 if what was asked for is wrong, 1 if the program failed (and its traceback has been logged).
        reason: why, as a sentence.
    """

    status: int
    reason: str


Report: TypeAlias = Pulse | Refused

_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Pulse | Refused)


def framed(message: Job | Report) -> bytes:
    """Return a message as it travels."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(HEAD, "big") + body


async def send(stream: ByteSendStream, message: Job | Report) -> bool:
    """Send a message; wait while the other side does not read. Return whether it was sent whole.

    A report that is too long, or cannot be written, loses its metrics.
    """
    if not isinstance(message, Pulse):
        await stream.send(framed(message))
        return True
    try:
        data = framed(message)
    except UnicodeEncodeError:  # a label of the program's metrics has a lone surrogate
        data = b""
    whole = 0 < len(data) <= MOST_BYTES
    await stream.send(data if whole else framed(msgspec.structs.replace(message, metrics=[])))
    return whole


async def receive(stream: BufferedByteReceiveStream) -> Report:
    """Return the next report.

    Raises:
        anyio.IncompleteRead, anyio.ClosedResourceError, anyio.BrokenResourceError: the child has ended.
        ValueError: this is no report.
    """
    length = int.from_bytes(await stream.receive_exactly(HEAD), "big")
    if length > MOST_BYTES + HEAD:
        raise ValueError(f"a report of {length} bytes")
    return _reports.decode(await stream.receive_exactly(length))


def read_job(pipe: socket.socket) -> Job:
    """Return the job, in a child that has no event loop yet.

    Raises:
        ConnectionError: the parent is gone.
    """
    return msgspec.msgpack.decode(_read(pipe, int.from_bytes(_read(pipe, HEAD), "big")), type=Job)


def _read(pipe: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = pipe.recv(size - len(data))
        if not more:
            raise ConnectionError("the parent is gone")
        data += more
    return data
