"""Who should own which partition: balanced, sticky, the same wherever it is computed.

In: the members' names, how many partitions there are, who is meant to own them now. Out: who should.

What always holds:
- *balanced*: the loads of two members differ by at most one;
- *sticky*: no balanced assignment moves fewer partitions away from a member that is still there (the idea of KIP-54);
- *a fixed point*: applied to its own result it changes nothing;
- *deterministic*: it depends on what it is given, never on the order in which it is given. Two members that see the same
  document compute the same target.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping


def assign(members: Collection[str], partitions: int, current: Mapping[int, str]) -> dict[int, str]:
    """Return partition -> member for the partitions 0 to `partitions` - 1.

    Args:
        members: names; what is listed twice counts once.
        partitions: how many there are.
        current: what was meant so far. Members that are gone and partitions outside the range are passed over.

    Returns:
        A member for every partition, in the order of the partitions; nothing if there are no members.
    """
    owned: dict[str, list[int]] = {member: [] for member in sorted(set(members))}
    if not owned:
        return {}
    unplaced: list[int] = []
    for partition in range(partitions):
        kept = owned.get(current[partition]) if partition in current else None
        (unplaced if kept is None else kept).append(partition)

    # Every balanced assignment gives `share` to each and one more to `extra` of them. A member keeps the most if the extra ones go
    # to those that already have more than a share; who has most comes first, so that a balanced input keeps exactly what it has.
    share, extra = divmod(partitions, len(owned))
    for place, member in enumerate(sorted(owned, key=lambda member: (-len(owned[member]), member))):
        quota = share + 1 if place < extra else share
        unplaced += owned[member][quota:]
        del owned[member][quota:]

    # Nobody is above his quota now, so dealing to whoever has least ends balanced.
    hands = [(len(kept), member) for member, kept in owned.items()]
    heapq.heapify(hands)
    result = {partition: member for member, kept in owned.items() for partition in kept}
    for partition in sorted(unplaced):
        load, member = hands[0]
        result[partition] = member
        heapq.heapreplace(hands, (load + 1, member))
    return dict(sorted(result.items()))
