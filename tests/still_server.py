"""A server whose clock stands where a test puts it, so that what a script does at a boundary can be seen.

Input: a server, a namespace, steps. Output: their answers, or those of their scripts, and what is kept then. Invariant: to a script, only
the time differs, perhaps the version, and that its doorbells are noted instead of rung.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.registry import COMMANDS
from redisaq.brokers.redis.scripts import SCRIPTS
from redisaq.brokers.steps import Step
from tests.servers import Server

R = TypeVar("R")

NOW = 1_700_000_000_123_456
"""The server's time in microseconds."""

MS = NOW // 1000
"""The same in milliseconds."""

BEFORE_A_SCRIPT = """\
local real = redis
local redis = setmetatable({}, {__index = real})
redis.REDIS_VERSION_NUM = %s or real.REDIS_VERSION_NUM
redis.call = function(name, ...)
    if name == 'TIME' then
        return {'%d', '%d'}
    end
    return real.call(name, ...)
end
redis.pcall = function(name, ...)
    if name == 'SPUBLISH' then
        return real.call('RPUSH', '%s', (...))
    end
    return real.pcall(name, ...)
end
"""


@dataclass
class StillServer:
    """One namespace of a server whose clock does not move.

    Attributes:
        server: the server.
        namespace: whose keys are looked at.
        now: its time in microseconds.
        version: what it says which Redis it is; None: the truth.
        keys: the names of the keys; tests let them learn how a topic has grown.
    """

    server: Server
    namespace: str
    now: int = NOW
    version: int | None = None
    keys: Keys = field(init=False)

    def __post_init__(self) -> None:
        self.keys = Keys(self.namespace)

    def ask(self, step: Step[Any]) -> Any:
        """Do a step; return what its script answers."""
        return readable(self._run(step)[0])

    def do(self, step: Step[R]) -> R:
        """Do a step; return its answer."""
        reply, answer = self._run(step)
        answered: R = answer(reply)
        return answered

    def _run(self, step: Step[Any]) -> tuple[Any, Any]:
        (_, sha, *words), answer = COMMANDS[type(step)](step, self.keys)
        before = BEFORE_A_SCRIPT % (self.version or "nil", *divmod(self.now, 1_000_000), self._rung)
        return self.server.command("EVAL", before.encode() + SCRIPTS[sha].text, *words), answer

    @property
    def _rung(self) -> str:
        return f"rung:{self.namespace}"

    def rung(self) -> list[str]:
        """Return the channels of the doorbells that were rung since the last look."""
        rung: list[str] = readable(self.server.command("LRANGE", self._rung, 0, -1))
        self.server.command("DEL", self._rung)
        return [one.replace(f"{self.namespace}:", "") for one in rung]

    def command(self, word: str, key: bytes | str, *words: Any) -> Any:
        """Send a command about a key."""
        return readable(self.server.command(word, key, *words))

    def put(self, key: bytes, kept: dict[Any, Any]) -> None:
        """Let a hash hold this and nothing else; where the values are numbers, a sorted set."""
        self.server.command("DEL", key)
        if kept and all(isinstance(value, int) for value in kept.values()):
            self.server.command("ZADD", key, *(word for name, score in kept.items() for word in (score, name)))
        elif kept:
            self.server.command("HSET", key, *(word for pair in kept.items() for word in pair))

    def append(self, key: bytes, *ids: str) -> None:
        """Append entries with these ids to a stream, each with one field, `i`, that holds its id."""
        for one in ids:
            self.server.command("XADD", key, one, "i", one)

    def kept(self, key: bytes) -> Any:
        """Return what a key holds: a hash or the scores of a sorted set as a dict, the entries of a stream as a list of id and words."""
        match self.server.command("TYPE", key):
            case b"hash":
                words = readable(self.server.command("HGETALL", key))
                return dict(zip(words[::2], words[1::2], strict=True))
            case b"zset":
                words = readable(self.server.command("ZRANGE", key, 0, -1, "WITHSCORES"))
                return {name: int(float(score)) for name, score in zip(words[::2], words[1::2], strict=True)}
            case b"stream":
                return [tuple(entry) for entry in readable(self.server.command("XRANGE", key, "-", "+"))]
            case b"none":
                return {}
            case _:
                return readable(self.server.command("GET", key))

    def all_kept(self) -> dict[bytes, Any]:
        """Return what all keys hold, and of streams what is pending, by group."""
        found: dict[bytes, Any] = {}
        for key in sorted(self.server.command("KEYS", f"*{self.namespace}:*")):
            found[key] = self.kept(key)
            if self.server.command("TYPE", key) == b"stream":
                found[key] = (found[key], self.groups(key))
        return found

    def groups(self, stream: bytes) -> dict[str, tuple[str, list[str]]]:
        """Return the groups of a stream: the last delivered id, and the ids that are pending."""
        found: dict[str, tuple[str, list[str]]] = {}
        for row in readable(self.server.command("XINFO", "GROUPS", stream)):
            facts = dict(zip(row[::2], row[1::2], strict=True))
            pending = readable(self.server.command("XPENDING", stream, facts["name"], "-", "+", 10_000))
            found[facts["name"]] = facts["last-delivered-id"], [one[0] for one in pending]
        return found

    def forget_everything(self) -> None:
        """Leave nothing of the namespace."""
        for key in (*self.server.command("KEYS", f"*{self.namespace}:*"), self._rung):
            self.server.command("DEL", key)


def readable(reply: Any) -> Any:
    """Return a reply with its bytes as text."""
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "backslashreplace")
    return [readable(one) for one in reply] if isinstance(reply, list) else reply
