"""Describe single faults in words.

Input: a report. Output: one line for each fault that happened: when, to which process, what, and at which operation, as far as the trace
shows it.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisaq.testing.faults import Fault
from redisaq.testing.timeline_story import printable

_NOTES = {
    "lost_request": "the request was lost",
    "lost_reply": "the reply was lost",
    "late_request": "late",
    "disconnect": "the connection broke",
    "silent_request": "silent",
    "silent_reply": "silent, and carried out",
}

_TOLD = {
    "delay": "delay: operation {number} is on its way for {amount} s",
    "reply_delay": "reply_delay: the answer to operation {number} is on its way for {amount} s",
    "late_request": "late_request{at}: carried out {amount} s later",
    "crash": "crash{at}: it starts again {amount} s later",
    "pause": "pause{at}: it stands still for {amount} s",
    "grower_crash": "grower_crash{at}: it is gone",
    "grower_pause": "grower_pause{at}: it stands still for {amount} s",
    "lost_cut": "lost_cut{at}: the last {amount} s are forgotten",
    "slow_handler": "slow_handler: run {number} of a handler takes {amount} s longer",
    "clock_drift": "clock_drift: {amount} s more in a second",
    "failover": "failover{at}: the last {amount} s are forgotten",
    "slot_loss": "slot_loss{at}: the slot at {amount} of all",
    "silent_request": "silent_request{at}: nothing is heard for {amount} s, and nothing arrives",
    "silent_reply": "silent_reply{at}: nothing is heard for {amount} s, but all arrives",
    "silent_network": "silent_network{at}: nothing is heard on any connection for {amount} s",
    "silent_notifications": "silent_notifications{at}: no notification is heard for {amount} s",
    "silent_server": "silent_server{at}: the server stands still for {amount} s",
    "outage": "outage{at}: the server is away for {amount} s",
}
"""The words for each kind of fault; other kinds are described by their names."""


def tell_faults(faults: Sequence[Fault], trace: Sequence[str]) -> list[str]:
    """Return one line for each fault, in their order.

    Args:
        faults: the faults of a run.
        trace: the trace of the same run.
    """
    width = max((len(printable(fault.who)) for fault in faults), default=0)
    return [f"{fault.time:10.3f}  {printable(fault.who):<{width}}  {_what(fault, trace)}" for fault in faults]


def _what(fault: Fault, trace: Sequence[str]) -> str:
    told = _TOLD.get(fault.kind, "{kind}{at}")
    if fault.kind in ("lost_request", "disconnect"):
        told += ", what was sent before arrives" if fault.amount else ", with what was sent before"
    name = _operation(fault, trace)
    at = f" at operation {fault.number}" + (f" ({name})" if name else "")
    return told.format(kind=fault.kind, at=at, number=fault.number, amount=f"{fault.amount:g}")


def _operation(fault: Fault, trace: Sequence[str]) -> str:
    """Return the name of the operation; "" if the trace does not show it.

    The trace shows a request when it is sent, and a reply when it is lost, which may be later.
    """
    note = _NOTES.get(fault.kind)
    start = f" {fault.who} "
    for line in trace if note is not None else ():
        rest, _, outcome = line.rpartition(": ")
        time, _, _ = rest.partition(" ")
        if outcome == note and rest.startswith(start, len(time)) and float(time) >= fault.time - 1e-6:
            return rest[len(time) + len(start) :] if fault.kind == "lost_reply" or float(time) <= fault.time + 1e-6 else ""
    return ""
