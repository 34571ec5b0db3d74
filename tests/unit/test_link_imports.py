"""What importing the link brings in."""

from __future__ import annotations

import subprocess
import sys


def test_redis_and_the_event_loops_are_imported_lazily() -> None:
    """Importing redis takes 0.2 s, which who uses no server need not pay; the event loop is the caller's choice."""
    program = "import sys, redisaq.link; print([name for name in ('redis', 'asyncio', 'trio', 'uvloop') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
