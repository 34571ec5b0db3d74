"""Making a connection: how long each address is tried, what is set on a socket, and what each failure says to try."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import warnings
from typing import Any

import anyio
import pytest
from hiredis import ProtocolError

from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed
from redisaq.link import dial
from redisaq.link.address import Address, TLSOptions
from redisaq.link.dial import Dialer
from redisaq.testing import virtual_run

ADDRESS = Address(host="host")
REFUSED = OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def test_each_address_of_a_name_gets_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that drops packets does not keep the others from being tried."""
    tried: list[tuple[float, object]] = []

    async def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (f"10.0.0.{number}", 6379)) for number in range(4)]

    async def open_one(_family: int, target: tuple[str, int]) -> socket.socket:
        tried.append((anyio.current_time(), target[0]))
        if target[0] in {"10.0.0.0", "10.0.0.2"}:
            await anyio.sleep_forever()
        raise REFUSED

    monkeypatch.setattr(anyio, "getaddrinfo", resolve)
    monkeypatch.setattr(dial, "_open", open_one)

    async def main() -> ConnectionFailed:
        with pytest.raises(ConnectionFailed) as caught, anyio.fail_after(8.0):
            await Dialer(ADDRESS)._connect(ADDRESS)
        return caught.value

    error = virtual_run(main)
    assert tried == [(0.0, "10.0.0.0"), (2.0, "10.0.0.1"), (2.0, "10.0.0.2"), (5.0, "10.0.0.3")]
    problems = "10.0.0.0: no answer; 10.0.0.1: Connection refused; 10.0.0.2: no answer; 10.0.0.3: Connection refused"
    assert error.reason == f"cannot connect ({problems}): check host and port, and that the server runs"


def test_a_socket_whose_backlog_is_full_is_tried_again_each_hundredth_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[float] = []

    async def open_one(_family: int, _target: str) -> str:
        tried.append(anyio.current_time())
        if len(tried) < 4:
            raise BlockingIOError
        return "a socket"

    monkeypatch.setattr(dial, "_open", open_one)

    async def main() -> object:
        return await dial._open_unix(Address(scheme="unix", path="/a/socket"))

    assert virtual_run(main) == "a socket"
    assert tried == pytest.approx([0.0, 0.01, 0.02, 0.03])


@pytest.mark.anyio
async def test_a_connection_counts_once_the_other_side_has_taken_it() -> None:
    """Where packets are dropped, the next address has to get its turn."""
    with socket.socket() as full, socket.socket() as taken:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        taken.setblocking(False)
        taken.connect_ex(full.getsockname())
        others: list[socket.socket] = []
        with anyio.move_on_after(0.02) as scope:
            while len(others) < 3:
                others.append(await dial._open(socket.AF_INET, full.getsockname()))
        for other in others:
            other.close()
        assert scope.cancelled_caught


@pytest.mark.anyio
async def test_a_peer_that_vanished_is_noticed_by_the_system_and_nothing_is_held_back() -> None:
    """Probes after 10 s, each 5 s, three of them; 20 s for what is not acknowledged."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = await dial._open(socket.AF_INET, listener.getsockname())
    with sock:
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        wanted = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 20_000}
        there = {name: getattr(socket, name) for name in wanted if hasattr(socket, name)}
        assert {name: sock.getsockopt(socket.IPPROTO_TCP, option) for name, option in there.items()} == {
            name: wanted[name] for name in there
        }


def test_a_child_made_by_fork_has_no_copy_of_the_socket() -> None:
    """The server would see no end of the connection while the child lives."""

    async def main() -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            sock = await dial._open(socket.AF_INET, listener.getsockname())
        with sock, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads
            number = sock.fileno()
            child = os.fork()
            if not child:
                try:
                    os.fstat(number)
                except OSError:
                    os._exit(0)
                os._exit(1)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert anyio.run(main) == 0


def test_a_server_that_says_nothing_was_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted dial was not."""
    reached: list[float] = []

    async def main() -> list[bool]:
        async def reach() -> Address:
            reached.append(anyio.current_time())
            await anyio.sleep_forever()
            return ADDRESS

        dialer, silent = Dialer(Address(connect_timeout=2.0), reach, silence=1.0), list[bool]()

        async def give_up() -> None:
            await anyio.sleep(0.5)
            dialer.interrupt("not wanted any more")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(give_up)
            with pytest.raises(ConnectionFailed, match="not wanted any more") as caught:
                await dialer.dial(Environment(clock=anyio.current_time))
            silent.append(caught.value.silent)

        async def connect(_: Address) -> Any:
            await anyio.sleep_forever()

        dialer = Dialer(Address(connect_timeout=2.0), silence=1.0)
        monkeypatch.setattr(dialer, "_connect", connect)  # a host that drops packets
        began = anyio.current_time()
        with pytest.raises(ConnectionFailed, match="no answer within 1 s") as caught:
            await dialer.dial(Environment(clock=anyio.current_time))
        assert anyio.current_time() - began == 1.0
        return [*silent, caught.value.silent]

    assert virtual_run(main) == [False, True]
    assert reached == [0.0]


def test_who_learns_of_another_server_ends_the_dials_to_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose address is not known yet may go to the right one."""
    right, other = Address(host="right"), Address(host="other")

    async def main() -> dict[str, str]:
        ended, addresses = dict[str, str](), iter([right, other])

        async def reach() -> Address:
            address = next(addresses, None)
            if address is None:
                await anyio.sleep_forever()
            assert address is not None
            return address

        async def dial_one(*_: object) -> Any:
            await anyio.sleep_forever()

        dialer = Dialer(ADDRESS, reach)
        monkeypatch.setattr(dialer, "_dial", dial_one)

        async def go(name: str) -> None:
            with pytest.raises(ConnectionFailed) as caught:
                await dialer.dial(Environment(clock=anyio.current_time))
            ended[name] = caught.value.reason

        async with anyio.create_task_group() as tasks:
            for name in ("right", "other", "unknown"):
                tasks.start_soon(go, name)
                await anyio.sleep(1.0)
            dialer.interrupt("it is another now", besides=right)
            await anyio.sleep(1.0)
            assert ended == {"other": "it is another now"}
            dialer.interrupt()
        return ended

    assert virtual_run(main) == {"other": "it is another now", "right": "the link was closed", "unknown": "the link was closed"}


# -- what failures say ----------------------------------------------------------------------------------------------------------------

ANNOUNCED = Address(host="10.0.0.1", announced="announce-ip")
PLAIN = "does the server speak TLS on this port?"


def not_accepted(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "a reason"
    return error


@pytest.mark.parametrize(
    ("code", "address", "hint"),
    [
        (62, ADDRESS, "a name other than host: use the certificate's name in the URL, or ssl_check_hostname=false there"),
        (63, ADDRESS, "a name other than host: use the certificate's name"),
        (64, ADDRESS, "a name other than host: use the certificate's name"),
        (64, ANNOUNCED, "a name other than 10.0.0.1: have the servers announce its names (announce-ip)"),
        (9, ADDRESS, "renew it on the server, and check this machine's clock"),
        (10, ADDRESS, "renew it on the server, and check this machine's clock"),
        (20, ADDRESS, "name the file of the authority that signed it with ssl_ca_certs=FILE"),
        (11, ADDRESS, "name the file of the authority"),
        (65, ADDRESS, "name the file of the authority"),
    ],
)
def test_what_to_do_about_a_certificate(code: int, address: Address, hint: str) -> None:
    error = dial._tls_failed(address, not_accepted(code))
    assert "the server's certificate was not accepted (a reason)" in error.reason
    assert hint in error.reason
    assert error.permanent


@pytest.mark.parametrize(
    ("reason", "words", "permanent"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "did not accept our certificate, or asks for one", True),
        ("TLSV1_ALERT_UNKNOWN_CA", "did not accept our certificate, or asks for one", True),
        ("WRONG_VERSION_NUMBER", f"TLS failed (WRONG_VERSION_NUMBER): {PLAIN}", False),
    ],
)
def test_what_an_alert_says(reason: str, words: str, permanent: bool) -> None:
    alert = ssl.SSLError(1, "text")
    alert.reason = reason
    error = dial._tls_failed(ADDRESS, alert)
    assert words in error.reason
    assert error.permanent == permanent


TLS = Address(scheme="rediss", host="host", tls=TLSOptions())
ALERT = ssl.SSLError(1, "text")
ALERT.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"


@pytest.mark.parametrize(
    ("address", "cause", "words"),
    [
        (ADDRESS, ProtocolError("no RESP"), "the answer is not a Redis server's (no RESP)"),
        (TLS, ProtocolError("no RESP"), "the answer is not a Redis server's (no RESP)"),
        (ADDRESS, ConnectionResetError("it ended"), "it ended before it had answered; does it accept one more client (maxclients)?"),
        (TLS, ConnectionResetError("it ended"), "it ended; does the server ask for a client certificate"),
        (TLS, ALERT, "did not accept our certificate"),
        (ADDRESS, None, "it ended"),
    ],
)
def test_what_it_may_mean_that_a_connection_breaks_during_the_login(address: Address, cause: Exception | None, words: str) -> None:
    broken = ConnectionFailed(address.display, "it ended", maybe_executed=True)
    broken.__cause__ = cause
    error = dial._broke(address, broken)
    assert error.reason.startswith(words) or words in error.reason
    assert not error.maybe_executed
    if cause is None:
        assert error.reason == "it ended"


def test_an_announced_address_may_not_be_meant_for_clients() -> None:
    assert dial._announced(ADDRESS) == ""
    assert "the announced 10.0.0.1:6379 (announce-ip)" in dial._announced(ANNOUNCED)
