"""Exceptions that a handler may raise to decide what happens to its message. Any other exception goes to the retry policy.

A task group in the handler raises the exceptions of its tasks as a group. If such a group holds a single exception, redisaq treats it as
that exception.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

from redisaq.describing import shown, text_of
from redisaq.errors import SettingsError
from redisaq.message import Message
from redisaq.settings import check_seconds


class RetryAfter(Exception):
    """Try the message again in `seconds`; this attempt does not count.

    Attributes:
        seconds: from 0 to 1e9.
    """

    def __init__(self, seconds: float) -> None:
        """Make the exception; SettingsError if `seconds` is not a number from 0 to 1e9."""
        self.seconds = check_seconds("RetryAfter", seconds, zero=True)
        super().__init__(f"again in {self.seconds:g} s")


class DeadLetter(Exception):
    """Make the message a dead letter now, with this reason.

    Attributes:
        reason: kept with it.
    """

    def __init__(self, reason: str) -> None:
        """Make the exception; 1,000 characters of the reason are kept."""
        super().__init__(reason)
        self.reason = text_of(reason)


class Discard(Exception):
    """Drop the message: it is acknowledged, and counts as neither failed nor dead."""


class PartialFailure(Exception):
    """Raised by a handler of batches: these messages failed (or are to be retried, discarded…), the others are done.

    Attributes:
        errors: message -> its exception; the classes of this module work here, too.
    """

    def __init__(self, errors: Mapping[Message[Any], Exception]) -> None:
        """Make the exception; SettingsError if a key is not a message, or a value is not an exception."""
        if not isinstance(errors, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] -- callers without type checks may pass anything
            raise SettingsError(f"PartialFailure takes a mapping of messages to exceptions, not {shown(errors, 80)}")
        super().__init__(f"{len(errors)} message(s) failed")
        self.errors = dict(errors)
        given = cast("dict[object, object]", self.errors)  # callers without type checks may pass anything
        for message, error in given.items():
            fits = isinstance(message, Message), isinstance(error, Exception)
            if not all(fits):
                raise SettingsError(f"PartialFailure takes an exception for each message, not {shown(error, 80)} for {shown(message, 80)}")

    def of(self, batch: Collection[Message[Any]]) -> dict[Message[Any], Exception]:
        """Return the failures of a batch.

        If a message is named that is not in the batch, the whole batch has failed: it is unknown which one was meant, and none may be lost.
        So has that of a subclass which did not keep the failures.
        """
        try:
            sound = all(issubclass(type(error), Exception) for error in self.errors.values())
        except Exception:  # noqa: BLE001 -- it is the user's class
            sound = False
        if not sound:
            return dict.fromkeys(batch, self)
        if self.errors.keys() <= set(batch):
            return self.errors
        reason = SettingsError("PartialFailure names a message that is not of the batch")
        reason.__cause__ = self
        return {message: self.errors.get(message, reason) for message in batch}


INSTRUCTIONS = (RetryAfter, DeadLetter, Discard, PartialFailure)
"""What says what to do with a message, if a handler raises it."""
