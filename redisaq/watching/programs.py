"""Cron jobs of all programs, as far as they can be read: what is wrong with one program's does not hide the others'."""

from __future__ import annotations

from redisaq.admin import Admin
from redisaq.admin_views import ScheduleInfo
from redisaq.core.schedules import TOPIC_ENDS_WITH
from redisaq.errors import ServerError, SettingsError


async def schedules_of_all(admin: Admin) -> tuple[list[ScheduleInfo], dict[str, str]]:
    """Return the cron jobs of all programs that can be read; and of each other program, why its cannot.

    Raises:
        ConnectionFailed: the server cannot be reached, or does not answer.
    """
    found: list[ScheduleInfo] = []
    broken: dict[str, str] = {}
    for topic in await admin.topics():
        if topic.endswith(TOPIC_ENDS_WITH):
            program = topic.removesuffix(TOPIC_ENDS_WITH)
            try:
                found += await admin.schedules(program)
            except (ServerError, SettingsError) as error:
                broken[program] = str(error)
    return found, broken
