"""Steps with which a topic grows, and with which its new partitions wait for the older ones (G).

Invariants: only stand.lua makes or renames a stream. Before it renames one, it notes the cut; under each older name a seal stays forever.
"""

from __future__ import annotations

from redisaq.brokers.redis.commands import Reply, checked, checked_of, not_now, run, run_all, yes
from redisaq.brokers.redis.keys import Keys, decode_history, encode_history
from redisaq.brokers.redis.producing import written_last
from redisaq.brokers.redis.registry import Asked, command, commands
from redisaq.brokers.redis.scripts import Argument, Script
from redisaq.brokers.redis.topics import name_stream, topic_state
from redisaq.brokers.steps import growing as steps
from redisaq.brokers.steps.topics import FORMAT, RENAMED, TopicState
from redisaq.core.records import encode_retry, whole
from redisaq.environment import current_environment
from redisaq.errors import ServerError
from redisaq.link import Caller, Carrier, ReadingConnection, read_info

ANNOUNCE = Script("announce", keys=1, begins_with=("whole", "topic"))
PUBLISH = Script("publish", keys=1, begins_with=("whole", "topic"))
PASSED = Script("passed", keys=3, begins_with=("facts", "above"))
OPEN_BARRIER = Script("open_barrier", keys=1)
ADOPT = Script("adopt", keys=4, begins_with=("this_run",))
TAKE_IN = Script("take_in", keys=5, begins_with=("whole", "this_run"))
DROP_ADOPTED = Script("drop_adopted", keys=2, begins_with=("this_run",))
DROP_TAKEN_IN = Script("drop_taken_in", keys=1, begins_with=("this_run",))
SET_SWEPT = Script("set_swept", keys=1, begins_with=("this_run",))

WAIT_AT_ONCE = 1.0
"""Seconds for which one WAIT blocks its connection at most: a server that is silent meanwhile is noticed soon after."""

ADOPTED_FOR = 7 * 86_400_000
"""Milliseconds for which it is remembered which messages came here, from the last one on: to move them takes far less."""


@command(steps.Announce)
def announce(step: steps.Announce, keys: Keys) -> Asked[TopicState | None]:
    """Note the number that is to come (G1)."""
    asked, question = ANNOUNCE(keys.meta(step.topic), step.generation, step.partitions, FORMAT), keys.ask()
    return asked, lambda reply: topic_state(step.topic, keys, reply, question)


@command(steps.NameStream)
def give_name(step: steps.NameStream, keys: Keys) -> Asked[tuple[int, ...]]:
    """Cut the stream, or make it (G2)."""
    return name_stream(keys, step.topic, step.partition, step.history), lambda reply: decode_history(reply) or step.history


@command(steps.ReadSeal, hears=("WRONGTYPE",))
def read_seal(step: steps.ReadSeal, keys: Keys) -> Asked[tuple[int, ...]]:
    """Return the history in a seal."""
    return (b"GET", keys.stream(step.topic, step.partition, step.cuts)), _seal


def _seal(reply: Reply) -> tuple[int, ...]:
    return () if isinstance(reply, ServerError) else decode_history(reply) or ()


@commands(steps.Replicate)
async def replicate(step: steps.Replicate, link: Caller, keys: Keys) -> bool:
    """Wait for a replica of each server where streams were cut (G7); connections are made only to servers that have one.

    This is a sequence because a script may not wait, and each server confirms its own writes.
    """
    until = current_environment().monotonic() + step.within
    confirmed = [await _is_replicated(node, step, keys, until) for node in await link.nodes() if await _has_replicas(node)]
    return all(confirmed)


async def _has_replicas(server: Carrier) -> bool:
    facts = read_info(await run(server, (b"INFO", b"replication")))
    return bool(whole(facts.get("connected_slaves", "").encode()))


async def _is_replicated(node: Caller, step: steps.Replicate, keys: Keys, until: float) -> bool:
    """Wait until a replica of the node has all that was cut there, or the time is up: over a connection of its own, since WAIT blocks it.

    WAIT waits for what its connection has written. So something is written once more, after all cuts.
    """
    connection = await node.open_reading(keys.stream(step.topic, 0))
    try:
        if not await _written_again(connection, step, keys):
            return True
        return await _is_confirmed(connection, until)
    except ServerError as error:
        if not error.forbidden:
            raise
        return False  # access rules forbid it
    finally:
        connection.abort()


async def _is_confirmed(connection: ReadingConnection, until: float) -> bool:
    """Wait until a replica has what the connection has written, or the time is up."""
    clock = current_environment().monotonic
    while True:
        block = max(0.001, min(WAIT_AT_ONCE, until - clock()))
        confirmed = await connection.read((b"WAIT", 1, round(block * 1000)), block=block)
        if isinstance(confirmed, ServerError) and not confirmed.forbidden:
            raise not_now(confirmed, connection)  # it has become a replica itself: another server has its place
        confirmed = checked(confirmed, connection)
        if int(confirmed) > 0 or clock() >= until:
            return int(confirmed) > 0


async def _written_again(connection: ReadingConnection, step: steps.Replicate, keys: Keys) -> bool:
    """Write to one of the partitions that the node keeps, once more; False if it keeps none of them.

    What is written changes nothing: a server that has taken over may have messages where the seals were.
    """
    for partition in range(step.partitions):
        command = written_last(keys, step.topic, partition)
        (reply,) = await run_all(connection, (command,))
        if not (isinstance(reply, ServerError) and reply.code == "MOVED"):
            await checked_of(command, reply, connection)
            return True
    return False


@commands(steps.ReplicateRun)
async def replicate_run(step: steps.ReplicateRun, link: Caller, keys: Keys) -> bool | None:
    """Wait for a replica of the partition's server (G8).

    This is a sequence because a script may not wait. WAIT waits for what its connection has written, so something is written first.
    """
    until = current_environment().monotonic() + step.within
    connection = await link.open_reading(keys.stream(step.topic, step.partition))
    try:
        if connection.run_id != step.run:
            return None
        if not await _has_replicas(connection):
            return True
        await run(connection, written_last(keys, step.topic, step.partition))
        return await _is_confirmed(connection, until)
    except ServerError as error:
        if not error.forbidden:
            raise
        return True
    finally:
        connection.abort()


@command(steps.Publish)
def publish(step: steps.Publish, keys: Keys) -> Asked[TopicState | None]:
    """Publish the count (G1)."""
    meta, doorbell, history = keys.meta(step.topic), keys.topic_doorbell(step.topic), step.history
    asked, question = PUBLISH(meta, doorbell, step.generation, history[-1], encode_history(history), RENAMED), keys.ask()
    return asked, lambda reply: topic_state(step.topic, keys, reply, question)


@command(steps.ReadPassed)
def read_passed(step: steps.ReadPassed, keys: Keys) -> Asked[steps.Passed]:
    """Tell whether the partition is worked off up to the cut (G5)."""
    share, name = keys.of_partition(step.group, step.partition), keys.number(step.group.topic)
    return PASSED(share.stream, share.retry, share.cuts, step.group.group, step.growth, name, step.most, step.known), _passed


def _passed(reply: Reply) -> steps.Passed:
    done, waiting, oldest = reply
    return steps.Passed(done == 1, waiting, oldest)


@command(steps.ReadBarrier)
def read_barrier(step: steps.ReadBarrier, keys: Keys) -> Asked[int]:
    """Return for which growth the partition is open (G4)."""
    return (b"HGET", keys.of_partition(step.group, step.partition).lease, b"open"), lambda reply: whole(reply) or 0


@command(steps.OpenBarrier)
def open_barrier(step: steps.OpenBarrier, keys: Keys) -> Asked[bool]:
    """Open the partition (G4)."""
    return OPEN_BARRIER(keys.of_partition(step.group, step.partition).lease, step.token, step.growth), yes


@command(steps.CloseBarrier)
def close_barrier(step: steps.CloseBarrier, keys: Keys) -> Asked[None]:
    """Close the partition again (G4)."""
    return (b"HDEL", keys.of_partition(step.group, step.partition).lease, b"open"), lambda _: None


@command(steps.Adopt)
def adopt(step: steps.Adopt, keys: Keys) -> Asked[str | None]:
    """Take over delayed messages (G8)."""
    topic, partition = step.topic, step.partition
    words: list[Argument] = [keys.stream(topic, partition, step.cuts), keys.adopted(topic, partition)]
    words += [keys.delayed(topic, partition), keys.delayed_bodies(topic, partition)]
    words += [keys.partition_doorbell(topic, partition), step.origin, ADOPTED_FOR]
    for message in step.rows:
        words += message
    return ADOPT(*words), bytes.decode


@command(steps.TakeIn)
def take_in(step: steps.TakeIn, keys: Keys) -> Asked[str | None]:
    """Take in dead letters (G8)."""
    group, topic, partition = step.group.group, step.group.topic, step.partition
    share = keys.of_partition(step.group, partition)
    words: list[Argument] = [keys.stream(topic, partition, step.cuts), share.retry, share.retry_bodies, share.lease]
    words += [keys.adopted(topic, partition), keys.partition_doorbell(topic, partition), f"{group}:{step.origin}", ADOPTED_FOR]
    for dead_id, body in step.letters:
        words += [dead_id, body.entry_id, encode_retry(body)]
    return TAKE_IN(*words), bytes.decode


@command(steps.DropAdopted)
def drop_adopted(step: steps.DropAdopted, keys: Keys) -> Asked[int | None]:
    """Drop what was adopted elsewhere (G8)."""
    delayed, bodies = keys.delayed(step.topic, step.partition), keys.delayed_bodies(step.topic, step.partition)
    return DROP_ADOPTED(delayed, bodies, step.run, *step.ids), lambda reply: reply


@command(steps.DropTakenIn)
def drop_taken_in(step: steps.DropTakenIn, keys: Keys) -> Asked[int | None]:
    """Drop what was taken in elsewhere (G8)."""
    return DROP_TAKEN_IN(keys.of_partition(step.group, step.partition).dead, step.run, *step.ids), lambda reply: reply


@command(steps.SetSwept)
def set_swept(step: steps.SetSwept, keys: Keys) -> Asked[bool]:
    """Note that the delayed messages are where they belong (G8)."""
    return SET_SWEPT(keys.cuts(step.topic, step.partition), step.run, step.growth), yes
