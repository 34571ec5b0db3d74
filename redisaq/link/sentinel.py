"""The link to a server that sentinels watch: each connection goes to the server that they call the master (C6).

`Sentinels` asks who the master is. `SentinelLink` is a Link that asks before each connection, each second while it is used, and while the
server is silent. When the answer is another server, it breaks every connection to the former one, which may continue to serve for seconds.
Invariants:

- A sentinel gets at most a second to answer; then the next one is asked. Names are resolved again for each connection.
- One question at a time: who needs the answer meanwhile waits for the same one.
- A server that calls itself a replica is never used, whatever a sentinel says.
- If no sentinel can be reached, what is connected stays in use.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

import anyio

from redisaq.environment import LONGEST_SILENCE, Environment, time_is_up_at
from redisaq.errors import ConnectionFailed, RedisaqError, ServerError
from redisaq.link.address import Address, SentinelAddress
from redisaq.link.attempt import Attempts
from redisaq.link.dial import Dialer
from redisaq.link.greeting import Greeting, greet
from redisaq.link.line import Line
from redisaq.link.link import Link
from redisaq.link.resp import NOTHING, PARSE_ERRORS, push_kind

ANSWER_WITHIN = 1.0
"""Seconds that one sentinel has to answer; also those that connecting to it, or to the master, may take, unless the URL says it."""

ASK_EVERY = 1.0
"""Seconds after which an answer of the sentinels is too old to rely on without asking again."""

MOST_DOUBLINGS = 4
"""How often that time doubles at most, once no sentinel has answered."""

SWITCH = b"+switch-master"
ANNOUNCED = "set replica-announce-ip of the servers, or sentinel announce-hostnames"

_Where = tuple[str, int]


class Sentinels:
    """Knows the master of one service from its sentinels.

    Attributes:
        master: host and port, as last answered or published; None before.
    """

    def __init__(self, address: SentinelAddress, environment: Callable[[], Environment], client: str | None) -> None:
        """Connect to nothing yet.

        Args:
            address: the sentinels and the service.
            environment: gives the clock, asked at each use.
            client: the user's label for the connections.
        """
        self.master: _Where | None = None
        self._url = address.display
        self._service = address.service
        self._environment = environment
        self._dialers = [
            Dialer(replace(one, connect_timeout=one.connect_timeout or ANSWER_WITHIN), client=client, greet=greet_sentinel)
            for one in address.sentinels
        ]  # the one to ask first comes first
        self._line: Line | None = None  # to the first of them, once it has answered
        self._attempts = Attempts()
        self._asked = -math.inf
        self._unanswered = 0  # questions in a row
        self._era = 0  # grows with each `close`; questions of an older era fail

    @property
    def due(self) -> bool:
        """True if the last question was long ago, or the connection to the sentinel has broken since.

        If no sentinel answers, the questions become rarer: each holds up a call.
        """
        in_vain = min(max(0, self._unanswered - len(self._dialers)), MOST_DOUBLINGS)
        return self._environment().monotonic() - self._asked >= ASK_EVERY * 2.0**in_vain

    async def ask(self) -> _Where:
        """Ask the sentinels in turn; return the master. A question under way is shared.

        Raises:
            ConnectionFailed: no sentinel answered, or those that did know no such service; says what each said.
            SettingsError: the certificate files cannot be used.
        """
        while True:
            if await self._attempts.share(self._find, self._url) and self.master is not None:
                return self.master

    async def describe(self) -> dict[str, str]:
        """Return what the first sentinel says of the service, over a connection of its own; nothing if it does not answer."""
        with anyio.move_on_after(ANSWER_WITHIN), contextlib.suppress(ConnectionFailed):
            line, _ = await self._dialers[0].dial(self._environment())
            try:
                (answer,) = await line.ask(("SENTINEL", "MASTER", self._service))
            finally:
                line.fail("it was asked")
            if isinstance(answer, dict):
                pairs = cast("dict[bytes, bytes]", answer).items()
                return {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in pairs}
        return {}

    def hear(self) -> None:
        """Take in what a sentinel has published meanwhile, without waiting."""
        line = self._line
        if line is None or self._attempts.current is not None or line.broken is not None:
            return
        try:
            if line.wire.arrived():
                line.wire.receive()
                while (item := line.poll()) is not NOTHING:
                    self._take(item)
        except (ConnectionFailed, OSError, *PARSE_ERRORS):
            self._drop("the sentinel closed the connection")
            self._asked = -math.inf

    def distrust(self) -> None:
        """Ask the sentinel last that was asked first: its answer was out of date."""
        self._ask_next_first("its answer was out of date")
        self._asked = -math.inf

    def close(self) -> None:
        """Close the connection; questions under way fail. It may be used again."""
        self._era += 1
        for dialer in self._dialers:
            dialer.interrupt()
        self._drop("the link was closed")
        self._asked = -math.inf

    async def _find(self) -> None:
        self._asked = self._environment().monotonic()
        self._unanswered += 1
        self.master = await self._ask_in_turn()
        self._unanswered = 0

    async def _ask_in_turn(self) -> _Where:
        failures: list[ConnectionFailed] = []
        era = self._era
        for _ in range(len(self._dialers)):
            dialer, began = self._dialers[0], self._environment().monotonic()
            try:
                return await self._ask_first()
            except anyio.get_cancelled_exc_class():
                if self._environment().monotonic() - began >= ANSWER_WITHIN / 2 and self._dialers[0] is dialer:
                    self._ask_next_first("it did not say who the master is")  # or the next question would meet it again
                raise
            except ConnectionFailed as error:
                failures.append(error)
            except TimeoutError:
                failures.append(ConnectionFailed(dialer.display, f"no answer within {ANSWER_WITHIN:g} s", silent=True))
            if self._era != era:
                raise ConnectionFailed(self._url, "the link was closed")
            if self._dialers[0] is dialer:
                self._ask_next_first("it did not say who the master is")
        known = [error for error in failures if error.permanent]
        reason = "; ".join(dict.fromkeys(error.reason for error in known))
        if not known:
            reason = "; ".join(map(str, failures))
            reason = f"no sentinel answers ({reason}): check hosts and ports (usually 26379), and that the sentinels run"
        permanent = len(known) == len(failures) and self.master is None  # of a service that was known, the sentinels may learn again
        raise ConnectionFailed(self._url, reason, permanent=permanent, silent=all(error.silent for error in failures))

    async def _ask_first(self) -> _Where:
        """Ask the first sentinel, over the connection to it if that is still up."""
        line, subscribed = self._line, True
        if line is None or line.broken is not None:
            self._line = None
            line, _ = await self._dialers[0].dial(self._environment())  # within its own time, so that its error says what to check
            self._line, subscribed = line, False
        with anyio.fail_after(ANSWER_WITHIN):
            if not subscribed:
                await self._asked_of(line, "SUBSCRIBE", SWITCH, pushed=True)  # if it is refused, the questions have to do
            return await self._ask_at(line)

    async def _ask_at(self, line: Line) -> _Where:
        answer = await self._asked_of(line, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        words = cast("list[bytes]", answer) if isinstance(answer, list) else []
        if len(words) == 2:  # noqa: PLR2004 -- host and port
            return words[0].decode(), int(words[1])
        if isinstance(answer, ServerError):
            raise _refusal(line.url, answer)
        raise self._unknown(line.url, await self._asked_of(line, "SENTINEL", "MASTERS"))

    async def _asked_of(self, line: Line, *command: str | bytes, pushed: bool = False) -> object:
        """Return the answer to one command; what is published meanwhile is taken in, or is the answer if that is `pushed`."""
        try:
            line.send(command)
            while push_kind(item := await line.item()) is not None and not pushed:
                self._take(item)
        except BaseException:
            line.fail("a question was not answered")  # also if cancelled: the next question would get this one's answer
            raise
        return item

    def _unknown(self, url: str, masters: object) -> ConnectionFailed:
        maps = cast("list[dict[bytes, bytes]]", masters) if isinstance(masters, list) else []
        names = sorted(repr(one.get(b"name", b"").decode("utf-8", "replace")) for one in maps)
        known = f"it knows {', '.join(names)}" if names else "it watches no master"
        reason = f"the sentinel knows no service {self._service!r}, {known}: correct the name after the sentinels in the URL"
        return ConnectionFailed(url, reason, permanent=True)

    def _take(self, item: object) -> None:
        """Take a published message: `service old-host old-port new-host new-port`."""
        if push_kind(item) != b"message":
            return
        words = cast("list[bytes]", item)[-1].decode("utf-8", "replace").split(" ")
        if len(words) >= 5 and " ".join(words[:-4]) == self._service and words[-1].isdecimal():  # noqa: PLR2004 -- see above
            self.master = words[-2], int(words[-1])

    def _ask_next_first(self, reason: str) -> None:
        self._drop(reason)
        self._dialers.append(self._dialers.pop(0))

    def _drop(self, reason: str) -> None:
        if self._line is not None:
            self._line.fail(reason)
            self._line = None


class SentinelLink(Link):
    """A Link to whichever server the sentinels call the master."""

    def __init__(
        self,
        address: SentinelAddress,
        environment: Environment | None = None,
        *,
        client: str | None = None,
        silence: float = LONGEST_SILENCE,
        time: float = math.inf,
        confirmed: bool = False,
    ) -> None:
        """Make a link; nothing is connected yet. See Link."""
        super().__init__(
            replace(address.master, connect_timeout=address.master.connect_timeout or ANSWER_WITHIN, announced=ANNOUNCED),
            environment,
            reach=self._reach,
            greet=self._greet,
            on_silence=self._look,
            beside=self._keep_asking,
            client=client,
            silence=silence,
            time=time,
            confirmed=confirmed,
        )
        self._sentinels = Sentinels(address, self._current_environment, client)
        self._at: _Where | None = None  # the server to which the connections go

    async def call_packed(self, data: bytes, replies: int, *, in_order: bool = False) -> list[object]:
        """Run packed commands at the master; the first call of each second asks who that is. See Link."""
        sentinels = self._sentinels
        sentinels.hear()
        if sentinels.master != self._at:
            self._follow()
        if self._at is not None and sentinels.due:
            era, breaks = self._connector.era, self.breaks
            with anyio.move_on_after(min(ANSWER_WITHIN, time_is_up_at() - self._current_environment().monotonic())):
                await self._look()
            if self._connector.era != era:
                raise ConnectionFailed(self.address.display, "the link was closed")
            self._check_order(breaks if in_order else None)
        return await super().call_packed(data, replies, in_order=in_order)

    async def watched(self) -> Mapping[str, str]:
        """Return what a sentinel says of the master; nothing if none answers. See Caller."""
        return await self._sentinels.describe()

    async def close(self) -> None:
        """Close all connections, those to the sentinels, too. See Link."""
        self._sentinels.close()
        await super().close()

    async def _reach(self) -> Address:
        host, port = await self._sentinels.ask()
        self._follow()
        return self._address_of(host, port)

    def _address_of(self, host: str, port: int) -> Address:
        return replace(self.address, host=host, port=port)

    async def _greet(self, line: Line, address: Address, name: str) -> Greeting:
        greeting = await greet(line, address, name)
        if greeting.role == "slave":
            self._sentinels.distrust()
            raise ConnectionFailed(address.display, "the sentinels call it the master, but it is a replica: a failover may be under way")
        return greeting

    async def _look(self) -> None:
        """Ask who the master is, and follow; if nobody answers, everything stays as it is."""
        with contextlib.suppress(RedisaqError):  # a SettingsError, too: of certificates that only a connection needs which is to be made
            await self._sentinels.ask()
        self._follow()

    async def _keep_asking(self) -> None:
        """Ask each second, for a link that only listens."""
        while True:
            await anyio.sleep(ASK_EVERY)
            self._sentinels.hear()
            if self._sentinels.due:
                await self._look()
            self._follow()

    def _follow(self) -> None:
        """Break every connection to a server that is not the master any more."""
        if (master := self._sentinels.master) == self._at or master is None:
            return
        former, self._at = self._at, master
        if former is None:
            return
        reason = f"the sentinels have another master, {master[0]}:{master[1]}"
        self._dialer.interrupt(reason, besides=self._address_of(*master))
        self.give_up(reason)
        for opened in tuple(self._opened):
            opened.give_up(reason)
        self._switchboard.give_up(reason)


async def greet_sentinel(line: Line, address: Address, name: str) -> Greeting:
    """Log in at a sentinel; it has no databases, and answers few commands.

    Raises:
        ConnectionFailed: it refuses us, or is no sentinel.
    """
    hello: list[str] = ["HELLO", "3"]
    if address.username is not None or address.password is not None:
        hello += ["AUTH", address.username or "default", address.password or ""]
    hello += ["SETNAME", name]
    (answer,) = await line.ask(tuple(hello))
    if isinstance(answer, ServerError):
        if answer.code == "NOPROTO" or "unknown command" in answer.text.lower():  # not shown: it repeats our words, and the password
            reason = "it does not know HELLO 3, so it is older than Redis 6.0, or its HELLO was renamed: check host and port, or upgrade it"
            raise ConnectionFailed(address.display, reason, permanent=True)
        raise _refusal(address.display, answer)
    mode = cast("dict[bytes, object]", answer).get(b"mode") if isinstance(answer, dict) else None
    if mode != b"sentinel":
        reason = (
            "this is no sentinel: name the sentinels in the URL (their port is usually 26379), or use redis:// for a server without them"
        )
        raise ConnectionFailed(address.display, reason, permanent=True)
    return Greeting(client_id=0, client_address="", run_id="")


def _refusal(url: str, answer: ServerError) -> ConnectionFailed:
    permanent = True
    if answer.code == "NOAUTH":
        reason = "the sentinel asks for a password: add ?sentinel_password=... to the URL (and sentinel_username, if it has users)"
    elif answer.code == "WRONGPASS":
        reason = "wrong user name or password for the sentinel: check sentinel_username and sentinel_password in the URL"
    elif answer.code == "NOPERM":
        reason = f"the sentinel's user lacks a permission ({answer.text}): it needs hello, auth, client|setname, subscribe and sentinel"
    elif answer.code == "DENIED":
        reason = "the sentinel runs in protected mode and answers local clients only: give it a password, or turn protected mode off"
    else:
        reason, permanent = f"the sentinel refused the connection ({answer.text})", False
    return ConnectionFailed(url, reason, permanent=permanent)
