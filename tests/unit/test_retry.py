"""What becomes of a message whose handler raised, and what is kept of the error. Without a broker."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from redisaq import DeadLetter, Discard, RetryAfter, RetryPolicy
from redisaq.core.retry import Verdict, describe, exhausted, full_jitter, judge, sole
from redisaq.errors import SerializationError

POLICY = RetryPolicy(max_attempts=3, backoff=10.0, factor=3.0, jitter=False, give_up_on=(LookupError,))
BLOCKING = RetryPolicy(max_attempts=3, backoff=10.0, factor=3.0, jitter=False, blocking=True)


class Forgetful(RetryAfter):
    """Does not keep the seconds."""

    def __init__(self) -> None:
        Exception.__init__(self, "later")


class Wordless(DeadLetter):
    """Does not keep the reason."""

    def __init__(self) -> None:
        Exception.__init__(self, "never")


class Both(DeadLetter, Discard):
    """The first that is asked about decides."""


@pytest.mark.parametrize(
    ("error", "attempt", "verdict"),
    [
        (Discard(), 3, Verdict("done")),
        (Both("x"), 1, Verdict("done")),
        (DeadLetter("x"), 1, Verdict("dead")),
        (RetryAfter(0), 3, Verdict("retry", 0.0, used=False)),
        (RetryAfter(7), 1, Verdict("retry", 7.0, used=False)),
        (Forgetful(), 1, Verdict("retry", 10.0)),
        (Forgetful(), 3, Verdict("dead")),
        (ValueError(), 1, Verdict("retry", 10.0)),
        (ValueError(), 2, Verdict("retry", 30.0)),
        (ValueError(), 3, Verdict("dead")),
        (KeyError(), 1, Verdict("dead")),
    ],
)
def test_what_becomes_of_a_message(error: Exception, attempt: int, verdict: Verdict) -> None:
    assert judge(POLICY, error, attempt, Random(0)) == verdict


@pytest.mark.parametrize("error", [ValueError(), RetryAfter(10)])
def test_a_lane_waits_where_the_policy_says_so(error: Exception) -> None:
    assert judge(BLOCKING, error, 1, Random(0)) == Verdict("retry", 10.0, used=not isinstance(error, RetryAfter), blocking=True)


def test_as_many_handlers_begin_as_there_are_attempts() -> None:
    assert [exhausted(POLICY, attempt) for attempt in (1, 3, 4)] == [False, False, True]


def raised(error: Exception) -> Exception:
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


@pytest.mark.parametrize(
    ("error", "kind", "text", "traced"),
    [
        (raised(ValueError("no")), "ValueError", "no", True),
        (raised(DeadLetter("no such customer")), "DeadLetter", "no such customer", False),
        (raised(Wordless()), "DeadLetter", "never", False),
        (raised(SerializationError("unreadable")), "redisaq.errors.SerializationError", "unreadable", True),
        (SerializationError("unreadable"), "redisaq.errors.SerializationError", "unreadable", False),
    ],
)
def test_what_is_kept_of_an_error(error: Exception, kind: str, text: str, traced: Any) -> None:
    """One that redisaq has made and never raised has no traceback; nobody needs that of a DeadLetter."""
    described = describe(error)
    assert described[:2] == (kind, text)
    assert ("test_retry.py" in described[2], described[2] == "") == (traced, not traced)


def test_a_group_of_one_is_that_one() -> None:
    one, two = ValueError(1), ValueError(2)
    assert sole(one) is one
    assert sole(ExceptionGroup("outer", [ExceptionGroup("inner", [one])])) is one
    several = ExceptionGroup("outer", [one, two])
    assert sole(several) is several


@pytest.mark.parametrize(("failed", "bound"), [(1, 0.5), (2, 1.0), (5, 8.0), (33, 0.5 * 2**32), (34, 0.5 * 2**32), (10**6, 0.5 * 2**32)])
def test_the_bound_of_a_wait_doubles_with_each_failure_and_never_overflows(failed: int, bound: float) -> None:
    class Most(Random):
        def uniform(self, a: float, b: float) -> float:
            return a + b

    assert full_jitter(failed, base=0.5, most=1e30, random=Most()) == bound
    assert full_jitter(failed, base=0.5, most=0.25, random=Most()) == 0.25
