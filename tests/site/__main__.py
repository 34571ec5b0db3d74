"""`python -m tests.site DIR`: check a site that mkdocs has built there.

Every public name is in the reference, with its parameters, their defaults and the errors that it raises, and no page fetches anything from
another host. mkdocs itself has checked the links. Exit status: 1 if something is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.site import built, public


def main() -> int:
    """Check the site in the directory that the command line names."""
    directory = Path(sys.argv[1])
    entries = built.entries_of(directory)
    wanted = list(public.names())
    missing = [line for name in wanted for line in built.missing(name, entries)]
    foreign = built.fetched_from_elsewhere(directory)
    for line in (*missing, *foreign):
        print(line)
    print(f"{len(wanted)} public names in the reference, {len(missing)} things missing, {len(foreign)} addresses of other hosts")
    return 1 if missing or foreign or not wanted else 0


if __name__ == "__main__":
    sys.exit(main())
