"""What becomes of a message whose handler has ended badly: a pure decision.

In: the policy, the exception, which attempt it was, the server's time, a Random. Out: retry (when), dead, or done. Back-off is
exponential with full jitter (see `backoff`).
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from random import Random
from typing import Literal, cast

from redisaq.core.error_text import MOST_TEXT, text_of
from redisaq.errors import SerializationError
from redisaq.outcomes import DeadLetter, Discard, RetryAfter
from redisaq.settings import RetryPolicy

MOST_TRACEBACK = 8000  # characters kept of an error's traceback


@dataclass(frozen=True)
class Verdict:
    """What becomes of the message.

    Attributes:
        to: "done", "retry" or "dead".
        pause: seconds until the retry.
        used: the attempt counts.
        blocking: the lane waits for the retry.
    """

    to: Literal["done", "retry", "dead"]
    pause: float = 0.0
    used: bool = True
    blocking: bool = False


def judge(policy: RetryPolicy, error: Exception, attempt: int, random: Random) -> Verdict:
    """Return what becomes of a message whose handler raised `error` at its attempt number `attempt` (from 1)."""
    match error:
        case Discard():
            return Verdict("done")
        case DeadLetter():
            return Verdict("dead")
        case RetryAfter(seconds=seconds):
            return Verdict("retry", seconds, used=False, blocking=policy.blocking)
        case _ if attempt >= policy.max_attempts or isinstance(error, policy.give_up_on):
            return Verdict("dead")
        case _:
            return Verdict("retry", policy.pause(attempt, random), blocking=policy.blocking)


def sole(error: Exception) -> Exception:
    """Return what stands alone in a group, or the error itself: a handler's own task group raises even a single error as a group."""
    while isinstance(error, ExceptionGroup):
        group = cast("ExceptionGroup[Exception]", error)
        first, *others = group.exceptions
        if others:
            return group
        error = first
    return error


def exhausted(policy: RetryPolicy, attempt: int) -> bool:
    """True if this attempt must not begin: so many have been begun and never ended, each with its process (a poison message)."""
    return attempt > policy.max_attempts


def describe(error: Exception) -> tuple[str, str, str]:
    """Return an error's qualified class name, its text and its traceback, each bounded."""
    if isinstance(error, DeadLetter):
        return "DeadLetter", error.reason[:MOST_TEXT], ""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(error, SerializationError) and error.__traceback__ is None:
        return name, text_of(error), ""
    lines = "".join(traceback.format_exception(error))
    if len(lines) > MOST_TRACEBACK:
        lines = lines[: MOST_TRACEBACK // 4] + "\n[…]\n" + lines[-MOST_TRACEBACK * 3 // 4 :]
    return name, text_of(error), lines
