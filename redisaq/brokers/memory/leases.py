"""The fencing token beside one partition's data, for one group (T2, T3, M8).

In come an owner's token and incarnation; out goes whether it stands now. What always holds: the token never falls, and it is
kept when the holder lets go.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from redisaq.brokers.base import Installed, ReaderMark


@dataclass
class Lease:
    """Who may touch a partition's pending entries.

    Attributes:
        token: the one that stands, 0 before the first.
        holder: the incarnation that installed it, "" once released.
        readers: connections that may still deliver entries to somebody, oldest first.
        lost: entries that trimming took from the group, as far as anybody has noticed.
    """

    token: int = 0
    holder: str = ""
    readers: list[ReaderMark] = field(default_factory=list[ReaderMark])
    lost: int = 0

    def install(self, token: int, incarnation: str, *, foreign: bool) -> Installed:
        """Let the token stand if the rule T2 allows it, and say what stands."""
        holder = self.holder
        again = token == self.token and incarnation == holder
        free = foreign or holder in ("", incarnation)
        if not again and not (token > self.token and free):
            return Installed(done=False, token=self.token, holder=holder)
        self.token = token
        self.holder = incarnation
        # The predecessor's readers stay listed until they are fenced: an install that is repeated must name them again.
        return Installed(done=True, token=token, holder=holder, readers=tuple(self.readers))

    def release(self) -> None:
        """Let go, keeping the token (M8)."""
        self.holder = ""
        self.readers.clear()
