"""Pulled messages that are kept, given away, dropped, or left by a cancellation: none is stranded, and no loop stalls."""

from __future__ import annotations

import contextlib
import copy
import gc
from collections import Counter
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from redisaq import Consumer, Message, RetryPolicy, events
from redisaq.actors import Supervisor
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.terms import GroupName
from redisaq.consuming.context import Surroundings, inside
from redisaq.consuming.handling import Execution
from redisaq.consuming.owned import OwnedPartition
from redisaq.consuming.pulling import CANCELLED, DROPPED, Offers, PulledDelivery, PullPool
from redisaq.core.in_flight import Claim
from redisaq.errors import NotHandled
from tests.actors.group import IN_VIRTUAL_TIME, Notebook, fresh_url, produce, quick
from tests.actors.scripted import around
from tests.unit.owning import FIELDS, owned_partition, read

pytestmark = IN_VIRTUAL_TIME

RETRY = RetryPolicy(max_attempts=2, backoff=0.02, jitter=False)


@pytest.fixture
def url() -> str:
    return fresh_url()


def failures(notebook: Notebook) -> list[Any]:
    """Return what failed: the message's number is not in an event, so its attempt, and whether it was NotHandled."""
    return [(event.attempt, type(event.error)) for event in notebook.of(events.MessageFailed)]


# -- the loop goes on ----------------------------------------------------------------------------------------------------------------


async def test_a_body_that_was_cancelled_has_failed_once_the_loop_goes_on(url: str) -> None:
    await produce(url, 3)
    notebook = Notebook()
    runs: list[tuple[int, int]] = []
    with anyio.fail_after(10):
        async with quick(url, on_event=notebook.note, retry=RETRY, batch_size=1).messages(until_empty=True) as messages:
            async for message in messages:
                runs.append((message.payload["n"], message.attempt))
                with anyio.move_on_after(0.05):
                    async with message:
                        if message.payload["n"] == 1 and message.attempt == 1:
                            await anyio.sleep(20)
    assert sorted(runs) == [(0, 1), (1, 1), (1, 2), (2, 1)]
    assert failures(notebook) == [(1, NotHandled)]
    assert [str(event.error) for event in notebook.of(events.MessageFailed)] == [CANCELLED]
    assert len(notebook.of(events.MessageRetried)) == 1


@pytest.mark.parametrize("batch_size", [1, 2, 10])
@pytest.mark.parametrize("partitions", [1, 3])
async def test_what_is_passed_over_has_failed_and_the_loop_never_stalls(url: str, batch_size: int, partitions: int) -> None:
    await produce(url, 8, partitions=partitions)
    notebook = Notebook()
    runs: list[tuple[int, int]] = []
    with anyio.fail_after(10):
        async with quick(url, on_event=notebook.note, retry=RETRY, batch_size=batch_size).messages(until_empty=True) as messages:
            async for message in messages:
                runs.append((message.payload["n"], message.attempt))
                if message.attempt == 1:
                    continue
                async with message:
                    pass
    assert sorted(runs) == [(n, attempt) for n in range(8) for attempt in (1, 2)]
    assert failures(notebook) == [(1, NotHandled)] * 8
    assert {str(event.error) for event in notebook.of(events.MessageFailed)} == {DROPPED}


async def test_what_is_always_passed_over_dies(url: str) -> None:
    await produce(url, 3)
    notebook = Notebook()
    with anyio.fail_after(10):
        async with quick(url, on_event=notebook.note, retry=RETRY, batch_size=1).messages(until_empty=True) as messages:
            async for message in messages:
                del message  # a loop holds its last message otherwise, for as long as it waits
    assert len(notebook.of(events.MessageDead)) == 3
    assert sorted(attempt for attempt, _ in failures(notebook)) == [1, 1, 1, 2, 2, 2]


async def test_a_task_that_drops_its_message_while_the_loop_waits_does_not_hold_it_up(url: str) -> None:
    """Nobody says that a message is not referenced any more: the loop that waits looks now and then."""
    await produce(url, 2)
    runs: list[tuple[int, int]] = []

    async def work(message: Message[Any]) -> None:
        runs.append((message.payload["n"], message.attempt))
        await anyio.sleep(0.02)
        if message.attempt == 2:
            async with message:
                pass

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks, quick(url, retry=RETRY, batch_size=1).messages(until_empty=True) as messages:
            async for message in messages:
                tasks.start_soon(work, message)
                del message
    assert sorted(runs) == [(0, 1), (0, 2), (1, 1), (1, 2)]


async def test_a_body_that_is_cancelled_in_another_task_while_the_loop_waits_has_failed_at_once(url: str) -> None:
    """After its pause, and not when the loop next looks by itself."""
    await produce(url, 1)
    runs: list[tuple[int, float]] = []
    kept: list[Message[Any]] = []

    async def work(message: Message[Any]) -> None:
        runs.append((message.attempt, anyio.current_time()))
        with anyio.move_on_after(0.05):
            async with message:
                if message.attempt == 1:
                    await anyio.sleep(20)
        kept.append(message)

    async with anyio.create_task_group() as tasks, quick(url, retry=RETRY).messages(until_empty=True) as messages:
        async for message in messages:
            tasks.start_soon(work, message)
    (first, began), (second, again) = runs
    assert (first, second) == (1, 2)
    assert 0.07 <= again - began < 0.2


async def test_a_message_in_a_cycle_of_references_has_failed_after_the_next_collection(url: str) -> None:
    await produce(url, 1)
    gc.collect()
    gc.disable()
    try:
        async with quick(url, retry=RETRY).messages() as messages:
            message = await messages.__anext__()
            circle: list[Any] = [message]
            circle.append(circle)
            del message, circle
            with anyio.move_on_after(0.2) as scope:
                await messages.__anext__()
            assert scope.cancelled_caught
            gc.collect()
            with anyio.fail_after(5):
                message = await messages.__anext__()
            async with message:
                pass
            assert message.attempt == 2
    finally:
        gc.enable()


class Left:
    """A message whose body was cancelled: it fails once the loop goes on."""

    def __init__(self) -> None:
        self.looked = False

    def hand_out(self) -> None:
        """Be taken by nobody."""

    def look(self) -> None:
        """Fail."""
        self.looked = True


@pytest.mark.parametrize("others", [0, 1])
async def test_a_loop_that_is_cancelled_as_a_body_was_does_not_go_on(others: int) -> None:
    """It was about to wake, so it does not hear of its cancellation by itself; whether it looks at others now and then or not."""
    offers, message = Offers[None](1), Left()
    for _ in range(others):
        offers.left(Left())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(offers.take)
        await anyio.wait_all_tasks_blocked()
        offers.left(message)
        tasks.cancel_scope.cancel()
    assert not message.looked


# -- kept, and given away ----------------------------------------------------------------------------------------------------------------


async def test_messages_may_be_kept_and_entered_later_in_any_order(url: str) -> None:
    await produce(url, 9)
    kept: list[Message[Any]] = []
    handled: list[int] = []
    notebook = Notebook()
    with anyio.fail_after(10):
        async with quick(url, batch_size=3, on_event=notebook.note).messages(until_empty=True) as messages:
            async for message in messages:
                kept.append(message)
                if len(kept) == 3:
                    while kept:
                        async with kept.pop():
                            handled.append(message.payload["n"])
    assert len(handled) == 9
    assert failures(notebook) == []


@pytest.mark.parametrize("batch_size", [1, 4])
async def test_messages_may_be_given_to_other_tasks(url: str, batch_size: int) -> None:
    await produce(url, 30, partitions=3)
    notebook = Notebook()

    async def work(message: Message[Any]) -> None:
        await anyio.sleep(0.001)
        async with message:
            await notebook.handle_slowly(message)

    with anyio.fail_after(10):
        async with (
            anyio.create_task_group() as tasks,
            quick(url, batch_size=batch_size, on_event=notebook.note).messages(until_empty=True) as messages,
        ):
            async for message in messages:
                tasks.start_soon(work, message)
    assert sorted(notebook.numbers) == list(range(30))
    assert notebook.most_running <= batch_size + 1
    assert failures(notebook) == []


async def test_what_is_kept_goes_with_its_partition(url: str) -> None:
    """Another member comes: the partition is drained while a message of it is kept."""
    await produce(url, 2, partitions=2)
    notebook = Notebook()
    second = quick(url)
    with anyio.fail_after(10):
        async with quick(url).messages() as messages, anyio.create_task_group() as tasks:
            kept = [await messages.__anext__() for _ in range(2)]
            tasks.start_soon(second.process, notebook.handle)
            while not notebook.messages:
                await anyio.sleep(0.01)
            (gone,) = [message for message in kept if message.lost]
            async with gone:
                await anyio.sleep(5)
                pytest.fail("it is somebody else's")
            (left,) = [message for message in kept if message is not gone]
            async with left:
                pass
            await second.stop()
    assert [message.attempt for message in notebook.messages] == [1]
    assert notebook.numbers == [gone.payload["n"]]


async def test_a_message_is_entered_once(url: str) -> None:
    await produce(url, 3)
    async with quick(url, retry=RETRY).messages() as messages:
        message = await messages.__anext__()
        async with message:
            with pytest.raises(RuntimeError, match="entered before"):
                await message.__aenter__()
        with pytest.raises(RuntimeError, match="entered before"):
            await message.__aenter__()
        message = await messages.__anext__()
        with anyio.move_on_after(0.01):
            async with message:
                await anyio.sleep(5)
        with pytest.raises(RuntimeError, match="entered before"):
            await message.__aenter__()
        twin = copy.copy(message := await messages.__anext__())
        del message
        with anyio.move_on_after(0.1):
            await messages.__anext__()
        with pytest.raises(RuntimeError, match="nobody referenced it"):
            await twin.__aenter__()


# -- the loop ends ---------------------------------------------------------------------------------------------------------------------


async def work_for_long(message: Message[Any]) -> None:
    async with message:
        await anyio.sleep(20)


async def work_and_wind_up_slowly(message: Message[Any]) -> None:
    """The partition is given back long before the body is left."""
    async with message:
        try:
            await anyio.sleep(20)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.5)


async def goes_on(message: Message[Any], way: str, tasks: TaskGroup) -> bool:
    """Do what the way says with a message in hand; True if the loop goes on then."""
    match way:
        case "error, un-entered":
            raise ValueError("the loop's own")
        case "cancelled, un-entered":
            await anyio.sleep(20)
        case "body cancelled, then break":
            with anyio.move_on_after(0.02):
                await work_for_long(message)
        case "body in a task":
            tasks.start_soon(work_for_long, message)
            return True
        case "cancelled in the body":
            await work_for_long(message)
        case "cancelled in a body that winds up slowly":
            await work_and_wind_up_slowly(message)
        case _:
            pass
    return False


async def ends(url: str, way: str) -> int:
    """Iterate until one message is in hand, and end so; return its attempt."""
    attempts: list[int] = []
    in_hand = anyio.Event()

    async def loop() -> None:
        async with quick(url, retry=RETRY).messages() as messages:
            async for message in messages:
                attempts.append(message.attempt)
                in_hand.set()
                if not await goes_on(message, way, tasks):
                    break

    async def cancel(scope: anyio.CancelScope) -> None:
        await in_hand.wait()
        await anyio.sleep(0.05)
        scope.cancel()

    async with anyio.create_task_group() as outside:
        with anyio.CancelScope() as scope:
            outside.start_soon(cancel, scope)
            try:
                async with anyio.create_task_group() as tasks:
                    await loop()
            except* ValueError:
                pass
    (attempt,) = attempts
    return attempt


@pytest.mark.parametrize("source", ["stream", "retry"])
@pytest.mark.parametrize(
    "way",
    [
        "break, un-entered",
        "error, un-entered",
        "cancelled, un-entered",
        "body cancelled, then break",
        "cancelled in the body",
        "cancelled in a body that winds up slowly",
        "body in a task",
    ],
)
async def test_when_the_loop_ends_no_attempt_is_used(url: str, way: str, source: str) -> None:
    """T5: however often that happens."""
    await produce(url, 1)
    first = 1
    with anyio.fail_after(20):
        if source == "retry":
            async with quick(url, retry=RetryPolicy(backoff=0.0)).messages() as messages:
                async for message in messages:
                    async with message:
                        raise ValueError("once")
                    break
            first = 2
        assert [await ends(url, way) for _ in range(3)] == [first] * 3
        notebook = Notebook()
        await quick(url, retry=RETRY).process(notebook.handle, until_empty=True)
    assert [message.attempt for message in notebook.messages] == [first]


async def test_what_a_cancelled_body_left_is_not_passed_over_when_the_group_is_lost(url: str) -> None:
    """T6: the loop has not asked for the next message yet, and a later one is in hand."""
    await produce(url, 2)
    store = MemoryBroker(url.removeprefix("memory://"), "redisaq").store
    group = GroupName("jobs", "default_group")
    notebook = Notebook()
    with anyio.fail_after(10):
        async with quick(url, on_event=notebook.note).messages() as messages:
            kept = [await messages.__anext__() for _ in range(2)]
            with anyio.move_on_after(0.02):
                async with kept[0]:
                    await anyio.sleep(20)
            store.forget_cursor(group, 0)
            while not notebook.of(events.GroupLost):
                await anyio.sleep(0.01)
        assert kept[1].lost
        again = Notebook()
        await Consumer("jobs", url).process(again.handle, until_empty=True)
    assert Counter(again.numbers) == Counter([0, 1])


# -- one message, and the end of its lease ----------------------------------------------------------------------------------------------


def handed_out(surroundings: Surroundings, owned: OwnedPartition, timeout: float | None = None) -> Message[Any]:
    """Return the first message of a partition, as the loop gets it."""
    (flight,) = read(owned, 1, 1)
    offers: Offers[Message[Any]] = Offers(1)
    message = PulledDelivery(PullPool(Execution(surroundings, owned, None, timeout=timeout), offers), flight).hand_out()
    assert message is not None
    return message


@pytest.mark.parametrize("end", [lambda owned: owned.lease.end(), lambda owned: owned.lose("for this test")], ids=["lease", "lost"])
@pytest.mark.parametrize("error", [None, ValueError("too late"), KeyboardInterrupt()], ids=["returns", "raises", "is interrupted"])
async def test_m4_what_a_body_does_once_the_lease_has_ended_does_not_count(end: Any, error: BaseException | None) -> None:
    """`lost` says so; an interrupt passes all the same."""
    surroundings, _, notebook = around()
    owned = owned_partition()
    message = handed_out(surroundings, owned)
    with pytest.raises(KeyboardInterrupt) if isinstance(error, KeyboardInterrupt) else contextlib.nullcontext():
        async with message:
            end(owned)
            if error is not None:
                raise error
    assert message.lost
    assert owned.flights.left == {b"1-0"}
    assert (owned.flights.running, owned.flights.handled, owned.flights.failures) == (0, 0, 0)
    assert [type(event).__name__ for event in notebook.events] == ["MessageStarted"]
    assert inside.get() is not surroundings


async def test_a_body_that_blocked_until_its_lease_had_ended_is_reported() -> None:
    surroundings, _, notebook = around()
    owned = owned_partition()
    message = handed_out(surroundings, owned)
    async with message:
        within = inside.get()
        owned.lease.end()
        owned.lease.stood_still = 2.5
    assert within is surroundings
    assert [(event.entry_id, event.seconds) for event in notebook.of(events.HandlerBlocked)] == [("1-0", 2.5)]


async def test_a_body_that_is_entered_after_the_drain_has_begun_does_nothing_and_uses_no_attempt() -> None:
    surroundings, _, notebook = around()
    owned = owned_partition()
    message = handed_out(surroundings, owned)
    owned.begin_drain()
    async with message:
        await anyio.sleep(1)
        pytest.fail("it is somebody else's")
    assert message.lost
    assert owned.flights.hand_back() == {b"1-0": 0}
    assert notebook.events == []


@pytest.mark.parametrize(("timeout", "failures"), [(None, 0), (3.0, 1), (30.0, 0)])
async def test_a_body_has_the_time_that_the_consumer_gives(timeout: float | None, failures: int) -> None:
    surroundings, _, notebook = around(retry=RETRY)
    owned = owned_partition()
    message = handed_out(surroundings, owned, timeout)
    began = anyio.current_time()
    async with message:
        await anyio.sleep(10)
    assert anyio.current_time() - began == (3.0 if failures else 10.0)
    assert not message.lost
    assert (owned.flights.failures, owned.flights.handled) == (failures, 1 - failures)
    assert [str(event.error) for event in notebook.of(events.MessageFailed)] == ["the body took longer than 3 s"] * failures


async def test_what_follows_a_body_that_is_cancelled_from_outside_does_not_run() -> None:
    surroundings, _, _ = around()
    owned, followed = owned_partition(), list[bool]()
    message = handed_out(surroundings, owned)
    with anyio.move_on_after(1) as scope:
        async with message:
            await anyio.sleep(10)
        followed.append(True)
    assert scope.cancelled_caught
    assert followed == []
    assert not message.lost


async def test_messages_that_leave_with_their_partition_leave_their_place_to_others() -> None:
    """One is in its body, one is not entered, and one was left by a cancellation."""
    surroundings, _, _ = around()
    offers: Offers[Message[Any]] = Offers(3)
    partitions = [owned_partition(partition=partition) for partition in range(2)]
    pools = [PullPool(Execution(surroundings, owned, None, timeout=None), offers) for owned in partitions]
    cancelled = list[bool]()
    async with Supervisor() as supervisor, anyio.create_task_group() as tasks:
        for pool, owned in zip(pools, partitions, strict=True):
            await supervisor.start(pool)
            await pool.ref.tell(read(owned, 1, 4))

            async def work(message: Message[Any]) -> None:
                async with message:
                    try:
                        await anyio.sleep(100)
                    finally:
                        cancelled.append(True)

            taken = [await offers.take() for _ in range(3)]
            assert {message.partition for message in taken} == {owned.partition}
            tasks.start_soon(work, taken[0])
            await anyio.sleep(1)
            with anyio.move_on_after(1):
                async with taken[1]:
                    await anyio.sleep(100)
            owned.begin_drain()
            await supervisor.stop(pool, timeout=0)
            await anyio.sleep(1)
            assert (len(cancelled), all(message.lost for message in taken)) == (owned.partition + 1, True)
            assert owned.flights.hand_back() == {b"%d-0" % number: 0 for number in range(1, 5)}


async def test_t5_what_was_delivered_before_is_counted_only_once_it_is_wanted() -> None:
    """Else each crash would cost an attempt of one message of each partition that no task had begun."""
    surroundings, broker, _ = around(lambda _step: True)
    owned = owned_partition()
    claim = owned.flights.next_read(0)
    assert isinstance(claim, Claim)
    flights = owned.flights.claimed(claim, [(b"1-0", FIELDS, 1), (b"2-0", FIELDS, 1)], None, 0)
    offers: Offers[Message[Any]] = Offers(5)
    pool = PullPool(Execution(surroundings, owned, None, timeout=None), offers)
    async with Supervisor(stop_timeout=0.0) as supervisor:
        await supervisor.start(pool)
        await pool.ref.tell(flights)
        await anyio.sleep(1)
        assert broker.asked == []
        for count in (1, 2):
            message = await offers.take()
            await anyio.sleep(1)
            assert len(broker.asked) == count
            async with message:
                pass
        assert owned.flights.handled == 2


async def test_s5_a_message_that_is_moved_back_before_it_is_entered_leaves_its_place_to_others() -> None:
    """It comes again; nothing of its first delivery counts, though the partition stays."""
    surroundings, _, notebook = around()
    one, two = owned_partition(), owned_partition(partition=1)
    offers: Offers[Message[Any]] = Offers(1)
    kept: list[Message[Any]] = []
    async with Supervisor(stop_timeout=0.0) as supervisor:
        for owned in (one, two):
            pool = PullPool(Execution(surroundings, owned, None, timeout=None), offers)
            pool.name = f"pool-{owned.partition}"
            await supervisor.start(pool)
            await pool.ref.tell(read(owned, 1, 1 + owned.partition))
            await anyio.sleep(1)
        kept.append(await offers.take())
        one.flights.moved(5, b"0-0", b"1-0")
        async with kept[0]:
            await anyio.sleep(1)
            pytest.fail("it comes again")
        assert kept[0].lost
        with anyio.fail_after(1):
            kept += [await offers.take() for _ in range(2)]  # one, and one more as long as no task works on it
        assert [message.partition for message in kept] == [0, 1, 1]
    assert one.flights.failures == 0
    assert notebook.of(events.MessageFailed) == []
