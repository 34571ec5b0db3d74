"""Tokens beside the data: install and release (T2, M6, M8)."""

from __future__ import annotations

import anyio
import pytest

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.administration import END, START, ReadServer, Seek
from redisaq.brokers.steps.leases import Claim, Fence, Install, Installed, Release, SetDeliveries
from redisaq.brokers.steps.settling import Acknowledge, Resolve, Settled
from redisaq.brokers.terms import GroupName
from redisaq.core.records import Body, Resolution
from redisaq.errors import LeaseLostError
from tests.conformance.failures import delivered
from tests.conformance.steps import ids, pending
from tests.conformance.worlds import World

pytestmark = pytest.mark.anyio


async def test_the_first_install(a: Broker, group: GroupName) -> None:
    assert await a.do(Install(group, 0, 5, "A", foreign=False)) == Installed(done=True, token=5, holder="")


async def test_installing_needs_no_stream(a: Broker, b: Broker) -> None:
    missing = GroupName("missing", "missing")
    assert (await a.do(Install(missing, 3, 5, "A", foreign=True))).done
    assert await b.do(Install(missing, 3, 4, "B", foreign=True)) == Installed(done=False, token=5, holder="A")


async def test_a_greater_token_stands(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    assert await b.do(Install(group, 0, owned + 1, "B", foreign=True)) == Installed(done=True, token=owned + 1, holder="A")
    assert await a.do_each([Acknowledge(group, 0, owned, [])]) == [Settled(done=False, token=owned + 1)]
    assert await b.do_each([Acknowledge(group, 0, owned + 1, [])]) == [Settled(done=True, token=owned + 1)]


@pytest.mark.parametrize("foreign", [False, True])
async def test_a_lower_token_learns_which_one_counts(a: Broker, b: Broker, group: GroupName, owned: int, foreign: bool) -> None:
    """T2: a delayed install of an old owner."""
    assert await b.do(Install(group, 0, owned - 1, "B", foreign=foreign)) == Installed(done=False, token=owned, holder="A")
    assert await a.do(Install(group, 0, owned - 1, "A", foreign=foreign)) == Installed(done=False, token=owned, holder="A")
    assert await a.do_each([Acknowledge(group, 0, owned, [])]) == [Settled(done=True, token=owned)]


async def test_the_same_token_belongs_to_one_holder(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    assert await b.do(Install(group, 0, owned, "B", foreign=True)) == Installed(done=False, token=owned, holder="A")


@pytest.mark.parametrize("foreign", [False, True])
async def test_a_repeated_install_is_done(a: Broker, group: GroupName, owned: int, foreign: bool) -> None:
    """Its answer may have been lost."""
    assert await a.do(Install(group, 0, owned, "A", foreign=foreign)) == Installed(done=True, token=owned, holder="A")


async def test_tokens_are_compared_as_numbers(a: Broker, group: GroupName) -> None:
    assert (await a.do(Install(group, 0, 9, "A", foreign=True))).done
    assert (await a.do(Install(group, 0, 10, "A", foreign=True))).done
    assert not (await a.do(Install(group, 0, 9, "A", foreign=True))).done


async def test_tokens_keep_every_digit(a: Broker, group: GroupName) -> None:
    """M6: microseconds have sixteen digits, and every one counts."""
    token = 1_999_999_999_999_993
    for number in range(token, token + 3):
        assert await a.do(Install(group, 0, number, "A", foreign=True)) == Installed(
            done=True, token=number, holder="A" if number > token else ""
        )
        assert (
            await a.do_each([Acknowledge(group, 0, number - 1, []), Acknowledge(group, 0, number + 1, [])])
            == [Settled(done=False, token=number)] * 2
        )


async def test_a_foreign_holder_keeps_others_out(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """M7, M8: until the caller knows that the holder cannot live."""
    assert await b.do(Install(group, 0, owned + 1, "B", foreign=False)) == Installed(done=False, token=owned, holder="A")
    assert await a.do_each([Acknowledge(group, 0, owned, [])]) == [Settled(done=True, token=owned)]


async def test_ones_own_incarnation_is_not_foreign(a: Broker, group: GroupName, owned: int) -> None:
    assert await a.do(Install(group, 0, owned + 1, "A", foreign=False)) == Installed(done=True, token=owned + 1, holder="A")


async def test_release_lets_others_in(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """M8: holder and readers are cleared, the token is kept."""
    await a.open_reader(group, 0, owned, "A")
    assert await a.do(Release(group, 0, owned))
    assert await b.do(Install(group, 0, owned - 1, "B", foreign=False)) == Installed(done=False, token=owned, holder="")
    assert await b.do(Install(group, 0, owned, "B", foreign=False)) == Installed(done=False, token=owned, holder="")
    assert await b.do(Install(group, 0, owned + 1, "B", foreign=False)) == Installed(done=True, token=owned + 1, holder="")


async def test_a_released_token_is_not_installed_again(a: Broker, group: GroupName, owned: int) -> None:
    """A delayed install of who has let go already."""
    assert await a.do(Release(group, 0, owned))
    assert await a.do(Install(group, 0, owned, "A", foreign=True)) == Installed(done=False, token=owned, holder="")


async def test_release_under_another_token(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    await b.do(Install(group, 0, owned + 1, "B", foreign=True))
    reader = await b.open_reader(group, 0, owned + 1, "B")
    assert not await a.do(Release(group, 0, owned))
    assert not await a.do(Release(group, 1, owned)), "no token stands there"
    assert await b.do(Install(group, 0, owned + 1, "B", foreign=False)) == Installed(
        done=True, token=owned + 1, holder="B", readers=(reader.mark,)
    )


async def test_release_may_be_repeated(a: Broker, group: GroupName, owned: int) -> None:
    assert await a.do(Release(group, 0, owned))
    assert await a.do(Release(group, 0, owned))


async def test_partitions_and_groups_have_their_own_tokens(a: Broker, group: GroupName, owned: int) -> None:
    assert (await a.do(Install(group, 1, 1, "B", foreign=False))).done
    assert (await a.do(Install(GroupName(group.topic, "other"), 0, 1, "B", foreign=False))).done
    assert (await a.do(Install(GroupName("other", group.group), 0, 1, "B", foreign=False))).done
    assert await a.do_each([Acknowledge(group, 0, owned, [])]) == [Settled(done=True, token=owned)]


async def test_lost_data_takes_the_token_along(world: World, a: Broker, group: GroupName, owned: int) -> None:
    """T2: the owner sees that there is none, and installs it again."""
    world.forget_partition(group.topic, 0)
    assert await a.do_each([Acknowledge(group, 0, owned, [b"1-1"])]) == [Settled(done=False, token=0)]
    assert not await a.do(Release(group, 0, owned))
    assert not await a.do(SetDeliveries(group, 0, owned, {b"1-1": 1}))
    with pytest.raises(LeaseLostError):
        await a.do(Claim(group, 0, owned, after=b"", count=1))
    with pytest.raises(LeaseLostError):
        await a.open_reader(group, 0, owned, "A")
    assert await a.do(Install(group, 0, owned, "A", foreign=False)) == Installed(done=True, token=owned, holder="")


async def test_tokens_stay_when_the_coordination_is_lost(world: World, a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """M8: the next member finds the holder."""
    world.forget_group(group)
    assert await b.do(Install(group, 0, owned + 1, "B", foreign=False)) == Installed(done=False, token=owned, holder="A")


async def test_a_full_server_still_passes_partitions_on(world: World, a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    """S2: otherwise nobody could work off what fills it."""
    with world.full():
        assert (await b.do(Install(group, 0, owned + 1, "B", foreign=True))).done
        reader = await b.open_reader(group, 0, owned + 1, "B")
        assert await b.do(Fence(group, 0, owned + 1, [reader.mark]))
        assert await b.do(Release(group, 0, owned + 1))
    assert a is not b


# -- a seek spends the token (S5) ----------------------------------------------------------------------------------------------------------


async def test_a_seek_spends_the_token_and_says_what_it_moved(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    entries = ids(await delivered(a, group, owned, b"1", b"2", b"3"))
    bell = await b.listen_partition(group.topic, 0)
    await a.do(Seek(group, 0, entries[1]))
    with anyio.fail_after(30):
        await bell.wait()
    await bell.close()
    refused = await a.do(Install(group, 0, owned, "A", foreign=False))
    assert (refused.done, refused.holder, refused.moved) == (False, "A", (entries[1], entries[2]))
    assert refused.token > owned
    assert await a.do_each([Acknowledge(group, 0, owned, entries)]) == [Settled(done=False, token=refused.token, spent=True)]
    resolved = await a.do(Resolve(group, 0, owned, [Resolution("stream", "done", Body(entries[0], ()))], dead_maxlen=None))
    assert (resolved.done, resolved.token, resolved.spent) == (False, refused.token, True)
    with pytest.raises(LeaseLostError):
        await a.do(Claim(group, 0, owned, after=b"", count=10))
    assert list(await pending(a, group, 0, refused.token)) == entries[:2], "nothing of that had any effect"


async def test_several_seeks_are_reported_as_one_until_a_token_is_installed(a: Broker, b: Broker, group: GroupName, owned: int) -> None:
    entries = ids(await delivered(a, group, owned, b"1", b"2", b"3"))
    for position in (entries[1], START, entries[0], END):
        await a.do(Seek(group, 0, position))
    refused = await a.do(Install(group, 0, owned, "A", foreign=False))
    assert refused.moved == (START, entries[2])
    assert (await a.do(Install(group, 0, refused.token, "A", foreign=False))).done
    greater = await b.do(Install(group, 0, owned, "A", foreign=False))
    assert (greater.done, greater.moved) == (False, None)
    assert not (await a.do_each([Acknowledge(group, 0, owned, entries)]))[0].spent


async def test_a_token_that_is_spent_is_greater_than_the_servers_time(a: Broker, group: GroupName, owned: int) -> None:
    """M6: nobody is given it, before or after."""
    before = (await a.do(ReadServer())).now
    await a.do(Seek(group, 0, END))
    first = (await a.do(Install(group, 0, owned, "A", foreign=False))).token
    await a.do(Seek(group, 0, END))
    assert before <= first < (await a.do(Install(group, 0, owned, "A", foreign=False))).token


async def test_a_partition_without_an_owner_has_no_token_to_spend(a: Broker, group: GroupName, owned: int) -> None:
    assert owned
    await a.do(Seek(group, 1, START))
    assert await a.do(Install(group, 1, 5, "A", foreign=False)) == Installed(done=True, token=5, holder="")
