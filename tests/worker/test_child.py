"""What a child makes of its job: finding the App, and refusing what cannot be run."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from redisaq.errors import SettingsError
from redisaq.worker import child
from redisaq.worker.child import Service, prepare
from redisaq.worker.reports import Family, Job, Sample
from redisaq.worker.settings import WorkerSettings

PROGRAM = """
from redisaq import App

class Shop:
    inner = App("memory://")

app = App("memory://")
empty = App("memory://")
number = 1
app.topic("orders").consumer("billing", consumer_name="bill")(print)
app.topic("mails").consumer("sending")(print)
"""


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Write a program into the current directory."""
    (tmp_path / "some_shop.py").write_text(PROGRAM)
    (tmp_path / "needs_more.py").write_text("import not_there_at_all")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in ("some_shop", "needs_more"):
        sys.modules.pop(name, None)


def job(app: str, *, processes: int = 1, url: str | None = None) -> Job:
    return Job(app, 2, processes, "asyncio", url, None, measure=False, backlog=None, pulse=1.0)


def test_static_names_get_the_childs_number() -> None:
    app = prepare(job("some_shop:app"))
    assert [one.consumer.consumer_name for one in app.consumers] == ["bill-2", None]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("some_shop", "named as MODULE:NAME"),
        ("some_shop:", "named as MODULE:NAME"),
        ("some-shop:app", "named as MODULE:NAME"),
        ("no_shop:app", "there is no module 'no_shop'"),
        ("some_shop.jobs:app", r"there is no module 'some_shop\.jobs'"),
        ("some_shop:jobs", "module some_shop has no 'jobs'; its Apps are: app, empty"),
        ("some_shop:number", "is not an App: it is 1; its Apps are: app, empty"),
        ("some_shop:empty", "has no consumer"),
        ("some_shop:Shop.inner", "has no consumer"),
    ],
)
def test_what_cannot_be_run_is_a_sentence(place: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        prepare(job(place))


def test_a_memory_server_is_for_one_process() -> None:
    with pytest.raises(SettingsError, match="one process alone, and --processes asks for 2"):
        prepare(job("some_shop:app", processes=2))
    prepare(job("some_shop:app", processes=2, url="redis://elsewhere"))


def test_what_the_program_cannot_import_is_its_own_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        prepare(job("needs_more:app"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"processes": 0}, "processes must be from 1"),
        ({"backend": "curio"}, "backend must be one of"),
        ({"processes": 2, "reload": True}, "--reload is for one process"),
        ({"backlog": 5.0}, "without --health"),
    ],
)
def test_settings_that_cannot_work(options: dict[str, object], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        WorkerSettings("some_shop:app", **options)  # type: ignore[arg-type]  # wrong ones


class Ending:
    """An App that ends once every other task waits."""

    consumers = ()

    async def serve(self, *, task_status: Any) -> None:
        task_status.started()
        await anyio.wait_all_tasks_blocked()

    def healthy(self) -> bool:
        return True


@pytest.mark.anyio
async def test_a_child_ends_while_its_parent_takes_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last report then waits for the one before it, and is given up."""
    monkeypatch.setattr(child, "LAST_REPORT_SECONDS", 0.01)
    parents, pipe = socket.socketpair()
    with parents, pipe:
        pipe.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                pipe.send(bytes(1 << 16))
        with anyio.fail_after(30):
            await Service(Ending(), pipe.dup(), job("x:app")).serve()  # type: ignore[arg-type]  # of the same shape


class Unspeakable:
    """Measures a label that cannot be written."""

    def families(self) -> list[Family]:
        return [Family("shop_files", "gauge", "", [Sample("shop_files", {"file": "\udcff"}, 1.0)])]

    def attention(self) -> list[str]:
        return []

    async def run(self) -> None:
        """Measure nothing now and then."""


@pytest.mark.anyio
async def test_metrics_that_cannot_be_reported_are_missed_aloud(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(child, "measuring", lambda *_: Unspeakable())
    parents, pipe = socket.socketpair()
    with parents, pipe:
        pipe.setblocking(False)
        await Service(Ending(), pipe.dup(), job("x:app")).serve()  # type: ignore[arg-type]  # of the same shape
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "/metrics lacks them" in warning
