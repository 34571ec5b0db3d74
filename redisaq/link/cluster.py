"""The link to a cluster: one Link for each node, and a map of the slots that is looked up again when something was wrong.

It routes commands by their keys and returns the replies. It follows no redirection: MOVED, ASK, TRYAGAIN and CLUSTERDOWN carry out nothing,
so they pass upwards as errors that pass, and the caller's next try finds a newer map (C1). Invariants:

- A call ends when all its parts have ended. If one broke, the whole call is uncertain and names every connection that may still carry a
  part (C2).
- A node that gave trouble is not used before somebody has looked the map up again. Only calls that need that node wait for the look.
- There is one look at a time. It asks one node after the other: each has a second to connect and one to answer. The seeds come last,
  resolved again.
- What goes to a node that is no master any more is broken. Nothing that this node still holds can come into a stream (C4).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import anyio
from anyio.lowlevel import checkpoint

from redisaq.environment import LONGEST_SILENCE, Environment, current_environment, time_is_up_at
from redisaq.errors import ConnectionFailed, RedisaqError, ServerError
from redisaq.link.address import Address, ClusterAddress
from redisaq.link.attempt import Attempts
from redisaq.link.caller import key_of
from redisaq.link.greeting import LOGGED_OUT, Greeting, greet
from redisaq.link.line import Line
from redisaq.link.link import Link, still_torn
from redisaq.link.reading import ReadingConnection
from redisaq.link.resp import Command, pack_command
from redisaq.link.shared import PASSED, Identity, SharedConnection
from redisaq.link.slot_map import Node, SlotMap, read_slot_map, slot_of
from redisaq.link.spread import Spreader
from redisaq.link.switchboard import Backoff, Bell

ANSWER_WITHIN = 1.0
"""Seconds that one node has to say who serves which slot; also those that connecting to a node may take before others are asked,
unless the URL says it."""

AGE = 5.0
"""Seconds after which a call asks its node by the way who serves which slot."""

RECENT = 0.25
"""A map this many seconds old is new enough for a connection that is about to be made."""

ANNOUNCED = "cluster-announce-ip, or cluster-announce-hostname with cluster-preferred-endpoint-type hostname"

_ELSEWHERE = LOGGED_OUT | {"MASTERDOWN", "READONLY"}
_LOOK: Command = ("CLUSTER", "SLOTS")
_PACKED_LOOK = pack_command(_LOOK)
_MOST_ROUTES = 1 << 16

T = TypeVar("T")


class ClusterLink:
    """A connection to a cluster that many tasks share. It is a Caller.

    Attributes:
        run_id: names the run of every node to which it has connected; changes when a slot has another master, or a node another run.
        looks: how often the map was looked up.
    """

    def __init__(
        self,
        address: ClusterAddress,
        environment: Environment | None = None,
        *,
        client: str | None = None,
        silence: float = LONGEST_SILENCE,
        time: float = math.inf,
        confirmed: bool = False,
    ) -> None:
        """Make a link; nothing is connected yet.

        Args:
            address: nodes that know the others.
            environment: clock and randomness; None uses the context's.
            client: the user's label for the connections.
            silence: as of any Link.
            time: as of any Link.
            confirmed: as of any Link.
        """
        self.run_id = ""
        self.looks = 0
        self._address = address
        self._environment = environment
        self._client = client
        self._silence = silence
        self._time = time
        self._confirmed = confirmed
        self._map = SlotMap()
        self._looked_at = -math.inf
        self._questions = self._answered = 0  # how often it asked for the map, and which of these questions the map answers
        self._links: dict[Node, Link] = {}  # to all masters
        self._routes: dict[bytes, Link] = {}  # where keys are, as the map has it
        self._doubted: set[Node] = set()  # that gave trouble since the last look
        self._hint: Node | None = None  # the target of the last redirect
        self._looks = Attempts()
        self._stranger: Link | None = None  # whom it asks over a connection of its own
        self._era = 0  # grows with each `close`; looks of an older era fail
        self._runs: dict[Node, str] = {}
        self._places: dict[str, Node] = {}  # run -> the node that it was
        self._changes = 0  # of the map
        self._torn: list[SharedConnection] = []  # broken, at any node: their callers may not have heard of it yet
        self._spreader: Spreader[Link] = Spreader(lambda link: link.connected, lambda: self.run_id, ServerError)
        self.bells: set[ClusterBell] = set()

    @property
    def url(self) -> str:
        """The cluster's URL for errors, without a password."""
        return self._address.display

    def give_up(self, reason: str) -> None:
        """Do nothing: what was wrong with a node was noted when it answered."""

    # -- connections -----------------------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Look the map up, and connect to all nodes that can be reached.

        Raises:
            ConnectionFailed: no node can be reached, or one refuses us for good; says what to try.
            SettingsError: the certificate files cannot be used.
        """
        await checkpoint()
        if not self._map.ranges:
            await self._look()
        if self._runs.keys() >= self._map.masters:
            return
        failures: list[Exception] = []
        links = [self._links[node] for node in sorted(self._map.masters)]

        async def connect(link: Link) -> None:
            try:
                await link.connect()
            except RedisaqError as error:
                failures.append(error)

        async with anyio.create_task_group() as tasks:
            for link in links:
                tasks.start_soon(connect, link)
        for error in failures:
            if len(failures) == len(links) or not isinstance(error, ConnectionFailed) or error.permanent:
                raise error

    async def close(self) -> None:
        """Close all connections; see Link."""
        self._era += 1
        for bell in tuple(self.bells):
            bell.end()
        links = [*self._links.values(), *((self._stranger,) if self._stranger is not None else ())]
        self._routes.clear()
        self._runs.clear()
        self._map, self._looked_at = SlotMap(), -math.inf
        for link in links:
            link.abort("the link was closed")
        await checkpoint()

    async def open_reading(self, key: bytes) -> ReadingConnection:
        """Make a separate connection to the key's node; see Caller."""
        if self._age() > RECENT:  # the last one may have ended because the slot moved
            await self._look()
        link = await self.link_to(key)
        try:
            return await link.open_reading()
        except ConnectionFailed:
            self.doubt(link)
            raise

    async def listen(self, *channels: str) -> ClusterBell:
        """Listen to channels of one slot, and follow it if it moves; see Caller."""
        bell = ClusterBell(self, channels)
        self.bells.add(bell)
        try:
            await bell.begin()
        except BaseException:
            bell.end()
            raise
        return bell

    async def watched(self) -> None:
        """Return None: a cluster has no sentinels. See Caller."""
        await checkpoint()

    async def nodes(self) -> Sequence[Link]:
        """Return the links to all nodes that serve slots, as the cluster has it now."""
        await self._look()
        return [self._links[node] for node in sorted(self._map.masters)]

    # -- calls -----------------------------------------------------------------------------------------------------------------------

    async def call(self, *commands: Command) -> list[object]:
        """Run commands, each at the node of its key; see Caller."""
        if len(commands) == 1:
            return await self._send(await self.link_to(key_of(commands[0])), pack_command(commands[0]), 1)
        packed = [pack_command(command) for command in commands]
        return await self._spreader.send(await self._split(commands, key_of), len(packed), partial(self._send_part, packed))

    async def call_keyed(self, packed: Sequence[bytes], of: Sequence[T], key: Callable[[T], bytes]) -> list[object]:
        """Run packed commands, in order at each node; see Caller.

        Raises:
            ConnectionFailed: a part failed. Where others succeeded, it is uncertain what became of the call (C2). Or nothing was sent: an
                earlier call broke at one of these nodes, or lacks something in one of these slots, and is not over at another node, or its
                caller has not heard of that yet; what it lacks comes first (E4).
        """
        spreader = self._spreader
        breaks, parts = spreader.breaks, await self._split(of, key)
        if self._torn and still_torn(self._torn):  # the slots may be elsewhere by now, so each node's connection matters
            raise ConnectionFailed(self.url, PASSED)
        spreader.check(self.url, parts, (slot_of(key(one)) for one in of), breaks)
        if len(parts) == 1:
            (link,) = parts
            return await self._send(link, b"".join(packed), len(packed), in_order=True)
        send = partial(self._send_part, packed, in_order=True)
        return await spreader.send_in_order(parts, len(packed), send, lambda place: slot_of(key(of[place])))

    async def _send_part(self, packed: Sequence[bytes], link: Link, places: Sequence[int], *, in_order: bool = False) -> list[object]:
        return await self._send(link, b"".join([packed[place] for place in places]), len(places), in_order=in_order)

    async def _split(self, of: Sequence[T], key: Callable[[T], bytes]) -> dict[Link, list[int]]:
        """Return for each node the places of its commands."""
        while True:
            parts, used = dict[Link, list[int]](), self._map
            for place, one in enumerate(of):
                name = key(one)
                link = self._routes.get(name) or await self.link_to(name)
                parts.setdefault(link, []).append(place)
            if self._map is used:  # otherwise a look has ended in between, and a slot may be at two nodes
                return parts

    async def kill(self, connections: Sequence[Identity], key: bytes | None = None) -> list[object]:
        """Kill those of these connections that can still reach their streams (C4).

        A connection to a node that is no master any more cannot, whether that node can be reached or not. As long as the map calls it a
        master, its connections have to be killed.

        Raises:
            ConnectionFailed: a node could not be reached, and no other has its place yet.
        """
        if key is not None:
            return await (await self.link_to(key)).kill(connections)
        if any(run not in self._places for _, _, run in connections):  # of a node to which this link has not been connected yet
            await self.connect()
            self._check_runs({run for _, _, run in connections})
        elif not self._map.ranges:
            await self._look()
        replies: list[object] = []
        by_node: dict[Node, list[Identity]] = {}
        for connection in connections:
            node = self._places.get(connection[2])
            if node is not None:
                by_node.setdefault(node, []).append(connection)
        for node, own in by_node.items():
            replies += await self._kill_at(node, own)
        return replies

    def _check_runs(self, runs: set[str]) -> None:
        """Raise ConnectionFailed if one of these runs may be that of a master that could not be reached."""
        if not runs <= self._places.keys() and (unknown := self._map.masters - self._runs.keys()):
            nodes = ", ".join(f"{node.host}:{node.port}" for node in sorted(unknown))
            raise ConnectionFailed(self.url, f"{nodes} cannot be reached, so a connection there could not be killed")

    async def _kill_at(self, node: Node, connections: Sequence[Identity]) -> list[object]:
        link = self._links.get(node)
        if link is None:
            return []
        reason = f"no answer within {ANSWER_WITHIN:g} s"
        try:
            with anyio.move_on_after(ANSWER_WITHIN):
                return await link.kill(connections)
        except ConnectionFailed as error:
            reason = error.reason
        self.doubt(link)
        await self._look(besides=node)
        if node in self._map.masters:
            raise ConnectionFailed(link.url, f"a connection could not be killed ({reason})")
        return []

    async def _send(self, link: Link, data: bytes, count: int, *, in_order: bool = False) -> list[object]:
        question: int | None = None
        if self._age() > AGE and not self._confirmed:  # else even what is refused would wait for a replica (C7)
            question = self._question()
            self._looked_at = self._now()  # set before asking, so that one call of several asks
            data, count = data + _PACKED_LOOK, count + 1
        try:
            replies = await link.call_packed(data, count, in_order=in_order)
        except ConnectionFailed as error:
            self._spreader.breaks += error.maybe_executed
            error.of_node = True
            self.doubt(link)
            raise
        if question is not None:
            self._hear(link, replies.pop(), question)
        for reply in replies:
            if type(reply) is ServerError and (reply.redirect or reply.code in _ELSEWHERE):
                self.redirected(link, reply)
        return replies

    # -- the map ---------------------------------------------------------------------------------------------------------------------

    async def link_to(self, key: bytes) -> Link:
        """Return the link to the node that serves the key. If that is not known, or doubted, look first."""
        link = self.route(key)
        if link is None:
            await self._look()
            link = self.route(key)
        if link is None:
            raise ConnectionFailed(self.url, "no node of the cluster serves this slot now")
        return link

    def route(self, key: bytes) -> Link | None:
        """Return the link to the node that serves the key, as the map has it; None if nobody does, or if that node is doubted."""
        link = self._routes.get(key)
        if link is None:
            node = self._map.master_of(slot_of(key))
            if node is None or node in self._doubted:
                return None
            link = self._links[node]
            if len(self._routes) >= _MOST_ROUTES:
                self._routes.clear()
            self._routes[key] = link
        return link

    def doubt(self, link: Link) -> None:
        """Use this node only after the next look."""
        self._doubted.add(Node(link.address.host, link.address.port))
        self._routes.clear()

    def redirected(self, link: Link, error: ServerError) -> None:
        """Age the map (C1)."""
        self.doubt(link)
        if error.code in LOGGED_OUT or error.code == "READONLY":
            link.give_up(error.text)
        words = error.text.split()
        if error.code == "MOVED" and len(words) == 3:  # noqa: PLR2004 -- MOVED slot host:port
            host, _, port = words[2].rpartition(":")
            self._hint = Node(host or link.address.host, int(port)) if port.isdecimal() and host != "?" else None

    async def _look(self, besides: Node | None = None) -> None:
        """Look the map up, or wait for the look that is under way.

        Args:
            besides: a node not to ask.

        Raises:
            ConnectionFailed: no node answered, or the time of the call is up, or the link was closed meanwhile.
        """
        era = self._era
        with anyio.move_on_after(time_is_up_at() - self._now()):
            while True:
                self._check_open(era)
                if await self._looks.share(partial(self._look_now, besides), self.url):
                    self._check_open(era)
                    return
        raise ConnectionFailed(self.url, "the map of slots did not come within the time of the call", silent=True)

    def _check_open(self, era: int) -> None:
        if self._era != era:
            raise ConnectionFailed(self.url, "the link was closed")

    async def _look_now(self, besides: Node | None) -> None:
        self.looks += 1
        era = self._era
        failures: list[ConnectionFailed] = []
        known = [node for node in sorted(self._map.masters) if node != besides]
        self.environment.random.shuffle(known)
        known.sort(key=lambda node: (node != self._hint, node in self._doubted))
        if self._hint is not None and self._hint not in self._links:
            failures += await self._ask_stranger(self._node_address(self._hint))
            if not failures:
                return
        for node in known:
            self._check_open(era)
            link = self._links.get(node)
            if link is None:  # a call has heard meanwhile that it is no master any more
                continue
            failed = await (self._ask_stranger(self._node_address(node)) if self._confirmed else self._ask_known(link))
            if not failed:
                return
            failures += failed
        for seed in self._address.seeds:
            self._check_open(era)
            failed = await self._ask_stranger(replace(seed, connect_timeout=seed.connect_timeout or ANSWER_WITHIN))
            if not failed:
                return
            failures += failed
        reason = "; ".join(dict.fromkeys(str(error) for error in failures))
        permanent = all(error.permanent for error in failures) and not self._map.ranges
        raise ConnectionFailed(
            self.url, f"no node says who serves which slot ({reason})", permanent=permanent, silent=all(error.silent for error in failures)
        )

    async def _ask_known(self, link: Link) -> list[ConnectionFailed]:
        """Ask over the connection that is there; not where it may be waiting for a replica (C7)."""
        try:
            await self._ask(link)
        except ConnectionFailed as error:
            return [error]
        return []

    async def _ask_stranger(self, address: Address) -> list[ConnectionFailed]:
        """Ask over a connection of its own; return why that failed, nothing if it did not."""
        link = Link(address, self._environment, client=self._client, silence=self._silence, greet=_greet_any)
        self._stranger = link
        try:
            await link.connect()  # within its own time, and so with an error that says what to check
            await self._ask(link)
        except ConnectionFailed as error:
            return [error]
        finally:
            self._stranger = None
            link.abort("the question has been answered")
        return []

    async def _ask(self, link: Link) -> None:
        """Ask one node, and use what it says."""
        question = self._question()
        with anyio.move_on_after(ANSWER_WITHIN):
            (answer,) = await link.call(_LOOK)
            self._take(link, answer, question)
            return
        raise ConnectionFailed(link.url, f"no answer within {ANSWER_WITHIN:g} s", silent=True)

    def _question(self) -> int:
        """Return the number of a question for the map that is asked now."""
        self._questions += 1
        return self._questions

    def _hear(self, link: Link, answer: object, question: int) -> None:
        """Use what a node said by the way, if it said anything."""
        with contextlib.suppress(ConnectionFailed):
            self._take(link, answer, question)

    def _take(self, link: Link, answer: object, question: int) -> None:
        """Use a new map: break what goes to nodes that are no masters any more, and move bells whose slot has moved.

        The answer to the latest question counts: a node that was stalled may say what it knew before a failover.
        """
        if isinstance(answer, ServerError):
            permanent = answer.forbidden or "cluster support disabled" in answer.text
            hint = ": use redis:// for a server that is no cluster" if "disabled" in answer.text else ""
            raise ConnectionFailed(link.url, f"it does not say who serves which slot ({answer.text}){hint}", permanent=permanent)
        try:
            found = read_slot_map(answer, link.address.host)
        except ValueError as error:
            raise ConnectionFailed(link.url, str(error)) from error
        if not found.ranges:
            raise ConnectionFailed(link.url, "it knows no node that serves slots")
        if question < self._answered:
            return
        self._answered = question
        before, self._map = self._map, found
        self._looked_at, self._hint = self._now(), None
        self._doubted.clear()
        self._routes.clear()
        for node in found.masters - self._links.keys():
            self._links[node] = self._make_link(node)
        for node in self._links.keys() - found.masters:
            self._runs.pop(node, None)
            gone = self._links.pop(node)
            breaks = gone.breaks
            gone.abort(f"{node.host}:{node.port} is no master of the cluster any more")
            self._spreader.breaks += gone.breaks - breaks  # what waited for this look must not pass the calls that this broke (E4)
        if found != before:
            self._changes += 1
            self._name_runs()
            for bell in tuple(self.bells):
                bell.follow()

    def _make_link(self, node: Node) -> Link:
        return Link(
            self._node_address(node),
            self._environment,
            reach=partial(self._reach, node),
            greet=partial(self._greet, node),
            on_silence=partial(self._on_silence, node),
            client=self._client,
            silence=self._silence,
            time=self._time,
            confirmed=self._confirmed,
            torn=self._torn,
        )

    def _node_address(self, node: Node) -> Address:
        seed = self._address.seeds[0]
        timeout = seed.connect_timeout or ANSWER_WITHIN
        return replace(seed, host=node.host, port=node.port, connect_timeout=timeout, announced=ANNOUNCED)

    async def _reach(self, node: Node) -> Address:
        """Look before a connection is made, unless the map is new: a node that cannot be reached may have been replaced.

        The look asks others, since it would wait for this connection.
        """
        if self._age() > RECENT and self._looks.current is None:  # a look that needs this connection does not wait for itself
            with contextlib.suppress(ConnectionFailed):
                await self._look(besides=node)
        if node not in self._map.masters:
            raise ConnectionFailed(self._node_address(node).display, "it is no master of the cluster any more")
        return self._node_address(node)

    async def _greet(self, node: Node, line: Line, address: Address, name: str) -> Greeting:
        greeting = await greet(line, address, name, in_cluster=True)
        if greeting.role == "slave":
            self._doubted.add(node)
            self._routes.clear()
            raise ConnectionFailed(address.display, "it is a replica now: a failover may be under way")
        if self._runs.get(node) != greeting.run_id:
            self._runs[node] = greeting.run_id
            self._places[greeting.run_id] = node
            self._name_runs()
        return greeting

    async def _on_silence(self, node: Node) -> None:
        """Ask the others whether that node still serves; if not, the new map breaks what goes to it."""
        self._doubted.add(node)
        self._routes.clear()
        if self._looks.current is None:
            with contextlib.suppress(RedisaqError):
                await self._look(besides=node)

    def _name_runs(self) -> None:
        self.run_id = " ".join([str(self._changes), *sorted(self._runs.values())])

    def _age(self) -> float:
        return self._now() - self._looked_at

    def _now(self) -> float:
        return self.environment.monotonic()

    @property
    def environment(self) -> Environment:
        """The clock and the randomness."""
        return self._environment or current_environment()


class ClusterBell:
    """A Bell that follows its slot from node to node. One task at a time may wait; any task may close it."""

    def __init__(self, link: ClusterLink, channels: Sequence[str]) -> None:
        """Listen to nothing yet.

        Args:
            link: the cluster.
            channels: their names, all in one slot.
        """
        self._link = link
        self._channels = channels
        self._key = channels[0].encode()
        self._bell: Bell | None = None
        self._at: Link | None = None
        self._ended = False
        self._beginning: anyio.CancelScope | None = None  # set while its task subscribes again
        self._backoff: Backoff | None = None

    async def begin(self) -> None:
        """Subscribe, in one attempt.

        Raises:
            ConnectionFailed: the attempt failed, or the slot is on its way to another node.
            ServerError: the server does not let us listen.
        """
        link = await self._link.link_to(self._key)
        try:
            self._bell, self._at = await link.listen(*self._channels, moving=True), link
        except ConnectionFailed:
            self._link.doubt(link)
            raise
        except ServerError as error:
            if not error.redirect:
                raise
            self._link.redirected(link, error)
            raise ConnectionFailed(self._link.url, f"the server cannot do this now ({error.text})") from error
        if self._ended:
            self._bell.drop()
        self.follow()  # the map may have changed meanwhile

    async def wait(self) -> None:
        """Wait for the next message, wherever the slot is; see Bell. After each move it returns, since something may have been missed.

        Raises:
            ConnectionFailed: it was closed.
            ServerError: the server does not let us listen any more.
        """
        while not self._ended:
            if self._bell is None:
                with anyio.CancelScope() as self._beginning:
                    await self._begin_again()
                self._beginning = None
                if self._ended:
                    break
                return
            try:
                await self._bell.wait()
            except ConnectionFailed:
                self._bell = None
            except ServerError as error:
                if not error.redirect:
                    raise
                if self._at is not None:
                    self._link.redirected(self._at, error)
                self._bell = None
            else:
                return
        raise ConnectionFailed(self._link.url, "the subscription was closed")

    async def close(self) -> None:
        """Stop listening; `wait` raises ConnectionFailed. Any task may call it, any number of times."""
        self.end()
        await checkpoint()

    def end(self) -> None:
        """Stop listening, without a checkpoint."""
        self._ended = True
        self._link.bells.discard(self)
        if self._bell is not None:
            self._bell.drop()
        if self._beginning is not None:
            self._beginning.cancel()

    def follow(self) -> None:
        """The map has changed: leave a node that does not serve the slot any more."""
        if self._bell is not None and self._link.route(self._key) is not self._at:
            self._bell.drop()

    async def _begin_again(self) -> None:
        environment = self._link.environment
        self._backoff = self._backoff or Backoff(environment.random)
        while not self._ended:
            try:
                await self.begin()
            except ConnectionFailed:
                await anyio.sleep(self._backoff.failed())
            else:
                self._backoff = None
                return


async def _greet_any(line: Line, address: Address, name: str) -> Greeting:
    return await greet(line, address, name, in_cluster=True)
