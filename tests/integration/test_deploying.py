"""The files of docs/operate/deploy, and the unit of systemd.md: they can be read, and name commands and metrics that exist."""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from redisaq.cli.command_line import make_commands
from redisaq.settings import ConsumerSettings
from tests.app.test_metrics import exported, names_of
from tests.integration.walkthroughs import pieces_of
from tests.server_fixtures import ServerPool
from tests.unit.source import ROOT

yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")

DEPLOY = ROOT / "docs" / "operate" / "deploy"


def page(name: str) -> str:
    return (ROOT / "docs" / "operate" / f"{name}.md").read_text(encoding="utf-8")


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def service() -> configparser.SectionProxy:
    """Return the unit's section, as the page on systemd has it."""
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their capitals
    (unit,) = [piece.text for piece in pieces_of(page("systemd")) if piece.title.endswith("/redisaq-worker.service")]
    parser.read_string(unit)
    return parser["Service"]


def container() -> dict[str, Any]:
    deployment, _ = documents("kubernetes.yaml")
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)


def commands() -> Iterable[list[str]]:
    yield shlex.split(service()["ExecStart"])
    yield container()["args"]
    yield documents("compose.yaml")[0]["services"]["worker"]["command"]
    yield from (shlex.split(text) for text in re.findall(r"`(redisaq worker shop:app [^`…]*)`", page("deploying")))


def test_every_command_is_one_of_ours() -> None:
    found = list(commands())
    assert len(found) >= 4
    for program, *words in found:
        assert Path(program).name == "redisaq"
        command, _, _ = make_commands().parse_args(words, exit_on_error=False)
        assert command.__name__ == "worker"


def test_whatever_stops_a_worker_waits_longer_than_it_drains() -> None:
    deployment, _ = documents("kubernetes.yaml")
    waits = [
        int(service()["TimeoutStopSec"]),
        deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"],
        int(documents("compose.yaml")[0]["services"]["worker"]["stop_grace_period"].removesuffix("s")),
    ]
    assert min(waits) >= ConsumerSettings().drain_timeout + 10
    assert service()["KillMode"] == "mixed"


def test_probes_ask_what_is_answered() -> None:
    found = container()
    assert found["livenessProbe"]["httpGet"]["path"] == "/live"
    assert found["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert f":{found['ports'][0]['containerPort']}" in " ".join(found["args"])


def test_alerts_and_scaling_name_metrics_that_exist() -> None:
    rules = documents("alerts.yaml")[0]["groups"][0]["rules"]
    expressions = [rule["expr"] for rule in rules] + [one["metadata"]["query"] for one in documents("keda.yaml")[0]["spec"]["triggers"]]
    for expression in expressions:
        names = names_of(expression)
        assert names
        assert names <= exported(), expression
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 8


def test_the_page_names_all_metrics_of_ours_and_no_others() -> None:
    table = set(re.findall(r"`((?:redisaq|messaging)_[a-z_]+)`", page("metrics"))) - {
        "messaging_destination_name",
        "messaging_consumer_group_name",
    }
    ours = {name for name in exported() if name.startswith(("redisaq_", "messaging_"))}
    assert table == {re.sub(r"_(bucket|sum|count)$", "", name) for name in ours}


def test_the_pages_name_every_file() -> None:
    assert {file.name for file in DEPLOY.iterdir()} == set(
        re.findall(r"\(deploy/([\w.-]+)\)", page("deploying") + page("redis") + page("metrics"))
    )


def test_a_server_takes_the_settings(server_pool: ServerPool) -> None:
    lines = [line.split(maxsplit=1) for line in (DEPLOY / "redis.conf").read_text().splitlines() if line and line[0] != "#"]
    server = server_pool.new("redis7", *(word for name, value in lines for word in (f"--{name}", value)))
    try:
        settings = {name: server.command("CONFIG", "GET", name)[1].decode() for name, _ in lines}
    finally:
        server.close()
    assert settings.pop("maxmemory") == str(2 << 30)
    assert settings == {name: value for name, value in lines if name != "maxmemory"}
