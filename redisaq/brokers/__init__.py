"""The brokers: what keeps the streams. `steps` says what can be done to them, and each broker does it.

`open_broker` returns the broker that a URL's scheme names, not connected yet. Each broker is imported only when
you ask for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import ContextVar

from redisaq.brokers.steps import Broker
from redisaq.environment import LONGEST_SILENCE, Environment
from redisaq.errors import SettingsError

__all__ = ["memory_brokers", "open_broker"]


def _memory_broker(name: str, namespace: str, environment: Environment | None, confirmed: bool) -> Broker:  # noqa: FBT001 -- see below
    del confirmed  # it has no replicas
    from redisaq.brokers.memory import MemoryBroker  # noqa: PLC0415 -- only on request, as the module's docstring says

    return MemoryBroker(name, namespace, environment)


MemoryBrokers = Callable[[str, str, Environment | None, bool], Broker]
"""Makes the brokers of `memory://name`, from the name, the namespace, the environment, and whether to wait for replicas."""

memory_brokers: ContextVar[MemoryBrokers] = ContextVar("redisaq_memory_brokers", default=_memory_broker)
"""What makes them in this context. A simulation sets its own."""

SERVERS = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")
"""Schemes of real servers."""


def open_broker(
    url: str,
    namespace: str,
    environment: Environment | None = None,
    *,
    client: str | None = None,
    silence: float = LONGEST_SILENCE,
    time: float = math.inf,
    confirmed: bool = False,
) -> Broker:
    """Return a broker for the URL. Nothing is connected, and no file touched, before `connect` or the first call.

    Args:
        url: `redis://`, `rediss://` or `unix://` for a server; `redis+cluster://` or `rediss+cluster://` for a cluster;
            `redis+sentinel://` or `rediss+sentinel://` for a server behind sentinels (see `parse_url`); `embedded://path` for a private
            server in that directory, started with its first user; `embedded://` for a private server of this process; `memory://name` for
            no server at all.
        namespace: the first part of every key's name, already validated.
        environment: gives clocks and random numbers. None: the context's environment.
        client: the user's label for the connections, for servers only. None: the machine and the process.
        silence: seconds after which a connection that owes an answer is given up if no byte arrives over it.
        time: seconds that one call may take if nothing else limits it (see `time_limit`).
        confirmed: let each step return only once a replica has what it wrote (C7). The memory broker has no replicas, and nothing that
            outlives its process: there it changes nothing.

    Raises:
        SettingsError: the URL cannot work.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme in ("memory", "embedded"):
        if scheme == "memory":
            return memory_brokers.get()(rest, namespace, environment, confirmed)
        if confirmed:
            raise SettingsError(
                "an embedded server has no replicas: leave out acks='replica' and durability='replica', or use another server"
            )
        from redisaq.brokers.embedded import EmbeddedBroker  # noqa: PLC0415 -- only on request, as the module's docstring says

        return EmbeddedBroker(rest, namespace, environment, client=client, silence=silence, time=time)
    if not separator or scheme not in SERVERS:
        # The URL is not shown: a mistyped one has its password in unexpected places.
        known = "://, ".join(SERVERS)
        raise SettingsError(f"the URL begins with none of {known}://, embedded:// and memory://")
    from redisaq.brokers.redis import RedisBroker  # noqa: PLC0415
    from redisaq.link import ClusterAddress, Link, SentinelAddress, parse_url  # noqa: PLC0415

    address = parse_url(url)
    if isinstance(address, ClusterAddress):
        from redisaq.link.cluster import ClusterLink  # noqa: PLC0415

        return RedisBroker(ClusterLink(address, environment, client=client, silence=silence, time=time, confirmed=confirmed), namespace)
    if isinstance(address, SentinelAddress):
        from redisaq.link.sentinel import SentinelLink  # noqa: PLC0415

        return RedisBroker(SentinelLink(address, environment, client=client, silence=silence, time=time, confirmed=confirmed), namespace)
    return RedisBroker(Link(address, environment, client=client, silence=silence, time=time, confirmed=confirmed), namespace)
