"""Sorts the messages that a caller of an Admin names: by their ids, or as messages that it was given before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from redisaq.admin_views import DeadLetterInfo, DeadMessage, DeadSummary, RetryMessage
from redisaq.brokers.terms import GroupName
from redisaq.describing import shown
from redisaq.errors import SettingsError
from redisaq.settings import check_several, check_text

M = TypeVar("M", bound=DeadLetterInfo | RetryMessage)


def split(name: GroupName, ids: Iterable[str | M], kinds: tuple[type[M], ...], what: str) -> tuple[set[str], dict[int, list[M]]]:
    """Sort what a caller names: return the message ids, and by partition the messages themselves.

    Args:
        name: the group.
        ids: message ids, or messages.
        kinds: of which classes messages are.
        what: what messages are called, for errors.

    Raises:
        SettingsError: `ids` is one text, or one of them is of another class or of another group.
    """
    msg_ids: set[str] = set()
    named: dict[int, list[M]] = {}
    for one in check_several("ids", ids):
        if isinstance(one, kinds):
            if (one.topic, one.group) != (name.topic, name.group):
                raise SettingsError(f"this {what} is of group {one.group} of {one.topic}: {one.msg_id}")
            named.setdefault(one.partition, []).append(one)
        elif isinstance(one, str) and one:
            msg_ids.add(check_text("ids", one))
        else:
            raise SettingsError(f"each of ids must be a message id or a {what}, not {shown(one)}")
    return msg_ids, named


def only_one(ids: Sequence[object] | None) -> str:
    """Return the id of the message that is named, if it is a single one; else ""."""
    if ids is None or isinstance(ids, str) or len(ids) != 1:
        return ""
    (one,) = ids
    return str.__str__(one) if isinstance(one, str) else one.msg_id if isinstance(one, RetryMessage | DeadMessage | DeadSummary) else ""
