"""What importing the link brings in."""

from __future__ import annotations

import subprocess
import sys


def test_no_event_loop_is_imported() -> None:
    """Which one runs is the caller's choice."""
    program = "import sys, redisaq.link; print([name for name in ('asyncio', 'trio', 'uvloop') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
