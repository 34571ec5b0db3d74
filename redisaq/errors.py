"""Every error that redisaq raises on purpose, in one small tree.

Each class says what caused it and what to do about it. Errors never hold passwords: an URL is shown without its password.
"""

from __future__ import annotations

from collections.abc import Sequence


class RedisaqError(Exception):
    """The base class: `except RedisaqError` catches every error that redisaq raises on purpose."""


_FORBIDDEN = ("NOPERM", "unknown command", "ACL failure in script", "The user executing the script can't")
"""Texts of servers whose access rules forbid a command; the last two, of Redis 7.2 and 7.0, are for commands that a script calls."""


_UNREAD = "ERR Protocol error: unauthenticated"
"""How a server answers a command of more than ten words, or with a long one, on a connection that is not logged in. It closes that then."""


_REDIRECTS = frozenset({"ASK", "CLUSTERDOWN", "MOVED", "TRYAGAIN"})


class SettingsError(RedisaqError, ValueError):
    """The caller gave a value that cannot work (a name with braces, a ttl below the heartbeat).

    Correct the value; nothing has been sent.
    """


class WrongThreadError(RedisaqError, RuntimeError):
    """A Producer, Consumer or Admin was called from a thread other than that of the event loop that uses it at the moment.

    Nothing was sent, and the calls under way are not affected. Let that event loop make the call, or give each thread an object of its own.
    """

    def __init__(self, user: str) -> None:
        super().__init__(
            f"this {user} is in use by the event loop of another thread: let that loop make the call (anyio.from_thread.run), "
            f"or make a {user} for each thread"
        )


class ConnectionFailed(RedisaqError, ConnectionError):
    """The server could not be reached, refused us, or the connection broke during a request.

    Attributes:
        url: the server's address, without its password.
        reason: what happened, in words.
        maybe_executed: True if the request had been written, at least in part, when the connection broke, so that the server may have
            executed it.
        permanent: True if trying again cannot help (wrong password, no such database, server too old).
        silent: True if nothing was heard from the server in time, rather than a refusal or an end of the connection.
        connections: with `maybe_executed`, identifies each connection that may still carry a part of the request (C2): client id, address
            as the server sees it, the server's run_id (E1).
        another_run: True if a part of the request may have gone to another run of a server than would have answered before it (E2).
        of_node: True if it is about a node of a cluster; the others may answer.
        appended: if a part of a batch was appended: for each message its entry id, None if it was not appended. None otherwise.
    """

    def __init__(self, url: str, reason: str, *, maybe_executed: bool = False, permanent: bool = False, silent: bool = False) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self.reason = reason
        self.maybe_executed = maybe_executed
        self.permanent = permanent
        self.silent = silent
        self.connections: tuple[tuple[int, str, str], ...] = ()
        self.another_run = False
        self.of_node = False
        self.appended: Sequence[bytes | None] | None = None

    def unsent(self) -> ConnectionFailed:
        """Return the same error for a request of which nothing was sent: another request may have been executed, not this one."""
        return ConnectionFailed(self.url, self.reason, permanent=self.permanent, silent=self.silent)


class ServerError(RedisaqError):
    """The server answered a command with an error that redisaq cannot fix (out of memory, no permission).

    Attributes:
        code: the first word of the server's answer (`OOM`, `NOPERM`, `WRONGTYPE`, ...). `NOAUTH` also where a server that wants a log-in
            does not read a long command.
        text: the whole answer.
        appended: if some of several appends were refused: for each its entry id, None if it was refused or its stream does not exist. None
            for other commands.
    """

    def __init__(self, text: str, *, appended: Sequence[bytes | None] | None = None) -> None:
        super().__init__(text)
        self.appended = appended
        self.text = text
        self.code = "NOAUTH" if text.startswith(_UNREAD) else text.split(" ", 1)[0]

    @property
    def redirect(self) -> bool:
        """True if a node of a cluster says that it does not serve the key, or the channel, now; it has executed nothing (C1)."""
        return self.code in _REDIRECTS

    @property
    def forbidden(self) -> bool:
        """True if the server does not permit the command: its access rules forbid it, or it was renamed."""
        return any(words in self.text for words in _FORBIDDEN)


class DamagedKeyError(ServerError):
    """A key holds data that redisaq did not write: it is of another type, or its content is impossible. It is left as it is.

    Repair or delete the key, or use another namespace. The text says what is wrong.

    Attributes:
        key: its name.
    """

    def __init__(self, key: bytes, reason: str, *, code: str = "DAMAGED", appended: Sequence[bytes | None] | None = None) -> None:
        self.key = key.decode("utf-8", "backslashreplace")
        super().__init__(f"{code} the key {self.key} {reason}", appended=appended)


class ServerFull(ServerError):
    """The server's memory is full, and its policy evicts nothing (`OOM`): the command was refused.

    The error ends when memory is freed, among others by consumers: until then they repeat their own steps, forever.
    """


class SerializationError(RedisaqError, ValueError):
    """The caller's payload or headers cannot be turned into bytes, or bytes cannot be turned back into the wanted type.

    Change the payload, or give a serializer that knows its type; nothing has been sent.
    """


class PartitionKeyError(RedisaqError, KeyError):
    """The payload has no field of the name that `partition_key` gives.

    Attributes:
        partition_key: the missing name.
    """

    def __init__(self, partition_key: str, reason: str) -> None:
        super().__init__(reason)
        self.partition_key = partition_key
        self.reason = reason

    def __str__(self) -> str:
        """Return the sentence as it is (KeyError would print its repr)."""
        return self.reason


class PayloadTooLarge(RedisaqError, ValueError):
    """A message (its serialized payload, key and headers) is longer than the producer's `max_payload`.

    Store the large data elsewhere and enqueue a reference to it, or raise `max_payload`.

    Attributes:
        size: bytes of the message.
        limit: bytes allowed.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the message (payload, key and headers) has {size} bytes, max_payload allows {limit}")
        self.size = size
        self.limit = limit


class QueueFull(RedisaqError):
    """The topic's partition already has `max_backlog` waiting entries: try later, or add consumers."""


class AmbiguousEnqueueError(RedisaqError):
    """A connection broke, or no answer came in time, while messages were being sent; it is unknown whether they arrived.

    They may or may not be in the topic. Send them again if handling one twice is harmless; otherwise look for their ids.

    Attributes:
        message_ids: those whose fate is unknown; empty if it was not a message, but the growth of the topic.
    """

    def __init__(self, message_ids: Sequence[str], reason: str) -> None:
        what = f"{len(message_ids)} message(s) were enqueued" if message_ids else "the topic has grown"
        super().__init__(f"it is unknown whether {what}: {reason}")
        self.message_ids = tuple(message_ids)
        self.reason = reason


class UnknownFormatError(RedisaqError):
    """The topic's data has a layout that this version of redisaq does not know: a later version wrote it.

    Nothing was changed. Install that version, or a later one.

    Attributes:
        topic: the topic's name.
        format: the number of its layout.
    """

    def __init__(self, topic: str, format: int, known: int) -> None:  # noqa: A002 -- the word for it, here and in the topic's data
        super().__init__(f"topic {topic} has format {format}, and this version of redisaq knows formats up to {known}: install a later one")
        self.topic = topic
        self.format = format


class TopicMissingError(RedisaqError, LookupError):
    """There is no topic of that name. A producer, or `init_partitions`, makes one."""


class GroupBusyError(RedisaqError):
    """An admin operation on a group is impossible while it has live members: stop them first, or, to seek, pause the group.

    Attributes:
        members: the live incarnations.
    """

    def __init__(self, reason: str, members: Sequence[str]) -> None:
        super().__init__(reason)
        self.members = tuple(members)


class ConsumerError(RedisaqError):
    """A consumer ended because of an error, which is its `__cause__`. A handler's own exception never ends a consumer."""


class GroupGoneError(RedisaqError):
    """The server does not know the group to read, or its topic (T6): it lost its data, or they were deleted.

    A consumer makes them again and continues to read.
    """


class LeaseLostError(RedisaqError):
    """This member no longer owns the partition: another member does, or may soon. Nothing was changed."""


class NotHandled(RedisaqError):
    """A pulled message failed without an exception of its body: it was dropped before it was entered, or its body was cancelled.

    The loop has continued without it. It goes to the retry policy, as a handler's own exception does. Enter each message, or keep it.
    """


class ActorStopped(RedisaqError):
    """The actor that should receive a message or a question has stopped, or restarted with the request in hand.

    Attributes:
        leftover: how many messages were still in its mailbox.
    """

    def __init__(self, path: str, reason: str = "stopped", *, leftover: int = 0) -> None:
        super().__init__(f"actor {path} {reason}" + (f", {leftover} message(s) left" if leftover else ""))
        self.path = path
        self.leftover = leftover


class RestartsExceeded(RedisaqError):
    """An actor failed more often than its RestartPolicy allows; raised from the last failure.

    Attributes:
        path: the actor's place in the tree.
        restarts: how many restarts were granted within the policy's window.
    """

    def __init__(self, path: str, restarts: int) -> None:
        super().__init__(f"actor {path} failed again after {restarts} restart(s)")
        self.path = path
        self.restarts = restarts
