"""What tests of cancelled calls share: the two ways in which a task is cancelled."""

from __future__ import annotations

import pytest

from tests.conftest import Backend


@pytest.fixture(params=["scoped", "native"])
def native(request: pytest.FixtureRequest, anyio_backend: Backend) -> bool:
    """Whether tasks are cancelled by the event loop's own means instead of by a scope."""
    if request.param == "native" and anyio_backend[0] != "asyncio":
        pytest.skip("trio knows scopes only")
    return bool(request.param == "native")
