"""The step that examines a server. It changes nothing that lasts, and may be repeated."""

from __future__ import annotations

from redisaq.brokers.steps import Step
from redisaq.core.diagnosis import Examination

__all__ = ["Examine"]


class Examine(Step[Examination], frozen=True):
    """Return what the server says of itself, and which rights the user lacks. What may not be asked is left out."""
