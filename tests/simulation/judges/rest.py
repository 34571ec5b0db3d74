"""What must be true when a simulated group has come to rest, and after its members have left.

Input: the store, the record, the census. Output: a sentence about each thing that is not true.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from redisaq.brokers.memory.shelf import Shelf
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import format_id, parse_id
from redisaq.testing.observing import Process
from redisaq.testing.quiet import document_of
from redisaq.testing.record import Record
from tests.simulation.judges.census import Census


def fates(store: MemoryStore, groups: Sequence[GroupName], record: Record, census: Census, *, forgot: bool) -> list[str]:
    """Report messages that did not end done or dead although nothing is left to do.

    Without a loss of data, `Guarantees` reports most of it.
    """
    dropped, missing = set(record.dropped()), list[str]()
    for group in groups:
        for (topic, partition), entries in record.whereabouts.entries.items():
            if topic != group.topic or topic not in store.topic_names:  # an admin has deleted it
                continue
            ended = census.ended.get((group, partition), {})
            purged = census.purged
            dead = {parse_id(entry.body.entry_id) for entry in (store.shelves.get((group, partition)) or Shelf()).dead_page(b"", 1 << 30)}
            for entry_id, msg_id in entries.items():
                where = f"message {msg_id}, {format_id(entry_id).decode()} of {topic}/{partition}"
                if ended.get(entry_id) == "dead" and entry_id not in dead and ((group, partition), entry_id) not in purged:
                    missing.append(f"{where}, died, and is not among the dead letters of {group.group}")
                elif forgot and entry_id not in ended and msg_id not in dropped:
                    missing.append(f"{where}, is neither done nor dead for {group.group}")
    return missing


def leftovers(
    store: MemoryStore, groups: Sequence[GroupName], incarnations: Mapping[str, Process], expired: Collection[str] = ()
) -> list[str]:
    """Report what is left of members after all have gone and their time has run out.

    The keys of a member that has crashed, or was paused until its lease ran out (`expired`), stay until another member takes them over;
    there may be none left to do that.
    """
    left = [f"{store.blocked_reads} reads still wait at the server"] if store.blocked_reads else []
    if store.connections:
        left.append(f"{store.connections} connections of readers and doorbells are still open")
    known = {*store.topics, *(name for name, _ in store.streams)}
    left += [f"{group} has something, and no topic" for group, _ in {**store.leases, **store.shelves} if group.topic not in known]
    left += [f"{topic} is gone, and has left {what}" for topic, what in _orphans(store)]
    for group in groups:
        left += [f"{group.topic}, {group.group}: {what}" for what in _left_of_group(store, group, incarnations, expired)]
    return left


def _orphans(store: MemoryStore) -> list[tuple[str, str]]:
    """Return what is left of topics that are no more."""
    there = [(topic, "a stream") for topic, _ in store.streams]
    there += [(topic, "delayed messages") for (topic, _), delayed in store.delayed.items() if delayed]
    there += [(topic, "marks of deduplication ids") for topic, _, _ in store.marks]
    there += [(group.topic, "retries or dead letters") for (group, _), shelf in store.shelves.items() if shelf.retry or len(shelf.dead)]
    there += [(group.topic, "a document") for group, state in store.coordination.items() if state.state is not None]
    return [(topic, what) for topic, what in dict.fromkeys(there) if topic not in store.topic_names]


def _left_of_group(store: MemoryStore, group: GroupName, incarnations: Mapping[str, Process], expired: Collection[str]) -> list[str]:
    def gone(incarnation: str) -> bool:
        process = incarnations.get(incarnation)
        return incarnation == "" or process is None or not (process.crashed or incarnation in expired)

    alive = [name for name, expiry in store.members(group).members.items() if expiry > store.now()]
    left = [f"{alive} are still members"] if alive else []
    document = document_of(store, group)
    if document is not None:
        listed = [name for entry in document.members.values() for name in (entry.incarnation, *entry.successors)]
        left += [f"{name} left, and is in the document" for name in listed if name in incarnations and gone(name)]
        left += [f"partition {number} is leased to {name}, who left" for number, name in sorted(document.lease.items()) if gone(name)]
    for (owner, partition), lease in store.leases.items():
        if owner == group and lease.holder and gone(lease.holder):
            left.append(f"{lease.holder} left, and holds partition {partition}")
        if owner == group and lease.readers and not lease.holder:
            left.append(f"nobody holds partition {partition}, and it lists readers: {lease.readers}")
    return left
