"""Every error that redisaq raises on purpose: one small tree.

Each class says who caused it and what to do about it. Passwords never stand in them: an URL is shown without its password.
"""

from __future__ import annotations

from collections.abc import Sequence


class RedisaqError(Exception):
    """The root: `except RedisaqError` catches whatever redisaq raises on purpose."""


_FORBIDDEN = ("NOPERM", "unknown command", "ACL failure in script", "The user executing the script can't")
"""What servers write where access rules forbid something; the last two, of Redis 7.2 and 7.0, where a script calls it."""


class SettingsError(RedisaqError, ValueError):
    """The caller gave a value that cannot work (a name with braces, a ttl below the heartbeat).

    Correct the value; nothing has been sent.
    """


class WrongThreadError(RedisaqError, RuntimeError):
    """A Producer, Consumer or Admin was called from another thread than the one whose event loop uses it at the moment.

    Nothing was sent, and the calls that are under way are not affected. Let that event loop make the call, or give each thread an object
    of its own.
    """

    def __init__(self, user: str) -> None:
        super().__init__(
            f"this {user} is in use by the event loop of another thread: let that loop make the call (anyio.from_thread.run), "
            f"or make a {user} for each thread"
        )


class ConnectionFailed(RedisaqError, ConnectionError):
    """The server could not be reached, refused us, or the connection broke under a request.

    Attributes:
        url: the server's address, without its password.
        reason: what happened, in words.
        maybe_executed: True if the request had (perhaps only partly) been written when the connection broke,
            so that the server may have carried it out.
        permanent: True if trying again cannot help (wrong password, no such database, server too old).
        silent: True if nothing was heard from the server in time, rather than a refusal or an end of the connection.
        connection: where `maybe_executed`, which connection it was: client id, address as the server sees it, the server's run_id (E1).
        appended: where a part of a batch was appended before: for each message its entry id, None if it was not appended. None otherwise.
    """

    def __init__(self, url: str, reason: str, *, maybe_executed: bool = False, permanent: bool = False, silent: bool = False) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self.reason = reason
        self.maybe_executed = maybe_executed
        self.permanent = permanent
        self.silent = silent
        self.connection: tuple[int, str, str] | None = None
        self.appended: Sequence[bytes | None] | None = None

    def unsent(self) -> ConnectionFailed:
        """Return the same for a request of which nothing was sent: it was something else that may have been carried out."""
        return ConnectionFailed(self.url, self.reason, permanent=self.permanent, silent=self.silent)


class ServerError(RedisaqError):
    """The server answered a command with an error that redisaq cannot mend (out of memory, no permission).

    Attributes:
        code: the first word of the server's answer (`OOM`, `NOPERM`, `WRONGTYPE`, ...).
        text: the whole answer.
        appended: where some of several appends were refused: for each its entry id, None where it was refused or its stream does not
            exist. None for other commands.
    """

    def __init__(self, text: str, *, appended: Sequence[bytes | None] | None = None) -> None:
        super().__init__(text)
        self.appended = appended
        self.text = text
        self.code = text.split(" ", 1)[0]

    @property
    def forbidden(self) -> bool:
        """True if the server does not let us: its access rules forbid the command, or it was renamed."""
        return any(words in self.text for words in _FORBIDDEN)


class DamagedKeyError(ServerError):
    """A key holds what redisaq did not write there: it is of another type, or says what cannot be. It is left as it is.

    Repair or delete the key, or use another namespace; what is broken stands in the text.

    Attributes:
        key: its name.
    """

    def __init__(self, key: bytes, reason: str, *, code: str = "DAMAGED", appended: Sequence[bytes | None] | None = None) -> None:
        self.key = key.decode("utf-8", "backslashreplace")
        super().__init__(f"{code} the key {self.key} {reason}", appended=appended)


class ServerFull(ServerError):
    """The server's memory is full, and its policy evicts nothing (`OOM`): the command was refused.

    It passes when memory is freed, by consumers among others: they repeat their own steps until then, forever.
    """


class SerializationError(RedisaqError, ValueError):
    """The caller's payload or headers cannot be turned into bytes, or bytes not back into the wanted type.

    Change the payload, or give a serializer that knows its type; nothing has been sent.
    """


class PartitionKeyError(RedisaqError, KeyError):
    """The payload has no field of the name that `partition_key` gives.

    Attributes:
        partition_key: the name that was looked for.
    """

    def __init__(self, partition_key: str, reason: str) -> None:
        super().__init__(reason)
        self.partition_key = partition_key
        self.reason = reason

    def __str__(self) -> str:
        """Return the sentence as it is (KeyError would print its repr)."""
        return self.reason


class PayloadTooLarge(RedisaqError, ValueError):
    """A message, which is its serialized payload, its key and its headers, is longer than the producer's `max_payload`.

    Store the large thing elsewhere and enqueue where it is, or raise `max_payload`.

    Attributes:
        size: bytes of the message.
        limit: bytes allowed.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the message (payload, key and headers) has {size} bytes, max_payload allows {limit}")
        self.size = size
        self.limit = limit


class QueueFull(RedisaqError):
    """The topic's partition holds `max_backlog` entries that wait: try later, or add consumers."""


class AmbiguousEnqueueError(RedisaqError):
    """A connection broke, or nothing was answered in time, while messages were being sent; whether they arrived cannot be told.

    They may or may not be in the topic. Send them again if handling one twice is harmless; look for their ids otherwise.

    Attributes:
        message_ids: those whose fate is unknown; empty if it was no message, but the growth of the topic.
    """

    def __init__(self, message_ids: Sequence[str], reason: str) -> None:
        what = f"{len(message_ids)} message(s) were enqueued" if message_ids else "the topic has grown"
        super().__init__(f"it is unknown whether {what}: {reason}")
        self.message_ids = tuple(message_ids)
        self.reason = reason


class TopicMissingError(RedisaqError, LookupError):
    """There is no topic of that name: a producer, or `init_partitions`, makes one."""


class GroupBusyError(RedisaqError):
    """What an admin wants of a group cannot be done while members of it are alive: stop them first, or pause the group to seek.

    Attributes:
        members: the live incarnations.
    """

    def __init__(self, reason: str, members: Sequence[str]) -> None:
        super().__init__(reason)
        self.members = tuple(members)


class ConsumerError(RedisaqError):
    """What ended a consumer; the cause is its `__cause__`. A handler's own exception never ends one."""


class GroupGoneError(RedisaqError):
    """The server does not know the group that was to be read, or its topic (T6): it lost its data, or somebody deleted them.

    A consumer makes them again and reads on.
    """


class LeaseLostError(RedisaqError):
    """This member no longer owns the partition: somebody else does, or may soon. Nothing was changed."""


class NotHandled(RedisaqError):
    """What a pulled message failed of that the loop went on without: it was dropped before anybody entered it, or its body was cancelled.

    It goes to the retry policy, as a handler's own exception does. Enter each message, or keep it.
    """


class ActorStopped(RedisaqError):
    """The actor that was told or asked something has stopped, or restarted with the request in hand.

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
