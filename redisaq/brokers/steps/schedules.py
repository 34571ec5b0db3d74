"""Steps about the schedules of cron jobs, which are kept in a hash beside the topic of their ticks. Both may be repeated."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from redisaq.brokers.steps import TopicStep

__all__ = ["ReadSchedules", "Schedules", "SetSchedule"]


class Schedules(msgspec.Struct, frozen=True):
    """What is stored of the jobs.

    Attributes:
        now: the server's time in microseconds.
        kept: job -> its stored text, see `core.schedules`.
    """

    now: int
    kept: Mapping[str, bytes]


class ReadSchedules(TopicStep[Schedules], frozen=True):
    """Return what is stored of all jobs whose ticks are in the topic, whether or not it exists."""


class SetSchedule(TopicStep[bool], frozen=True):
    """Store a job's text if the stored one is still what was read; True if it is stored now, also when this step is repeated.

    Attributes:
        job: its name.
        was: what was read; None: nothing was there.
        value: what to store; None: nothing.
    """

    job: str
    was: bytes | None
    value: bytes | None
