"""Finds out whether a member still owns a partition of which the server refused a step.

Either another member has taken it, or a seek has spent the token (S5). Then the owner goes on under the token that the seek has left to the
holder, and sends the refused step again.
"""

from __future__ import annotations

from redisaq.brokers.steps.leases import Install
from redisaq.brokers.steps.settling import Resolve
from redisaq.consuming.contact import insist
from redisaq.consuming.context import Surroundings
from redisaq.consuming.owned import OwnedPartition


async def still_owned(around: Surroundings, owned: OwnedPartition, token: int, reason: str) -> bool:
    """Return whether the partition is still this member's, after a step was refused under `token`; if not, it is lost for this reason."""
    if not owned.lost and not await spent(around, owned, token):
        owned.lose(reason)
    return not owned.lost


async def spent(around: Surroundings, owned: OwnedPartition, token: int) -> bool:
    """Return whether a seek has spent this token, and the owner goes on under the one that it left."""
    if owned.standing != token:  # another task has found it out meanwhile
        return True
    nothing = Resolve(around.group, owned.partition, token, (), dead_maxlen=around.dead_maxlen)
    return (await around.broker.do(nothing)).spent and await install_again(around, owned, token)


async def install_again(around: Surroundings, owned: OwnedPartition, token: int) -> bool:
    """Go on under this token if the server has lost it (T2), or under that which a seek has left; False if another member was faster.

    The first Install asks which of these it is. After a seek, an Install of the new token says that its holder has heard of it. This is no
    step of its own: the holder may install the current token again at any time (T2), and the server forgets then what the seek has moved.
    """
    incarnation = owned.lease.incarnation
    installed = await around.granting.do(Install(around.group, owned.partition, token, incarnation, foreign=False))
    if installed.done or owned.standing != token:
        return True
    if installed.moved is None or installed.holder != incarnation:
        return False
    owned.flights.moved(installed.token, *installed.moved)
    owned.changed()
    # Said again under the new token, until it is answered: else the next seek would begin with what this one has moved.
    again = lambda: around.granting.do(Install(around.group, owned.partition, owned.standing, incarnation, foreign=False))  # noqa: E731 -- one step, to repeat
    await insist(again, around.environment)
    return True
