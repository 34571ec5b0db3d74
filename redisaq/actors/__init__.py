"""The kernel: actors with bounded mailboxes, supervised in a tree, on any event loop that anyio runs on.

It works by itself and knows nothing of Redis. The actors that make up a consumer are in `redisaq.consuming`.
"""

from __future__ import annotations

from redisaq.actors.actor import Actor
from redisaq.actors.mailbox import Mailbox
from redisaq.actors.ref import ActorRef
from redisaq.actors.restart import RestartPolicy
from redisaq.actors.supervisor import Supervisor
from redisaq.actors.tree import Node
from redisaq.actors.waiting import Reply
from redisaq.errors import ActorStopped, RestartsExceeded

__all__ = ["Actor", "ActorRef", "ActorStopped", "Mailbox", "Node", "Reply", "RestartPolicy", "RestartsExceeded", "Supervisor"]
