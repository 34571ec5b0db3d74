"""What becomes of a message whose handler failed: a pure decision.

Input: the policy, the exception, the attempt's number, a Random. Output: retry (and when), dead, or done. Back-off is exponential with full
jitter (the name is from the AWS Architecture Blog, 2015): a random wait below a bound that doubles.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal, cast

from redisaq.describing import name_of, text_of, traceback_of
from redisaq.error_groups import members_of
from redisaq.errors import SerializationError
from redisaq.outcomes import DeadLetter, Discard, RetryAfter
from redisaq.settings import RetryPolicy, check_seconds


def full_jitter(attempt: int, *, base: float, most: float, random: Random) -> float:
    """Return how many seconds to wait before try number `attempt` + 1.

    Args:
        attempt: how many tries have failed so far, from 1.
        base: bound of the first wait, seconds.
        most: bound of every wait, seconds.
        random: gives the random numbers.
    """
    return random.uniform(0.0, min(most, base * 2.0 ** min(attempt - 1, 32)))


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
    """Return what becomes of a message whose handler raised `error` at its attempt number `attempt` (from 1).

    Classes match as in an `except` clause: by the bases of the error's own class.
    """
    kind = type(error)
    if issubclass(kind, Discard):
        return Verdict("done")
    if issubclass(kind, DeadLetter):
        return Verdict("dead")
    if issubclass(kind, RetryAfter) and (seconds := _seconds_of(cast("RetryAfter", error))) is not None:
        return Verdict("retry", seconds, used=False, blocking=policy.blocking)
    if attempt >= policy.max_attempts or any(given in kind.__mro__ for given in policy.give_up_on):
        return Verdict("dead")
    return Verdict("retry", policy.pause(attempt, random), blocking=policy.blocking)


def _seconds_of(error: RetryAfter) -> float | None:
    """Return the seconds to wait; None if a subclass did not keep them: then it is a failure like any other."""
    try:
        return check_seconds("RetryAfter", error.seconds, zero=True)
    except Exception:  # noqa: BLE001 -- it is the user's class
        return None


def sole(error: Exception) -> Exception:
    """Return the only exception in a group, or the error itself: a task group in a handler raises even a single error as a group."""
    while len(members := members_of(error)) == 1:
        error = cast("Exception", members[0])
    return error


def exhausted(policy: RetryPolicy, attempt: int) -> bool:
    """Return True if this attempt must not begin: so many have begun and never ended, each with its process (a poison message)."""
    return attempt > policy.max_attempts


def describe(error: Exception) -> tuple[str, str, str]:
    """Return an error's qualified class name, its text and its traceback, each shortened."""
    kind = type(error)
    if issubclass(kind, DeadLetter):
        return "DeadLetter", _reason_of(cast("DeadLetter", error)), ""
    if issubclass(kind, SerializationError) and error.__traceback__ is None:
        return name_of(kind), text_of(error), ""
    return name_of(kind), text_of(error), traceback_of(error)


def _reason_of(error: DeadLetter) -> str:
    """Return the reason; its text if a subclass did not keep the reason."""
    try:
        return text_of(error.reason)
    except Exception:  # noqa: BLE001 -- as above
        return text_of(error)
