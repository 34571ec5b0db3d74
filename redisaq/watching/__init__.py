"""Watches topics and groups: one Sampler looks at the server, and every page and terminal shows its snapshots.

Input: reports of Admin. Output: frozen snapshots, with rates, ages, curves, and sentences about what needs attention. One process needs one
Sampler, regardless of how many people look.
"""

from __future__ import annotations

from redisaq.watching.sampler import Sampler, Watching
from redisaq.watching.snapshot import (
    Attention,
    Curve,
    Curves,
    GroupView,
    HistoryView,
    MemberView,
    PartitionView,
    RunningView,
    Screen,
    ServerView,
    Snapshot,
    TopicView,
    Totals,
)

__all__ = [
    "Attention",
    "Curve",
    "Curves",
    "GroupView",
    "HistoryView",
    "MemberView",
    "PartitionView",
    "RunningView",
    "Sampler",
    "Screen",
    "ServerView",
    "Snapshot",
    "TopicView",
    "Totals",
    "Watching",
]
