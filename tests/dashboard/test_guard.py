"""Who may see the page and change things, and what ties a browser down."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import Request

from redisaq import dashboard
from redisaq.dashboard.guard import HEADERS, MOST_BYTES
from redisaq.errors import SettingsError
from tests.dashboard.scenes import served

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])]

OURS = {"sec-fetch-site": "same-origin", "x-redisaq": "1", "content-type": "application/json"}
TOKEN = "a token that nobody guesses"  # noqa: S105 -- of this test


@pytest.mark.parametrize("path", ["/", "/t/none", "/api/", "/static/page.js", "/nothing"])
async def test_every_answer_carries_the_headers(path: str) -> None:
    async with served() as client:
        answer = await client.get(path)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    policy = answer.headers["content-security-policy"].split("; ")
    assert policy[:3] == ["default-src 'none'", "script-src 'self'", "style-src 'self'"]
    assert policy[5:] == ["base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]


@pytest.mark.parametrize("path", ["/", "/t/orders/g/billing?p=1", "/t/orders"])
async def test_pages_obey_the_policy(path: str) -> None:
    async with served() as client:
        html = (await client.get(path)).text
    assert "<script>" not in html
    assert " style=" not in html
    assert " onclick" not in html


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8787", 200),
        ("127.0.0.1", 200),
        ("[::1]:8787", 200),
        ("ops.example", 200),
        ("OPS.example:80", 200),
        ("evil.example", 421),
        ("", 421),
    ],
)
async def test_it_is_served_under_its_own_names_only(host: str, status: int) -> None:
    async with served(hosts=["ops.example"]) as client:
        assert (await client.get("/", headers={"host": host})).status_code == status
        assert (await client.get("/static/page.js", headers={"host": host})).status_code == status


async def test_without_the_token_nothing_is_shown() -> None:
    async with served(token=TOKEN) as client:
        for path in ("/", "/t/orders/g/billing", "/events/"):
            answer = await client.get(path)
            assert answer.status_code == 401
            assert "orders" not in answer.text
        assert (await client.get("/api/")).json() == {"error": "a token is needed"}
        assert (await client.post("/token", json={"token": TOKEN})).status_code == 403  # not from a page of ours
        assert (await client.post("/token", json={"token": "another one"}, headers=OURS)).status_code == 403
        assert (await client.post("/token", json=["x"], headers=OURS)).status_code == 403
        given = await client.post("/token", json={"token": TOKEN}, headers=OURS)
        cookie = given.headers["set-cookie"]
        assert given.status_code == 200
        assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))
        assert TOKEN not in cookie
        assert (await client.get("/")).status_code == 200
        client.cookies.clear()
        assert (await client.get("/api/", headers={"authorization": f"Bearer {TOKEN}"})).status_code == 200
        assert (await client.get("/api/", headers={"authorization": "Bearer x"})).status_code == 401


async def test_two_pages_of_one_host_have_a_cookie_each() -> None:
    """A browser gives the cookies of a host to all of its ports, so a common name would be overwritten by the other page."""
    async with served(token=TOKEN) as client:
        names, cookies = [], {}
        for host in ("localhost:8787", "localhost:8788", "localhost", "localhost:x"):
            given = await client.post("/token", json={"token": TOKEN}, headers={**OURS, "host": host})
            name, _, value = given.headers["set-cookie"].partition(";")[0].partition("=")
            names.append(name)
            cookies[name] = value
        assert names == [f"redisaq_dashboard_{port}" for port in (8787, 8788, 80, 80)]
        client.cookies.clear()
        value = cookies["redisaq_dashboard_8788"]
        assert (await client.get("/", headers={"cookie": f"redisaq_dashboard_8788={value}"})).status_code == 401
        assert (await client.get("/", headers={"cookie": f"redisaq_dashboard_8787={value}"})).status_code == 200


async def test_who_has_no_token_cannot_fill_the_memory() -> None:
    """However a body is sent, it is read up to a limit; and what is not JSON is no token."""
    sent = 0

    async def endless() -> AsyncGenerator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 16
            yield bytes(1 << 16)

    async with served(token=TOKEN) as client:
        assert (await client.post("/token", content=endless(), headers=OURS)).status_code == 413
        assert sent <= MOST_BYTES + (1 << 16)
        for content in (b"", b"{", b"[" * 100_000):
            assert (await client.post("/token", content=content, headers=OURS)).status_code == 403


async def test_the_outer_application_may_decide() -> None:
    async def authorize(request: Request) -> Any:
        return request.headers.get("x-user") and "read"

    async with served(authorize=authorize, allow_changes=True) as client:
        assert (await client.get("/")).status_code == 401
        answer = await client.get("/", headers={"x-user": "mara"})
        assert (answer.status_code, "Read-only" in answer.text) == (200, True)
        answer = await client.post("/api/t/orders/g/billing/pause", content="{}", headers={**OURS, "x-user": "mara"})
        assert (answer.status_code, answer.json()["error"]) == (403, "you may look, and not change anything")


async def test_settings_that_do_not_fit() -> None:
    for wrong in ({"token": "short"}, {"token": TOKEN, "authorize": lambda _: "read"}, {"hosts": "ops.example"}):
        with pytest.raises(SettingsError):
            dashboard.app("memory://x", **wrong)
