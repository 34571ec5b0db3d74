"""`redisaq doctor` on real servers: with wrong settings, for users of few rights, and where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redisaq.brokers.redis.rights import access_rules
from redisaq.cli import main
from tests.server_fixtures import ServerPool
from tests.servers import Server, free_port

Look = Callable[..., tuple[int, list[dict[str, Any]]]]


@pytest.fixture(scope="module", params=["valkey9", "redis7"])
def ill(request: pytest.FixtureRequest, server_pool: ServerPool) -> Iterator[Server]:
    """A server that keeps nothing, evicts, and closes idle connections."""
    own = server_pool.new(request.param, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--timeout", "5")
    yield own
    own.close()


@pytest.fixture
def look(capsys: pytest.CaptureFixture[str]) -> Look:
    """Run the command; return its status, and the findings that are not right."""

    def run(url: str, namespace: str = "shop") -> tuple[int, list[dict[str, Any]]]:
        status = main(["doctor", "--json", "--url", url, "--namespace", namespace])
        return status, [one for one in json.loads(capsys.readouterr().out) if one["level"] != "ok"]

    return run


def test_wrong_settings(ill: Server, look: Look, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = look(ill.url)
    fixes = [(one["level"], one["fix"]) for one in found]
    assert (status, fixes) == (
        1,
        [
            ("error", "CONFIG SET appendonly yes"),
            ("error", "CONFIG SET maxmemory-policy noeviction"),
            ("warning", "CONFIG SET timeout 0"),
        ],
    )
    assert main(["doctor", "--url", ill.url]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("ok       version: ")
    assert "         fix: CONFIG SET maxmemory-policy noeviction" in out
    assert out[-1] == "2 error(s), 1 warning(s)"
    try:
        for _, fix in fixes:  # each fix is a command of the server, and mends it
            ill.command(*fix.split())
        assert look(ill.url) == (0, [])
    finally:
        for setting in (("appendonly", "no"), ("maxmemory-policy", "allkeys-lru"), ("timeout", "5")):
            ill.command("CONFIG", "SET", *setting)
    assert ill.command("KEYS", "*") == []


@pytest.mark.parametrize("asks", [True, False], ids=["asks for its rights", "tries"])
def test_a_user_of_few_rights(ill: Server, look: Look, asks: bool) -> None:
    rules = [*access_rules("shop"), "-xadd", "-client|kill", "-ssubscribe", *(["+acl"] if asks else [])]
    ill.command("ACL", "SETUSER", "walker", "reset", "on", ">secret", *rules)
    url = f"redis://walker:secret@127.0.0.1:{ill.port}/0"
    ill.command("CONFIG", "RESETSTAT")
    status, found = look(url)
    assert (b"cmdstat_sadd:" in ill.command("INFO", "commandstats")) is not asks  # who may ask tries nothing
    # A server knows a subcommand in its access rules by its container.
    rights = {(one["level"], one["fix"].removeprefix("ACL SETUSER ")) for one in found if one["about"] == "rights"}
    name = "walker" if asks or "walker +" in str(found) else "default"
    assert status == 1
    assert rights == {("error", f"{name} +xadd"), ("warning", f"{name} +client|kill +ssubscribe")}
    assert ("warning", "settings") in {(one["level"], one["about"]) for one in found}
    assert "secret" not in str(found)
    ill.command("ACL", "SETUSER", "walker", "+xadd", "+client|kill", "+ssubscribe")
    assert [one for one in look(url)[1] if one["about"] == "rights"] == []
    ill.command("ACL", "SETUSER", "walker", "resetkeys", "resetchannels")
    rights = {(one["level"], one["fix"].removeprefix(f"ACL SETUSER {name} ")) for one in look(url)[1] if one["about"] == "rights"}
    assert rights == {("error", "~shop:topics ~{shop:*"), ("warning", "&{shop:*")}
    ill.command("ACL", "SETUSER", "walker", "~*", "&*", "-info")
    status, (finding,) = look(url)
    assert (status, finding["level"], finding["about"]) == (1, "error", "connection")
    ill.command(*finding["fix"].split())
    assert [one for one in look(url)[1] if one["about"] in ("rights", "connection")] == []
    assert ill.command("KEYS", "*") == []
    ill.command("ACL", "DELUSER", "walker")


def test_no_server(capsys: pytest.CaptureFixture[str], ill: Server) -> None:
    assert main(["doctor", "--url", f"redis://:secret@127.0.0.1:{free_port()}/0"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("redisaq doctor: ")
    assert "secret" not in captured.err
    assert main(["doctor", "--url", f"redis://nobody:secret@127.0.0.1:{ill.port}/0"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("error    connection: ")
    assert "wrong user name or password" in out
    assert "secret" not in out


def test_the_memory_broker(look: Look) -> None:
    status, (found,) = look("memory://nothing")
    assert (status, found["level"], found["about"]) == (0, "warning", "server")
