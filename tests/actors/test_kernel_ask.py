"""ask: an answer, an error, or ActorStopped, and never a hang."""

from __future__ import annotations

import math
from dataclasses import dataclass

import anyio
import pytest

from redisaq.actors import Actor, ActorRef, ActorStopped, Reply, RestartPolicy, Supervisor
from tests.actors.kernel import until

pytestmark = pytest.mark.anyio


@dataclass
class Double:
    """A question."""

    reply: Reply[int]
    number: int = 21


@dataclass
class Fail:
    """A question that cannot be answered."""

    reply: Reply[int]
    error: Exception


@dataclass
class Later:
    """A question that is answered by the next one."""

    reply: Reply[str]


@dataclass
class Block:
    """A question that is never answered."""

    reply: Reply[None]


Question = Double | Fail | Later | Block


class Oracle(Actor[Question]):
    def __init__(self, restart: RestartPolicy | None = None, capacity: int = 8) -> None:
        super().__init__(restart=restart, capacity=capacity)
        self.later: list[Reply[str]] = []
        self.lost: list[Question] = []
        self.blocked = anyio.Event()

    async def receive(self, message: Question) -> None:
        for reply in self.later:
            reply.set("now")
        self.later.clear()
        if isinstance(message, Double):
            message.reply.set(2 * message.number)
        elif isinstance(message, Fail):
            raise message.error
        elif isinstance(message, Later):
            self.later.append(message.reply)
        else:
            self.blocked.set()
            await anyio.sleep_forever()

    async def on_lost(self, message: Question, error: BaseException) -> None:
        self.lost.append(message)


FORGIVING = RestartPolicy(on=(KeyError,), backoff=0)


async def test_an_answer() -> None:
    async with Supervisor() as supervisor:
        ref = await supervisor.start(Oracle())
        assert await ref.ask(Double, timeout=30) == 42
        assert await ref.ask(lambda reply: Double(reply, 4), timeout=None) == 8


async def test_the_deadline_travels_along() -> None:
    async with Supervisor() as supervisor:
        ref = await supervisor.start(Oracle())
        replies: list[Reply[int]] = []

        def make(reply: Reply[int]) -> Double:
            replies.append(reply)
            return Double(reply)

        before = anyio.current_time()
        await ref.ask(make, timeout=50)
        await ref.ask(make, timeout=None)
        with anyio.fail_after(20):
            await ref.ask(make, timeout=50)
        after = anyio.current_time()
        assert before + 50 <= replies[0].deadline <= after + 50
        assert replies[1].deadline == math.inf
        assert replies[2].deadline <= after + 20


async def test_no_answer_in_time() -> None:
    actor = Oracle()
    async with Supervisor(stop_timeout=0.0) as supervisor:
        ref = await supervisor.start(actor)
        replies: list[Reply[None]] = []

        def make(reply: Reply[None]) -> Block:
            replies.append(reply)
            return Block(reply)

        with pytest.raises(TimeoutError, match=r"supervisor/oracle did not answer within 0\.01 s"):
            await ref.ask(make, timeout=0.01)
        assert not replies[0].wanted
        assert not replies[0].set(None), "nobody gets it any more"


async def test_the_askers_own_scope_wins() -> None:
    async with Supervisor(stop_timeout=0.0) as supervisor:
        ref = await supervisor.start(Oracle())
        with anyio.move_on_after(0.01) as scope:
            await ref.ask(Block, timeout=60)
        assert scope.cancelled_caught


async def test_a_later_answer() -> None:
    async with Supervisor() as supervisor:
        actor = Oracle()
        ref = await supervisor.start(actor)
        answers: list[str] = []

        async def ask() -> None:
            answers.append(await ref.ask(Later, timeout=30))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await until(lambda: actor.later)
            assert await ref.ask(Double, timeout=30) == 42
        assert answers == ["now"]


async def test_the_handlers_error_goes_to_the_asker_and_to_the_policy() -> None:
    actor, error = Oracle(restart=FORGIVING), KeyError("mine")
    async with Supervisor() as supervisor:
        ref = await supervisor.start(actor)
        with pytest.raises(KeyError) as caught:
            await ref.ask(lambda reply: Fail(reply, error), timeout=30)
        assert caught.value is error
        assert await ref.ask(Double, timeout=30) == 42, "it was started again"
        (node,) = supervisor.tree().children
        assert (node.restarts, node.last_error, len(actor.lost)) == (1, error, 1)


async def test_an_error_that_nobody_forgives_leaves_the_supervisor_as_well() -> None:
    error = ValueError("mine")
    seen: list[ValueError] = []
    with pytest.raises(ValueError, match="mine") as caught:  # noqa: PT012 -- it is the block that raises
        async with Supervisor() as supervisor:
            ref = await supervisor.start(Oracle())
            try:
                await ref.ask(lambda reply: Fail(reply, error), timeout=30)
            except ValueError as raised:
                seen.append(raised)
                raise
    assert caught.value is error
    assert all(one is error for one in seen)


async def test_reply_fail() -> None:
    class Refuser(Actor[Double]):
        async def receive(self, message: Double) -> None:
            assert message.reply.wanted
            assert message.reply.fail(LookupError("no"))
            assert not message.reply.set(1), "the first answer counts"

    async with Supervisor() as supervisor:
        ref = await supervisor.start(Refuser())
        with pytest.raises(LookupError, match="no"):
            await ref.ask(Double, timeout=30)
        (node,) = supervisor.tree().children
        assert node.restarts == 0


async def ask_all(ref: ActorRef[Question], errors: list[Exception]) -> None:
    async def ask() -> None:
        try:
            await ref.ask(Double, timeout=None)
        except ActorStopped as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(ask)


async def test_a_stopped_actor_leaves_no_asker_waiting() -> None:
    """One in hand, two in the mailbox, four that wait for room."""
    actor = Oracle(capacity=2)
    errors: list[Exception] = []
    async with Supervisor(stop_timeout=0.0) as supervisor:
        ref = await supervisor.start(actor)
        async with anyio.create_task_group() as tasks:

            async def block() -> None:
                with pytest.raises(ActorStopped):
                    await ref.ask(Block, timeout=None)

            tasks.start_soon(block)
            await actor.blocked.wait()
            tasks.start_soon(ask_all, ref, errors)
            await anyio.wait_all_tasks_blocked()
            assert actor.mailbox.depth == 2
            assert await supervisor.stop(actor) == 2
        assert len(errors) == 6
        assert len(actor.lost) == 0, "to be stopped is no failure"


async def test_a_restart_fails_what_was_taken_and_keeps_what_waits() -> None:
    actor = Oracle(restart=FORGIVING)
    outcomes: list[object] = []
    async with Supervisor() as supervisor:
        ref = await supervisor.start(actor)

        async def later() -> None:
            try:
                await ref.ask(Later, timeout=None)
            except ActorStopped as error:
                outcomes.append(str(error))

        async def fail() -> None:
            with pytest.raises(KeyError):
                await ref.ask(lambda reply: Fail(reply, KeyError("x")), timeout=None)

        async def double() -> None:
            answer = await ref.ask(Double, timeout=None)
            outcomes.append(answer)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(later)
            await until(lambda: actor.later)
            actor.later.clear()  # forgotten: nobody but the kernel can answer it now
            tasks.start_soon(fail)
            await until(lambda: actor.lost)
            tasks.start_soon(double)
    assert sorted(outcomes, key=str) == [42, "actor supervisor/oracle restarted"]


async def test_a_finished_actor_leaves_no_asker_waiting() -> None:
    class Once(Actor[Block]):
        async def run(self) -> None:
            await self.mailbox.receive()

    async with Supervisor() as supervisor:
        ref = await supervisor.start(Once())
        with pytest.raises(ActorStopped):
            await ref.ask(Block, timeout=None)


async def test_an_actor_cannot_ask_itself() -> None:
    class Narcissus(Actor[Double]):
        async def receive(self, message: Double) -> None:
            await self.ref.ask(Double, timeout=30)

    with pytest.raises(RuntimeError, match="supervisor/narcissus asks itself"):  # noqa: PT012 -- it is the block that raises
        async with Supervisor() as supervisor:
            ref = await supervisor.start(Narcissus())
            await ref.ask(Double, timeout=30)


async def test_actors_ask_each_other() -> None:
    class Asker(Actor[Double]):
        def __init__(self, oracle: ActorRef[Double]) -> None:
            super().__init__()
            self.oracle = oracle

        async def receive(self, message: Double) -> None:
            message.reply.set(await self.oracle.ask(lambda reply: Double(reply, message.number), timeout=30))

    async with Supervisor() as supervisor:
        oracle = Oracle()
        asker = await supervisor.start(Asker(oracle.ref))  # its ref can be had before it starts
        await supervisor.start(oracle)
        assert await asker.ask(lambda reply: Double(reply, 3), timeout=30) == 6


async def test_the_same_message_twice_is_refused() -> None:
    async with Supervisor(stop_timeout=0.0) as supervisor:
        ref = await supervisor.start(Oracle())
        question: Block = Block(Reply())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: ref.ask(lambda reply: question, timeout=None))  # noqa: ARG005 -- that is the mistake
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(ValueError, match="a new message each time"):
                await ref.ask(lambda reply: question, timeout=None)  # noqa: ARG005 -- that is the mistake
            tasks.cancel_scope.cancel()


async def test_nothing_is_remembered_of_a_question_that_is_over() -> None:
    """Answered, or not in time: the same message may be asked again."""
    async with Supervisor() as supervisor:
        oracle = await supervisor.start(Oracle())
        question = Double(Reply(math.inf))

        def again(reply: Reply[int]) -> Double:
            question.reply = reply
            return question

        for number in (1, 2):
            question.number = number
            assert await oracle.ask(again, timeout=30) == 2 * number
        with pytest.raises(TimeoutError):
            await oracle.ask(again, timeout=0.0)
        await oracle.ask(again, timeout=30)
