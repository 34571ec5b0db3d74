"""Which faults a simulation may have, and how likely each is.

Plain settings, checked when they are made; nothing here happens. What is not built yet says so at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from redisaq.errors import SettingsError

NOT_BUILT = ("failover", "slot_loss")


@dataclass(frozen=True)
class FaultPlan:
    """How likely each fault is. All are drawn from the simulation's seed.

    Attributes:
        lost_request: per broker operation: it never reaches the server; the caller gets ConnectionFailed.
        lost_reply: it is carried out, and the caller gets ConnectionFailed (`maybe_executed`).
        late_request: the caller gets ConnectionFailed at once, and the server carries the operation out later, up to 5 s, unless its
            connection was killed meanwhile.
        disconnect: the connection breaks before the operation is sent; what else is under way on it fails, too.
        delay: seconds, least and most, that an operation's way to the server and back takes.
        crash: per heartbeat: the member is gone without cleanup, and starts again after a while.
        pause: per heartbeat: the member stands still for between a half and two and a half times its `heartbeat_ttl`; then time jumps.
        slow_handler: per message: its handler takes up to twice the `heartbeat_ttl` longer.
        clock_drift: how much faster or slower than the members' clocks the server's runs, at most: 0.001 is a second in a thousand.
        failover: not built yet: the server's last writes are forgotten.
        slot_loss: not built yet: the data of one partition is forgotten.
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

    def __post_init__(self) -> None:
        """Check every value; SettingsError if one cannot work."""
        for name in ("lost_request", "lost_reply", "late_request", "disconnect", "crash", "pause", "slow_handler", *NOT_BUILT):
            value: float = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise SettingsError(f"{name} is a probability, from 0 to 1, not {value!r}")
            if value and name in NOT_BUILT:
                raise SettingsError(f"{name} is not built yet: it must be 0")
        if self.lost_request + self.lost_reply + self.late_request + self.disconnect > 1.0:
            raise SettingsError("lost_request, lost_reply, late_request and disconnect exclude each other: their sum must not exceed 1")
        least, most = self.delay
        if not 0.0 <= least <= most < float("inf"):
            raise SettingsError(f"delay is the least and the most in seconds, not {self.delay!r}")
        if not 0.0 <= self.clock_drift <= 0.1:  # noqa: PLR2004 -- the lease's margin, a sixth, covers it
            raise SettingsError(f"clock_drift must be from 0 to 0.1, not {self.clock_drift!r}")
