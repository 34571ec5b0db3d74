"""What the server's clock shows, as far as its answers tell: pure, and without a clock of its own.

Input: the server's time in an answer, and the local times at which it was asked for and heard. Output: by how many seconds the server's
clock is ahead of the local one.

The server read its clock between the asking and the hearing, so an answer bounds the difference from both sides. The estimate is the lower
bound: estimated from an answer, the server's time is never later than its real time, and what waits for a time of the server never begins
too early. An answer that is heard late (the process was paused, the event loop was blocked) gives a low bound. Then the higher one of an
earlier answer still holds, unless the new answer shows that the server's clock was set back meanwhile.
"""

from __future__ import annotations

import math

SPEED = 0.001
"""Seconds in a second by which the speeds of two clocks may differ: ten times as much as quartz clocks do.

If two clocks differ more, the estimate stays between the bounds of the last answer.
"""


class ServerClock:
    """Estimates the difference between the server's clock and the local one.

    Attributes:
        ahead: the server's seconds less the local ones.
    """

    __slots__ = ("_heard", "ahead")

    def __init__(self) -> None:
        """Begin without an answer."""
        self.ahead = 0.0
        self._heard = -math.inf

    def tell(self, now: int, *, sent: float, heard: float) -> float:
        """Take an answer into account, and return the new estimate.

        Args:
            now: the server's time in the answer, in microseconds.
            sent: the local time at which it was asked for, seconds.
            heard: the local time at which it was heard, seconds.
        """
        least, most = now / 1e6 - heard, now / 1e6 - sent
        before = self.ahead - SPEED * (heard - self._heard)
        self.ahead = before if least < before <= most else least
        self._heard = heard
        return self.ahead
