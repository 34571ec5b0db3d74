"""The model of enqueue_world with partitions on several nodes: calls span nodes and end in part, and each node fails over by itself (C).

Node 0 has the topic and the even partitions, node 1 the odd ones. The topic does not grow here: two nodes keep no order between a key's old
and its new partition. A node can be out of reach: then calls to it fail, and what was sent to it
may still be carried out, until it can be reached again, or until its replica has its place, which drops that (C4).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import count
from random import Random
from types import ModuleType
from typing import Any

from redisaq.core import enqueueing
from redisaq.errors import ConnectionFailed
from tests.unit.enqueue_walk import KEYS
from tests.unit.enqueue_world import Call, Line, World

NODES = 2
STEPS = {"go": 35, "arrive": 25, "answer": 20, "start": 4, "tick": 6}
FAULTS = {
    "disconnect": 4.0,
    "lose_touch": 1.5,
    "find_again": 2.0,
    "promote": 2.0,
    "replicate": 1.5,
    "crowd": 2.0,
    "cancel": 0.7,
    "refuse": 0.7,
}


@dataclass(eq=False)
class NodeLine(Line):
    """A connection to one node."""

    node: int = 0


class ClusterWorld(World):
    """A World of several nodes. `without` names a rule that the link does not keep: "C2" or "C4"."""

    def __init__(self, rules: ModuleType = enqueueing, *, without: str = "", **more: Any) -> None:
        super().__init__(rules, **more)
        self._without = without
        self._runs_made = count(NODES)
        self.runs = [f"run-{node}" for node in range(NODES)]
        self._changes = 0
        self.run = self._name_runs()
        self.away: set[int] = set()
        self._open: dict[int, NodeLine] = {}
        self._parts: dict[Call, dict[NodeLine, str]] = {}
        self._began: dict[Call, str] = {}

    def _name_runs(self) -> str:
        return " ".join([str(self._changes), *self.runs])

    @staticmethod
    def node_of(partition: int) -> int:
        """Return where a partition is."""
        return partition % NODES

    def _line_to(self, node: int) -> NodeLine:
        line = self._open.get(node)
        if line is None:
            for old in self.lines:  # the link itself kills what no caller has heard of (rule 12 of the link)
                if isinstance(old, NodeLine) and old.node == node and not self.forbids:
                    old.commands = [command for command in old.commands if not any(command[1] is step for step in self._deserted)]
            line = self._open[node] = NodeLine((next(self._numbers), "here", self.runs[node]), node=node)
            self.lines.append(line)
        return line

    def _begin(self, call: Call) -> None:
        rules = self.rules
        self.knowledge.connected_to(self.run)
        step = call.step = call.enqueue.next(self.now)
        if step is None:
            call.over = True
            return
        self.kinds[type(step).__name__] += 1
        if isinstance(step, rules.Pause | rules.WaitForTurn | rules.WaitForRoom):
            return
        self._began[call] = self.run
        if isinstance(step, rules.Kill):
            self._kill(call, step)
        elif isinstance(step, rules.Send):
            self._send(call, step)
        else:
            nodes = self._nodes_of(step)
            if self.away & set(nodes):
                self._broke(call, (), written=False)
                return
            call.line = self._line_to(nodes[0])
            call.line.commands.append((call, step, 0))

    def _nodes_of(self, step: Any) -> list[int]:
        if isinstance(step, self.rules.Find):
            return [self.node_of(step.partition)]
        if isinstance(step, self.rules.LearnAnchors):
            return [self.node_of(partition) for partition in step.partitions] or [0]
        return [0]

    def _send(self, call: Call, step: Any) -> None:
        call.first = call.first or next(self._firsts)
        call.answers = {}
        nodes = [self.node_of(message.partition) for message in step.messages]
        torn = {line.node for parts in self._parts.values() for line, how in parts.items() if how == "broken"}
        if torn & set(nodes) and self._without != "E4":
            self._broke(call, (), written=False)  # the call that broke there is not over, and what it lacks comes first
            return
        parts = self._parts[call] = {}
        self._sent_in[id(step)] = call.enqueue.generation, step
        for place, node in enumerate(nodes):
            if node not in self.away:
                line = self._line_to(node)
                parts[line] = "under way"
                line.commands.append((call, step, place))
        if self.away & set(nodes):
            parts[NodeLine((0, "", ""), reaches=False)] = "not sent"
        self._end_if_ended(call)

    def _broke(self, call: Call, connections: tuple[Any, ...], *, written: bool, permanent: bool = False) -> None:
        call.step = call.line = None
        error = ConnectionFailed("here", "it broke", maybe_executed=written, permanent=permanent)
        error.of_node = True
        error.another_run = self._began.get(call, self.run) != self.run
        call.enqueue.broke(error, connections)

    def _kill(self, call: Call, step: Any) -> None:
        """Kill where the run is; what went to a node that was replaced needs none (C4)."""
        concerned = [line for line in self.lines if isinstance(line, NodeLine) and line.identity in step.connections]
        held = [line for line in concerned if line.node in self.away and line.identity[2] == self.runs[line.node]]
        if held and self._without != "C4":
            self._broke(call, (), written=False)
            return
        for line in concerned:
            if not self.forbids and line not in held:
                line.reaches, line.commands = False, []
        call.step = None
        call.enqueue.killed(allowed=not self.forbids)

    def _end_if_ended(self, call: Call) -> None:
        """End a call over several nodes when all its parts have ended (C2)."""
        parts = self._parts[call]
        broken = [line for line, how in parts.items() if how == "broken"]
        trouble = bool(broken) or "not sent" in parts.values()
        if "under way" in parts.values() and not (trouble and self._without == "C2"):
            return
        step = call.step
        del self._parts[call]
        if trouble:
            written = set(parts.values()) != {"not sent"}
            self._broke(call, tuple(line.identity for line in broken), written=written)
        else:
            call.step = None
            same = self._began[call] if self._began[call] == self.run else ""
            call.enqueue.sent([call.answers[place] for place in range(len(step.messages))], same)

    def _report(self, call: Call, step: Any, answer: Any, run: str) -> None:
        super()._report(call, step, answer, self._began[call] if self._began[call] == self.run else "")

    def answer(self) -> None:
        """Let the next answer of some node arrive."""
        for node, line in list(self._open.items()):
            if not line.answers:
                if not line.reaches:
                    self._lose(node)
                continue
            call, step, place, answer = line.answers.pop(0)
            if call.step is not step:
                continue
            if isinstance(step, self.rules.Send):
                call.answers[place] = answer
                places = [at for at, message in enumerate(step.messages) if self.node_of(message.partition) == node]
                if all(at in call.answers for at in places):
                    self._parts[call][line] = "done"
                    self._end_if_ended(call)
            else:
                call.step = call.line = None
                self._report(call, step, answer, "")
            return

    def _lose(self, node: int) -> None:
        """Break the connection to a node; what it carried may still arrive."""
        line = self._open.pop(node, None)
        for call in self.calls if line is not None else ():
            if call.step is None:
                continue
            if call.line is line:
                self._broke(call, (), written=True)
            elif line in self._parts.get(call, {}) and self._parts[call][line] == "under way":
                self._parts[call][line] = "broken"
                self._end_if_ended(call)

    def disconnect(self, pick: int, *, server_is_gone: bool = False) -> None:
        """Break the connection to one node."""
        self._lose(pick % NODES)

    def cancel(self, pick: int) -> None:
        """Cancel a caller: all its parts."""
        super().cancel(pick)
        for call in list(self._parts):
            if call.over:
                del self._parts[call]

    def _go(self, call: Call) -> None:
        step = call.step
        super()._go(call)
        if call.step is not step and isinstance(step, self.rules.Send):
            self._parts.pop(call, None)

    # -- nodes -------------------------------------------------------------------------------------------------------------------------

    def lose_touch(self, pick: int) -> None:
        """Let a node be out of reach. What was sent may still be carried out there."""
        self.away.add(pick % NODES)
        self._lose(pick % NODES)

    def find_again(self, pick: int) -> None:
        """Let a node be reached again, the same one."""
        self.away.discard(pick % NODES)

    def promote(self, pick: int) -> None:
        """Let a replica take a node's place: what it never heard of is lost, and what the former one still carries goes nowhere (C4)."""
        node = pick % NODES
        kept = [one for one in self.data.taken if self.node_of(one[1]) != node or one in self.replica.taken]
        self.lost |= {msg_id for msg_id, _ in self.data.taken} - {msg_id for msg_id, _ in kept}
        self.data.taken = kept
        for partition in self.data.streams.keys() & self.replica.streams.keys():
            if self.node_of(partition) == node:
                self.data.streams[partition] = copy.deepcopy(self.replica.streams[partition])
        self._changes += 1
        self.runs[node] = f"run-{next(self._runs_made)}"
        self.run = self._name_runs()
        self.behind = 400 if pick % 3 == 0 else 0
        for line in self.lines:
            if isinstance(line, NodeLine) and line.node == node:
                line.reaches, line.commands = False, []
        self._lose(node)
        self.away.discard(node)
        self.replicate()

    def settle(self) -> None:
        """Let every node be reached; then as in any world."""
        self.away.clear()
        super().settle()


def walk(seed: int, rules: ModuleType = enqueueing, *, without: str = "", steps: int = 300) -> ClusterWorld:
    """Walk, then settle, as enqueue_walk does."""
    random = Random(seed)
    world = ClusterWorld(rules, without=without, trims="nothing", forbids=random.random() < 0.05)
    weights = STEPS | {fault: weight for fault, weight in FAULTS.items() if random.random() < 0.7}
    for action in random.choices(list(weights), list(weights.values()), k=steps):
        pick = random.randrange(1 << 16)
        if action == "start":
            if sum(not call.over for call in world.calls) < 6:
                kind: Any = random.choice(["append"] * 6 + ["delay", "once"])
                world.start(kind, random.choices(KEYS, k=random.choice([1, 2, 4])))
        elif action in ("answer", "replicate"):
            getattr(world, action)()
        elif action == "refuse":
            world.refuse(passing=pick % 2 == 0)
        elif action == "tick":
            world.tick(random.choice([0.1, 0.3, 1.0, 5.0]))
        else:
            getattr(world, action)(pick)
    world.settle()
    return world
