"""The text of an exception that is not ours: bounded, and never a failure itself.

In: whatever a user's code raised. Out: a str.
"""

from __future__ import annotations

MOST_TEXT = 1000
"""Characters kept of an error's text."""


def text_of(error: Exception) -> str:
    """Return an error's text, bounded; its class is the user's, and so is what makes the text."""
    try:
        return str(error)[:MOST_TEXT]
    except Exception as broken:  # noqa: BLE001 -- whatever it is, the message has failed, and the consumer has not
        return f"<its text cannot be made: {type(broken).__qualname__}>"
