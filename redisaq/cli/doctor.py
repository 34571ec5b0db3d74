"""`redisaq doctor`: looks at the server as redisaq needs it, and says what to change."""

from __future__ import annotations

from redisaq.admin import Finding
from redisaq.cli.common import NO, Place, plain, run

HERE = Place()


def doctor(*, place: Place = HERE) -> int:
    """Look at the server as redisaq needs it, and say what to change.

    It looks at version, persistence, memory, access rights, clock, replicas and connections. The exit status is 1 if it finds an error.

    Args:
        place: the server.
    """

    async def look() -> list[Finding]:
        admin = place.admin()
        try:
            return await admin.diagnose()
        finally:
            await admin.close()

    found = run(look)
    errors, warnings = (sum(one.level == level for one in found) for level in ("error", "warning"))
    place.show(found, lambda: [*(line for one in found for line in _lines(one)), f"{errors} error(s), {warnings} warning(s)"])
    return NO if errors else 0


def _lines(finding: Finding) -> list[str]:
    line = f"{finding.level:7}  {finding.about}: {plain(finding.text)}"
    return [line, f"         fix: {plain(finding.fix)}"] if finding.fix else [line]
