"""What a handler may raise to say what is to become of its message. Anything else that it raises goes to the retry policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
        """Take the reason."""
        super().__init__(reason)
        self.reason = str(reason)


class Discard(Exception):
    """Be done with the message: it is acknowledged, and counts as neither failed nor dead."""


class PartialFailure(Exception):
    """From a handler of batches: these messages failed (or are to be retried, discarded…), the others are done.

    Attributes:
        errors: message -> what it failed of; the classes of this module are heeded.
    """

    def __init__(self, errors: Mapping[Message[Any], Exception]) -> None:
        """Take the failures."""
        super().__init__(f"{len(errors)} message(s) failed")
        self.errors = dict(errors)
