"""What the type checkers know of actors: which messages a ref takes, and which answer a question has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_type

from redisaq.actors import Actor, ActorRef, Mailbox, Node, Reply, RestartPolicy, Supervisor


@dataclass
class Add:
    number: int


@dataclass
class Total:
    reply: Reply[int]


@dataclass
class Describe:
    reply: Reply[str]
    width: int


class Adder(Actor[Add | Total | Describe]):
    def __init__(self) -> None:
        super().__init__(name="adder", capacity=8, restart=RestartPolicy(on=(ConnectionError, TimeoutError)))
        self.total = 0

    async def receive(self, message: Add | Total | Describe) -> None:
        match message:
            case Add():
                self.total += message.number
            case Total():
                assert_type(message.reply.set(self.total), bool)
                assert_type(message.reply.deadline, float)
                message.reply.set("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            case Describe():
                message.reply.set(f"{self.total:{message.width}}")

    async def on_lost(self, message: Add | Total | Describe, error: BaseException) -> None: ...


class Lines(Actor[str]):
    async def run(self) -> None:
        assert_type(self.mailbox, Mailbox[str])
        assert_type(await self.mailbox.receive(), str)
        assert_type(self.mailbox.receive_nowait(), str)
        assert_type(await self.mailbox.receive_many(10), list[str])
        assert_type(self.mailbox.hand, Sequence[str])
        async for line in self.mailbox:
            assert_type(line, str)


class Wrong(Actor[str]):
    async def receive(self, message: int) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]


def describe(reply: Reply[str]) -> Describe:
    return Describe(reply, 20)


async def main() -> None:
    async with Supervisor("rest_for_one", name="root", stop_timeout=1.0) as supervisor:
        assert_type(supervisor, Supervisor)
        adder = await supervisor.start(Adder())
        assert_type(adder, ActorRef[Add | Total | Describe])
        await adder.tell(Add(1))
        adder.tell_nowait(Add(1))
        await adder.tell("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert_type(await adder.ask(Total, timeout=5), int)
        assert_type(await adder.ask(describe, timeout=None), str)
        text: str = await adder.ask(lambda reply: Describe(reply, 20), timeout=None)  # a lambda's answer must be declared
        assert_type(text, str)
        await adder.ask(Total)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        await adder.ask(Add, timeout=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

        only_adds: ActorRef[Add] = adder  # a ref that takes more may stand where one that takes less is wanted
        assert_type(only_adds.stopped, bool)
        lines = await supervisor.start(Lines())
        assert_type(lines, ActorRef[str])
        both: ActorRef[str | int] = lines  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
        await supervisor.stop(both)
        assert_type(await supervisor.stop(lines), int)
        assert_type(supervisor.tree(), Node)
        assert_type(supervisor.tree().children, tuple[Node, ...])
        Supervisor("all_for_one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
