"""The project's own judges of a simulation: they check the rules of docs/understand/protocol.md, and much else that users need not know.

`Guarantees` of `redisaq.testing` checks what a user is promised: one owner, one handler per lane, nothing again once done, order, nothing
lost. These judges check the reasons: the state of each message and how it came there (`census`), its attempts (`histories`), the token
under which it was settled (`court`), what exactly a loss of data excuses (`losses`), what comes in time (`promptness`, `lanes`,
`ownership`), what is reported (`truth`), what is left (`rest`), what is requested while nothing happens (`idleness`), what is counted
(`numbers`).
"""

from __future__ import annotations

from collections.abc import Callable

from redisaq.testing.record import Record
from tests.simulation.judges.court import Court, Judge
from tests.simulation.judges.idleness import Idleness
from tests.simulation.judges.lanes import Lanes
from tests.simulation.judges.numbers import Numbers
from tests.simulation.judges.ownership import Ownership
from tests.simulation.judges.promptness import Promptness
from tests.simulation.judges.truth import Contents, Events, Failures

__all__ = ["JUDGES", "PROJECT", "project"]

JUDGES: tuple[Callable[[Court], Judge], ...] = (Promptness, Contents, Failures, Events, Ownership, Lanes, Idleness, Numbers)


def project(record: Record) -> Court:
    """Return all of them, as one observer."""
    court = Court(record)
    court.judges = [make(court) for make in JUDGES]
    return court


PROJECT = (project,)
"""For `simulate(..., observers=PROJECT)`."""
