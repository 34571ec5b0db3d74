"""Who should own which partition: balanced, sticky, the same wherever it is computed.

In: the members' names, how many partitions there are, who is meant to own them now, who cannot read which. Out: who should.

What always holds:
- *able*: nobody is meant to own a partition that he cannot read, while another member can;
- *balanced*: the loads of two members differ by at most one, unless none of the greater one's partitions could go to the other;
- *sticky*: where all can read all, no balanced assignment moves fewer partitions away from a member that is still there (the idea of
  KIP-54);
- *a fixed point*: applied to its own result it changes nothing;
- *deterministic*: it depends on what it is given, never on the order in which it is given. Two members that see the same
  document compute the same target.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping


def assign(
    members: Collection[str], partitions: int, current: Mapping[int, str], unable: Mapping[int, Collection[str]] | None = None
) -> dict[int, str]:
    """Return partition -> member for the partitions 0 to `partitions` - 1.

    Args:
        members: names; what is listed twice counts once.
        partitions: how many there are.
        current: what was meant so far. Members that are gone and partitions outside the range are passed over.
        unable: partition -> members that cannot read it. Where that is all of them, it counts for nothing.

    Returns:
        A member for every partition, in the order of the partitions; nothing if there are no members.
    """
    owned: dict[str, list[int]] = {member: [] for member in sorted(set(members))}
    if not owned:
        return {}
    barred = {partition: owned.keys() & set(names) for partition, names in (unable or {}).items()}
    barred = {partition: names for partition, names in barred.items() if names and len(names) < len(owned)}
    unplaced: list[int] = []
    for partition in range(partitions):
        owner = current.get(partition)
        if owner in owned and owner not in barred.get(partition, ()):
            owned[owner].append(partition)
        else:
            unplaced.append(partition)

    # Those that not everybody can have come first. Each goes to whoever has least.
    for partition in [one for one in unplaced if one in barred]:
        able = owned.keys() - barred[partition]
        owned[min(able, key=lambda member: (len(owned[member]), member))].append(partition)
    hands = [(len(kept), member) for member, kept in owned.items()]
    heapq.heapify(hands)
    for partition in [one for one in unplaced if one not in barred]:
        load, member = hands[0]
        owned[member].append(partition)
        heapq.heapreplace(hands, (load + 1, member))

    while _level(owned, barred):
        pass
    return dict(sorted((partition, member) for member, kept in owned.items() for partition in kept))


def _level(owned: dict[str, list[int]], barred: Mapping[int, Collection[str]]) -> bool:
    """Move one partition from whoever has most to whoever has least, or as near to that as can be; False if that would level nothing."""
    ranks = sorted((len(kept), member) for member, kept in owned.items())
    for most, giver in reversed(ranks):
        if most < ranks[0][0] + 2:
            break
        for least, taker in ranks:
            if most < least + 2:
                break
            for place in range(most - 1, -1, -1):
                if taker not in barred.get(owned[giver][place], ()):
                    owned[taker].append(owned[giver].pop(place))
                    return True
    return False
