"""Describe the faults that a simulation may have: how likely each is, and which ones happened.

This is plain data, checked when it is created; nothing happens here. `fault_source` draws faults, or takes them from a list.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import msgspec

from redisaq.errors import SettingsError
from redisaq.settings import is_number

Kind = Literal[
    "lost_request",
    "disconnect",
    "late_request",
    "lost_reply",
    "failover",
    "slot_loss",
    "silent_request",
    "silent_reply",
    "silent_server",
    "outage",
    "delay",
    "reply_delay",
    "crash",
    "pause",
    "silent_network",
    "silent_notifications",
    "grower_crash",
    "grower_pause",
    "lost_cut",
    "slow_handler",
    "clock_drift",
]

KINDS: tuple[Kind, ...] = get_args(Kind)

OF_OPERATIONS: tuple[Kind, ...] = (
    "lost_request",
    "disconnect",
    "late_request",
    "lost_reply",
    "failover",
    "slot_loss",
    "silent_request",
    "silent_reply",
    "silent_server",
    "outage",
)
"""At most one of these happens to an operation."""

OF_HEARTBEATS: tuple[Kind, ...] = ("crash", "pause", "silent_network", "silent_notifications")
"""At most one of these happens to a heartbeat."""

OF_GROWERS: tuple[Kind, ...] = ("grower_crash", "grower_pause")
"""At most one of these happens to a step of `Simulation.grow`."""

OF_CUTS: tuple[Kind, ...] = ("lost_cut",)
"""What happens to a step that cuts streams, or makes new ones, so that a topic grows."""

SILENCES: tuple[Kind, ...] = ("silent_request", "silent_reply", "silent_network", "silent_notifications", "silent_server")
"""The amount of these is how long nothing is heard, in seconds."""

SERVER = "server"
"""The process to which a drifting clock belongs."""


class Fault(msgspec.Struct, frozen=True):
    """One fault, addressed by its process and the moment in that process's own life, so that it means the same without other faults.

    Attributes:
        who: the name of a member, of a producer ("producer-0" is the first that the scenario created), or "server".
        number: which of the process's operations at the broker, counted from 1 and continued across crashes; for "slow_handler", which of
            its handler runs; 0 for "clock_drift".
        kind: a name as in FaultPlan; "delay" is the way to the server, "reply_delay" the way back.
        amount: seconds for "delay", "reply_delay", "late_request" (how late), "pause", "grower_pause", "slow_handler", "crash" (until the
            member starts again), "failover" and "lost_cut" (how much is forgotten). For "lost_request" and "disconnect": 1 if what was sent
            before on that connection arrives all the same, else 0. For the silent kinds: how long nothing is heard. For "outage": how long
            the server is away. For "slot_loss": which slot, as a share of all slots, from 0 to less than 1. For "clock_drift": how much
            faster the server's clock runs. Otherwise 0.
        time: seconds since the simulation began. It is for information only, and ignored in a list of faults that you pass.
    """

    who: str
    number: int
    kind: Kind
    amount: float = 0.0
    time: float = 0.0


@dataclass(frozen=True)
class FaultPlan:
    """How likely each fault is. All faults are drawn from the simulation's seed.

    Attributes:
        lost_request: per broker operation: it never reaches the server, and the caller gets ConnectionFailed.
        lost_reply: per broker operation: the server carries it out, and the caller gets ConnectionFailed (`maybe_executed`).
        late_request: per broker operation: the caller gets ConnectionFailed at once, and the server carries the operation out later, up to
            5 s, unless its connection was killed meanwhile.
        disconnect: per broker operation: the connection breaks before the operation is sent. Everything else under way on it fails, too.
        failover: per broker operation: a replica is cut off from the server from now on, and takes its place up to `replica_lag` seconds
            later. What was written meanwhile is forgotten, every connection breaks, and client ids start again. At most one failover is
            under way at a time.
        slot_loss: per broker operation: the data of one slot is gone. This is either everything of one partition (stream, leases, delayed,
            retries, dead letters, marks of `dedup_id`), or a topic's coordination (partition count, and each group's members and document).
        replica_lag: the largest number of seconds of writes that a failover forgets.
        silent_request: per broker operation: nothing more is heard on its connection, which breaks up to `silence` seconds later. Neither
            the operation nor what is sent after it on that connection reaches the server.
        silent_reply: the same, but everything reaches the server, which carries it out.
        silent_server: per broker operation: the server stops for up to `silence` seconds, as under SIGSTOP, and answers nobody. Then all
            connections break, and the server carries out what was sent meanwhile.
        outage: per broker operation: the server is away for up to `away` seconds. All connections break, and nobody can connect. Then it is
            back with all its data and a new run id. At most one outage, silence of the server or failover happens at a time.
        silence: the largest number of seconds for which nothing is heard.
        away: the largest number of seconds for which the server is away.
        delay: the least and the most seconds that an operation takes on its way to the server, and on its way back.
        crash: per heartbeat: the member is gone without cleanup, and starts again after up to twice its `heartbeat_ttl`.
        pause: per heartbeat: the member stops for between a half and two and a half times its `heartbeat_ttl`; then its time jumps.
        silent_network: per heartbeat: the member hears nothing on any connection, new ones included, for up to `silence` seconds. Then all
            of them break, and the server carries out what the member sent meanwhile.
        silent_notifications: per heartbeat: no notification reaches the member for up to `silence` seconds, while all its calls are
            answered. Then the connections on which it listens break.
        grower_crash: per step of a process that `Simulation.grow` started: the process is gone before that step, and nothing restarts it.
        grower_pause: per such step: the process stops before it for up to `silence` seconds; then its time jumps.
        lost_cut: per step that cuts streams so that a topic grows: a replica is cut off from the server just before, and takes its place up
            to `replica_lag` seconds later, as with `failover`.
        slow_handler: per message: its handler takes up to twice the `heartbeat_ttl` longer.
        clock_drift: the most by which the server's clock runs faster or slower than the members' clocks: 0.001 is a second in a thousand.
    """

    lost_request: float = 0.0
    lost_reply: float = 0.0
    late_request: float = 0.0
    disconnect: float = 0.0
    delay: tuple[float, float] = (0.0, 0.0)
    crash: float = 0.0
    pause: float = 0.0
    slow_handler: float = 0.0
    clock_drift: float = 0.0
    failover: float = 0.0
    slot_loss: float = 0.0
    replica_lag: float = 1.0
    silent_request: float = 0.0
    silent_reply: float = 0.0
    silent_network: float = 0.0
    silent_notifications: float = 0.0
    silent_server: float = 0.0
    outage: float = 0.0
    silence: float = 6.0
    away: float = 15.0
    grower_crash: float = 0.0
    grower_pause: float = 0.0
    lost_cut: float = 0.0

    def __post_init__(self) -> None:
        """Check every value. Raises SettingsError if one is invalid."""
        for name in (*OF_OPERATIONS, *OF_HEARTBEATS, *OF_GROWERS, *OF_CUTS, "slow_handler"):
            value: object = getattr(self, name)
            if not _is_within(value, most=1.0):
                raise SettingsError(f"{name} is a probability, from 0 to 1, not {value!r}")
        for names in (OF_OPERATIONS, OF_HEARTBEATS, OF_GROWERS):
            if sum(getattr(self, name) for name in names) > 1.0:
                raise SettingsError(f"{', '.join(names)} exclude each other: their sum must not exceed 1")
        try:
            least, most = self.delay
        except (TypeError, ValueError):
            least, most = math.nan, math.nan
        if not (_is_within(least) and _is_within(most) and least <= most):
            raise SettingsError(f"delay is the least and the most in seconds, such as (0.0, 0.2), not {self.delay!r}")
        if not _is_within(self.clock_drift, most=0.1):  # the lease's margin, a sixth, covers this
            raise SettingsError(f"clock_drift must be from 0 to 0.1, not {self.clock_drift!r}")
        for unit, seconds in (("replica_lag", self.replica_lag), ("silence", self.silence), ("away", self.away)):
            if not _is_within(seconds):
                raise SettingsError(f"{unit} is seconds, not {seconds!r}")


def check_faults(faults: object) -> FaultPlan | Sequence[Fault]:
    """Return the given plan or list of faults, or an empty list for None. Raises SettingsError for anything else."""
    if faults is None:
        return ()
    if isinstance(faults, FaultPlan):
        return faults
    if not isinstance(faults, Sequence) or isinstance(faults, str | bytes):
        raise SettingsError(f"faults are a FaultPlan, or a list of Fault as load_faults returns it, not {faults!r}")
    listed = cast("Sequence[Fault]", faults)
    for fault in listed:
        if not isinstance(fault, Fault):
            raise SettingsError(f"a list of faults holds Fault, not {fault!r}")
        if fault.kind not in KINDS:
            raise SettingsError(f"{fault!r}: kind is one of {', '.join(KINDS)}")
        if not _is_within(abs(fault.amount) if fault.kind == "clock_drift" else fault.amount):
            raise SettingsError(f"{fault!r}: amount is a number, 0 or more")
        if fault.kind == "slot_loss" and fault.amount >= 1.0:
            raise SettingsError(f"{fault!r}: amount is a share of the slots, less than 1")
    return listed


def _is_within(value: object, most: float = sys.float_info.max) -> bool:
    """Return whether the value is a number from 0 to `most`; infinity is none."""
    return is_number(value) and 0.0 <= value <= most
