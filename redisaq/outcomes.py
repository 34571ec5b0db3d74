"""What a handler may raise to say what is to become of its message. Anything else that it raises goes to the retry policy.

A task group in the handler raises what its tasks do as a group: one that stands alone in it is heeded as if it were raised by itself.
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
        """Take the pause; SettingsError if it is no number from 0 to 1e9."""
        self.seconds = check_seconds("RetryAfter", seconds, zero=True)
        super().__init__(f"again in {self.seconds:g} s")


class DeadLetter(Exception):
    """Put the message among the dead letters, now, with this reason.

    Attributes:
        reason: kept with it.
    """

    def __init__(self, reason: str) -> None:
        """Take the reason, of which 1,000 characters are kept."""
        super().__init__(reason)
        self.reason = text_of(reason)


class Discard(Exception):
    """Be done with the message: it is acknowledged, and counts as neither failed nor dead."""


class PartialFailure(Exception):
    """From a handler of batches: these messages failed (or are to be retried, discarded…), the others are done.

    Attributes:
        errors: message -> what it failed of; the classes of this module are heeded.
    """

    def __init__(self, errors: Mapping[Message[Any], Exception]) -> None:
        """Take the failures; SettingsError if one is not of a message, or no exception."""
        super().__init__(f"{len(errors)} message(s) failed")
        self.errors = dict(errors)
        given = cast("dict[object, object]", self.errors)  # callers without types give whatever they have
        for message, error in given.items():
            fits = isinstance(message, Message), isinstance(error, Exception)
            if not all(fits):
                raise SettingsError(f"PartialFailure takes an exception for each message, not {shown(error, 80)} for {shown(message, 80)}")

    def of(self, batch: Collection[Message[Any]]) -> dict[Message[Any], Exception]:
        """Return what failed of a batch.

        If a message is named that is not of it, that is all of it: nobody can tell which was meant, and none is to be lost.
        """
        if self.errors.keys() <= set(batch):
            return self.errors
        reason = SettingsError("PartialFailure names a message that is not of the batch")
        reason.__cause__ = self
        return {message: self.errors.get(message, reason) for message in batch}
