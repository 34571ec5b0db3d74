"""HandlerKit: what would become of a message, told by the consumer's own parts."""

from __future__ import annotations

from typing import Any, Literal

import anyio
import msgspec
import pytest

from redisaq import DeadLetter, Discard, Message, PartialFailure, RetryAfter, RetryPolicy, events
from redisaq.errors import PartitionKeyError, SettingsError
from redisaq.testing import HandlerKit, Limits, VirtualTimeExceeded
from tests.conftest import Backend

POLICY = RetryPolicy(max_attempts=3, backoff=10.0, jitter=False, give_up_on=(LookupError,))


@pytest.fixture(params=["trio", "asyncio"])
def backend(request: pytest.FixtureRequest) -> Literal["trio", "asyncio"]:
    chosen: Literal["trio", "asyncio"] = request.param
    return chosen


async def handle(message: Message[Any]) -> None:
    match message.payload:
        case "fails":
            raise ValueError("no")
        case "hopeless":
            raise KeyError("no")
        case "dead":
            raise DeadLetter("no such customer")
        case "discard":
            raise Discard
        case "later":
            raise RetryAfter(7)
        case "slow":
            await anyio.sleep(3600)
        case _:
            pass


def plain(message: Message[Any]) -> None:
    if message.payload == "fails":
        raise ValueError("no")


@pytest.mark.parametrize(
    ("payload", "attempt", "to", "again_in", "next_attempt", "reason"),
    [
        ("well", 1, "done", None, None, ""),
        ("well", 3, "done", None, None, ""),
        ("discard", 1, "done", None, None, ""),
        ("fails", 1, "retry", 10.0, 2, ""),
        ("fails", 2, "retry", 20.0, 3, ""),
        ("fails", 3, "dead", None, None, "ValueError: no"),
        ("hopeless", 1, "dead", None, None, "KeyError: 'no'"),
        ("dead", 1, "dead", None, None, "DeadLetter: no such customer"),
        ("later", 1, "retry", 7.0, 1, ""),
        ("later", 3, "retry", 7.0, 3, ""),
    ],
)
@pytest.mark.parametrize("blocking", [False, True])
def test_one_delivery(
    backend: Literal["trio", "asyncio"],
    *,
    payload: str,
    attempt: int,
    to: str,
    again_in: float | None,
    next_attempt: int | None,
    reason: str,
    blocking: bool,
) -> None:
    kit = HandlerKit(handle, retry=policy(blocking), backend=backend)
    outcome = kit.deliver(payload, attempt=attempt)
    assert (outcome.to, outcome.attempt, outcome.again_in, outcome.next_attempt) == (to, attempt, again_in, next_attempt)
    assert outcome.reason == reason
    assert outcome.blocking == (blocking and to == "retry")
    assert (outcome.error is None) == (payload == "well")
    assert outcome.took == 0.0
    assert isinstance(outcome.events[0], events.MessageStarted)


def policy(blocking: bool) -> RetryPolicy:
    return RetryPolicy(max_attempts=3, backoff=10.0, jitter=False, give_up_on=(LookupError,), blocking=blocking)


@pytest.mark.parametrize("blocking", [False, True])
def test_a_message_that_killed_its_process_each_time(blocking: bool) -> None:
    begun: list[object] = []
    outcome = HandlerKit(begun.append, retry=policy(blocking)).deliver("well", attempt=4)
    assert (outcome.to, outcome.error, begun) == ("dead", None, [])
    assert outcome.reason == "3 handlers were begun on it, and none ended: each time its process did, or lost its lease"


def test_a_timeout(backend: Literal["trio", "asyncio"]) -> None:
    kit = HandlerKit(handle, timeout=60.0, retry=POLICY, backend=backend)
    for timeout, took in ((None, 60.0), (5.0, 5.0)):
        outcome = kit.deliver("slow", timeout=timeout)
        assert (outcome.to, outcome.took, outcome.timed_out, type(outcome.error)) == ("retry", took, True, TimeoutError)
    assert HandlerKit(handle, backend=backend).deliver("slow").took == 3600.0


def test_a_plain_handler(backend: Literal["trio", "asyncio"]) -> None:
    kit = HandlerKit(plain, retry=POLICY, backend=backend)
    assert [kit.deliver(payload).to for payload in ("well", "fails")] == ["done", "retry"]


class Order(msgspec.Struct):
    number: int


def test_payloads_go_through_the_wire() -> None:
    got: list[Message[Any]] = []
    kit = HandlerKit(got.append, payload_type=Order, topic="orders")
    assert kit.deliver({"number": 7}, key="a", headers={"trace": "x"}, timeout=3.0).to == "done"
    assert kit.deliver(Message("orders", Order(8), partition_key="number")).to == "done"
    assert [(one.payload, one.key, dict(one.headers), one.timeout, one.topic, one.attempt) for one in got] == [
        (Order(7), "a", {"trace": "x"}, 3.0, "orders", 1),
        (Order(8), "8", {}, None, "orders", 1),
    ]
    wrong = kit.deliver({"number": "seven"})
    assert (wrong.to, wrong.attempt, wrong.message, len(got)) == ("dead", 0, None, 2)
    assert "int" in wrong.reason
    assert kit.deliver(raw=b"{").to == "dead"
    with pytest.raises(PartitionKeyError):
        kit.deliver({"number": 7}, partition_key="customer")


def test_a_batch(backend: Literal["trio", "asyncio"]) -> None:
    async def handle_many(messages: list[Message[Any]]) -> None:
        raise PartialFailure({messages[1]: DeadLetter("never"), messages[2]: ValueError()})

    kit = HandlerKit(handle_many, batch=True, retry=POLICY, backend=backend)
    assert [outcome.to for outcome in kit.deliver_batch([0, 1, 2])] == ["done", "dead", "retry"]
    with pytest.raises(SettingsError, match="deliver_batch"):
        kit.deliver(0)
    with pytest.raises(SettingsError, match="batch=True"):
        HandlerKit(handle).deliver_batch([0])


def test_a_run_goes_on_until_each_is_done_or_dead(backend: Literal["trio", "asyncio"]) -> None:
    async def sometimes(message: Message[Any]) -> None:
        if message.payload["n"] % 3 == 2 or (message.payload["n"] % 3 == 1 and message.attempt < 3):
            raise ValueError("no")

    kit = HandlerKit(sometimes, retry=POLICY, ordering="key", concurrency=5, backend=backend)
    run = kit.run([{"n": n} for n in range(30)], partitions=3, partition_key="n")
    assert run.dead == [{"n": n} for n in range(2, 30, 3)]
    assert len(run.done) == 20
    assert [fate.attempts for fate in run.fates] == [1, 3, 3] * 10
    assert all(fate.dead_letter is None or fate.dead_letter.error_type == "ValueError" for fate in run.fates)
    assert 30.0 <= run.took < 31.0


def test_a_run_of_batches_and_of_what_cannot_be_read() -> None:
    sizes: list[int] = []

    async def handle_many(messages: list[Message[Any]]) -> None:
        sizes.append(len(messages))

    run = HandlerKit(handle_many, batch=True, batch_size=4, payload_type=int).run([1, 2, "three", 4])
    assert (run.done, run.dead, sum(sizes)) == ([1, 2, 4], ["three"], 3)


@pytest.mark.anyio
async def test_in_a_loop(anyio_backend: Backend) -> None:
    kit = HandlerKit(handle, retry=RetryPolicy(max_attempts=2, backoff=0.0), timeout=0.01)
    assert (await kit.adeliver("slow")).timed_out
    assert (await kit.adeliver("fails")).to == "retry"
    assert (await kit.arun(["well", "fails"])).dead == ["fails"]
    with pytest.raises(RuntimeError, match=r"await kit\.adeliver"):
        kit.deliver("well")


def test_what_cannot_be() -> None:
    with pytest.raises(SettingsError, match="no setting 'concurency'"):
        HandlerKit(handle, concurency=3)  # type: ignore[call-arg]
    with pytest.raises(SettingsError, match="handler must be something that can be called"):
        HandlerKit("handle")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="attempt"):
        HandlerKit(handle).deliver(1, attempt=0)
    with pytest.raises(SettingsError, match="timeout"):
        HandlerKit(handle).deliver(1, timeout=-1)
    with pytest.raises(SettingsError, match="raw must be bytes"):
        HandlerKit(handle).deliver(raw="1")  # type: ignore[arg-type]


def test_an_error_tells_of_the_handler_alone() -> None:
    """What it was raised within would stand above it in every traceback."""
    error = HandlerKit(handle).deliver("fails").error
    assert isinstance(error, ValueError)
    assert error.__context__ is None


def test_a_run_that_never_ends_is_ended(backend: Literal["trio", "asyncio"]) -> None:
    kit = HandlerKit(handle, backend=backend)
    with pytest.raises(VirtualTimeExceeded, match="100 s have passed"):
        kit.run(["later"], limits=Limits(seconds=100))
