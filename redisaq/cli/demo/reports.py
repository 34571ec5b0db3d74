"""What the demo's processes say to each other: one JSON object a line.

A child gets its ChildSettings as the first line of its standard input, then perhaps GO; the end of that input tells it to end. It writes
Reports to its standard output. The URL travels here and not among the arguments, which every user of the machine can read: it may hold a
password.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Backend = Literal["asyncio", "uvloop", "trio"]

GO = b"go\n"


class ChildSettings(msgspec.Struct, frozen=True):
    """What a child is to do. Times are seconds.

    Attributes:
        role: what it is.
        backend: the event loop it runs on.
        url: the server's.
        namespace: the first part of every key.
        topic: where it produces to, or consumes from.
        partitions: that the topic is made with.
        messages: to produce.
        batch: messages of one enqueue.
        pause: between two enqueues.
        work: that a handler takes.
        heartbeat: between two heartbeats.
        ttl: after so long without one a consumer is taken for dead.
    """

    role: Literal["producer", "consumer"]
    backend: Backend
    url: str
    namespace: str
    topic: str
    partitions: int
    messages: int
    batch: int
    pause: float
    work: float
    heartbeat: float
    ttl: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A producer has made its topic; a consumer has its first partitions."""


class Produced(msgspec.Struct, frozen=True, tag=True):
    """The server has taken these messages."""

    ids: list[str]


class Finished(msgspec.Struct, frozen=True, tag=True):
    """The producer has produced everything."""


class Processed(msgspec.Struct, frozen=True, tag=True):
    """A handler has done its work on this message. Said before the handler returns, so before the message is acknowledged."""

    partition: int
    msg_id: str


class Acquired(msgspec.Struct, frozen=True, tag=True):
    """The consumer owns this partition now."""

    partition: int


class Released(msgspec.Struct, frozen=True, tag=True):
    """The consumer owns this partition no more: it gave it back, or (`lost`) its lease ended under it."""

    partition: int
    lost: bool


class Looked(msgspec.Struct, frozen=True, tag=True):
    """From the consumer's statistics: messages under a handler, and read ones that wait for one."""

    in_flight: int
    waiting: int


class Noted(msgspec.Struct, frozen=True, tag=True):
    """Something worth a line happened."""

    text: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The child ends, and why."""

    reason: str


Report = Ready | Produced | Finished | Processed | Acquired | Released | Looked | Noted | Failed

_encoder = msgspec.json.Encoder()
_reports: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)
_settings = msgspec.json.Decoder(ChildSettings)


def encode(message: Report | ChildSettings) -> bytes:
    """Return the message as a line."""
    return _encoder.encode(message) + b"\n"


def decode_report(line: bytes) -> Report:
    """Return the report that a line holds; msgspec.DecodeError otherwise."""
    return _reports.decode(line)


def decode_settings(line: bytes) -> ChildSettings:
    """Return the settings that a line holds; msgspec.DecodeError otherwise."""
    return _settings.decode(line)
