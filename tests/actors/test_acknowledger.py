"""What the acknowledger sends, and what it makes of the answers; when a lease is over, the next owner settles what is done."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from redisaq import DeadLetter, events
from redisaq.actors import Supervisor
from redisaq.brokers.steps.leases import Install, Installed
from redisaq.brokers.steps.settling import Acknowledge, Resolve, Resolved, Settled
from redisaq.consuming.acknowledger import Acknowledger
from redisaq.consuming.owned import OwnedPartition
from redisaq.core.records import Body
from redisaq.errors import ConnectionFailed
from tests.actors.group import IN_VIRTUAL_TIME, Notebook
from tests.actors.scripted import Scripted, around
from tests.unit.owning import FIELDS, owned_partition, read

pytestmark = IN_VIRTUAL_TIME

TOKEN = 1


async def test_what_is_done_after_the_lease_is_forgotten_and_nothing_is_sent() -> None:
    """M4: also where nothing but the clock tells, since the process was paused, and no other partition is owned."""
    acknowledger = Acknowledger(cast("Any", SimpleNamespace(broker=None, group=None)))
    owned = owned_partition(ring=acknowledger.ring)
    async with Supervisor() as supervisor:
        await supervisor.start(acknowledger)
        done = read(owned, 1, 2)
        assert owned.flights.start_new(done)
        owned.lease.deadline = anyio.current_time() - 1
        owned.flights.returned_all(done)
        owned.changed()
        assert (owned.dirty, owned.flights.unsettled) == (True, 2)
        with anyio.fail_after(10):
            await owned.wait_settled()
        assert (owned.dirty, owned.flights.unsettled) == (False, 0)


def acknowledging(answer: Callable[[Any], Any]) -> tuple[Acknowledger, Scripted, Notebook]:
    surroundings, broker, notebook = around(answer)
    return Acknowledger(surroundings), broker, notebook


def handled(owned: OwnedPartition, first: int, last: int) -> None:
    """Let the handlers of some new messages return."""
    done = read(owned, first, last)
    assert owned.flights.start_new(done)
    owned.flights.returned_all(done)
    owned.changed()


def failed(owned: OwnedPartition, to: str, source: str = "stream") -> None:
    """Let the handler of one message fail, so that it goes there."""
    if source == "stream":
        (message,) = read(owned, 1, 1)
    else:
        (message,) = owned.flights.due([Body(b"1-0", FIELDS, attempt=1)], 0)
        assert owned.flights.prepare([message]) is not None
        assert owned.flights.noted(message, found=True)
    owned.flights.start(message)
    owned.flights.failed(message, DeadLetter("no use") if to == "dead" else ValueError("later"), 0, Random(1))
    owned.changed()


async def test_one_script_acknowledges_two_thousand_at_most() -> None:
    acknowledger, broker, _ = acknowledging(lambda step: Settled(done=True, token=step.token))
    owned = owned_partition(window=10_000, ring=acknowledger.ring)
    handled(owned, 1, 4001)
    async with Supervisor() as supervisor:
        await supervisor.start(acknowledger)
        with anyio.fail_after(10):
            await owned.wait_settled()
    assert broker.writes == [3], "in one write"
    assert [len(step.entry_ids) for step in broker.of(Acknowledge)] == [2000, 2000, 1]
    assert [entry for step in broker.of(Acknowledge) for entry in step.entry_ids] == [b"%d-0" % number for number in range(1, 4002)]


@pytest.mark.parametrize("first", ["acknowledged", "retried"])
async def test_what_one_partition_has_settled_does_not_wait_for_another(first: str) -> None:
    go_on = [anyio.Event(), anyio.Event()]

    async def answer(step: Any) -> Any:
        await go_on[step.partition].wait()
        if isinstance(step, Acknowledge):
            return Settled(done=True, token=TOKEN)
        return Resolved(done=True, token=TOKEN, moved=(True,))

    acknowledger, _, _ = acknowledging(answer)
    one, two = (owned_partition(ring=acknowledger.ring, partition=partition) for partition in range(2))
    if first == "acknowledged":
        handled(one, 1, 3)
    else:
        failed(one, "retry")
    failed(two, "dead")
    async with Supervisor() as supervisor:
        await supervisor.start(acknowledger)
        for owned, event in zip((one, two), go_on, strict=True):
            assert not two.flights.settled_all
            with anyio.fail_after(1):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(owned.wait_settled)
                    await anyio.wait_all_tasks_blocked()
                    event.set()


async def test_what_is_done_while_the_answer_is_on_its_way_is_settled_next() -> None:
    go_on = anyio.Event()

    async def answer(_step: Any) -> Any:
        await go_on.wait()
        return Settled(done=True, token=TOKEN)

    acknowledger, broker, _ = acknowledging(answer)
    owned = owned_partition(ring=acknowledger.ring)
    handled(owned, 1, 2)
    async with Supervisor() as supervisor:
        await supervisor.start(acknowledger)
        await anyio.sleep(1)
        handled(owned, 3, 4)
        go_on.set()
        with anyio.fail_after(1):
            await owned.wait_settled()
        await anyio.sleep(1)
    assert [step.entry_ids for step in broker.of(Acknowledge)] == [[b"1-0", b"2-0"], [b"3-0", b"4-0"]]
    assert not owned.dirty


@pytest.mark.parametrize(
    ("first", "reports"),
    [
        (Resolved(done=False, token=0), 0),  # T2: the token was lost, and is installed again
        (ConnectionFailed("redis://", "nothing was sent"), 0),
        (ConnectionFailed("redis://", "no answer", maybe_executed=True), 1),
    ],
    ids=["refused", "not sent", "perhaps done"],
)
async def test_s1_what_is_found_settled_is_reported_only_if_an_earlier_try_may_have_done_it(first: Any, reports: int) -> None:
    answers = [first, Resolved(done=True, token=TOKEN, moved=(False,))]

    def answer(step: Any) -> Any:
        return Installed(done=True, token=TOKEN, holder="me") if isinstance(step, Install) else answers.pop(0)

    acknowledger, _, notebook = acknowledging(answer)
    owned = owned_partition(ring=acknowledger.ring)
    failed(owned, "dead")
    async with Supervisor() as supervisor:
        await supervisor.start(acknowledger)
        with anyio.fail_after(10):
            await owned.wait_settled()
    assert not answers
    assert len(notebook.of(events.MessageDead)) == reports


@pytest.mark.parametrize(
    ("to", "source", "moved", "rings"),
    [
        ("retry", "stream", True, 1),
        ("retry", "retry", True, 1),
        ("dead", "stream", True, 0),
        ("dead", "stream", False, 0),
        ("dead", "retry", True, 0),
        ("dead", "retry", False, 1),  # it may be there under another attempt
    ],
)
async def test_the_retry_timer_looks_after_what_was_postponed_or_not_found_in_retry(
    to: str, source: str, rings: int, *, moved: bool
) -> None:
    acknowledger, broker, notebook = acknowledging(lambda _step: Resolved(done=True, token=TOKEN, moved=(moved,)))
    owned = owned_partition(ring=acknowledger.ring)
    rung: list[bool] = []
    owned.ring_timer = lambda: rung.append(True)
    failed(owned, to, source)
    async with Supervisor() as supervisor:
        await supervisor.start(acknowledger)
        with anyio.fail_after(10):
            await owned.wait_settled()
    assert len(rung) == rings
    ((resolution,),) = [step.resolutions for step in broker.of(Resolve)]
    assert (resolution.to, resolution.source) == (to, source)
    assert [type(event).__name__ for event in notebook.events] == (["MessageRetried" if to == "retry" else "MessageDead"] if moved else [])
    for event in notebook.of(events.MessageRetried):
        assert not event.blocking


@pytest.mark.parametrize("kind", ["done", "dead"])
@pytest.mark.parametrize(
    ("token", "installs", "lost"),
    [(0, 1, False), (TOKEN, 0, True), (TOKEN + 1, 0, True)],
    ids=["lost by the server", "its own", "another owner's"],
)
async def test_a_refusal_is_final_unless_the_server_has_lost_the_token(kind: str, token: int, installs: int, *, lost: bool) -> None:
    """T2: then the token is installed, and the same is sent again. The other partition notices nothing."""
    refused: list[Any] = []

    def answer(step: Any) -> Any:
        if isinstance(step, Install):
            return Installed(done=True, token=TOKEN, holder="me")
        first = step.partition == 0 and not refused
        if first:
            refused.append(step)
        if isinstance(step, Acknowledge):
            return Settled(done=not first, token=token)
        return Resolved(done=not first, token=token, moved=() if first else (True,))

    acknowledger, broker, _ = acknowledging(answer)
    one, two = (owned_partition(ring=acknowledger.ring, partition=partition) for partition in range(2))
    for owned in (one, two):
        if kind == "done":
            handled(owned, 1, 2)
        else:
            failed(owned, "dead")
    async with Supervisor() as supervisor:
        await supervisor.start(acknowledger)
        with anyio.fail_after(10):
            await one.wait_settled()
            await two.wait_settled()
    assert len(broker.of(Install)) == installs
    assert one.lost == ("its settling was refused: another token is current" if lost else "")
    assert not two.lost
    steps = [step for _, step in broker.asked if step.partition == 0 and not isinstance(step, Install)]
    assert steps == refused * (1 if lost else 2)


async def test_s1_acknowledgements_whose_answer_is_lost_are_sent_again_before_those_that_came_later() -> None:
    answers: list[Any] = [ConnectionFailed("redis://", "no answer", maybe_executed=True), Settled(done=True, token=TOKEN)]

    async def answer(_step: Any) -> Any:
        await anyio.sleep(1)
        return answers.pop(0)

    acknowledger, broker, _ = acknowledging(answer)
    owned = owned_partition(ring=acknowledger.ring)
    handled(owned, 1, 2)
    async with Supervisor() as supervisor:
        await supervisor.start(acknowledger)
        await anyio.sleep(0.5)
        handled(owned, 3, 3)
        with anyio.fail_after(10):
            await owned.wait_settled()
    assert [step.entry_ids for step in broker.of(Acknowledge)] == [[b"1-0", b"2-0"], [b"1-0", b"2-0", b"3-0"]]
    assert owned.flights.unsettled == 0


async def test_m4_nothing_is_asked_for_a_partition_whose_lease_ends_while_another_is_settled() -> None:
    async def answer(_step: Any) -> Any:
        await anyio.sleep(1)
        return Resolved(done=True, token=TOKEN, moved=(True,))

    acknowledger, broker, _ = acknowledging(answer)
    one, two = (owned_partition(ring=acknowledger.ring, partition=partition) for partition in range(2))
    two.lease.deadline = anyio.current_time() + 0.5
    for owned in (one, two):
        failed(owned, "dead")
    async with Supervisor() as supervisor:
        await supervisor.start(acknowledger)
        with anyio.fail_after(10):
            await one.wait_settled()
            await two.wait_settled()
    assert [step.partition for step in broker.of(Resolve)] == [0]
    assert two.flights.unsettled == 0
