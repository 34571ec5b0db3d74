"""Decides who may do what: checks each request before a view sees it, and adds the headers that tie a browser down.

A request passes if its `Host` is one that this page is served as (otherwise a foreign page whose name leads to this machine could read it),
and if its sender may look. A request that changes something must also come from a page of this origin, in a form that no foreign
page's form or image can have.
"""

from __future__ import annotations

import hashlib
import hmac
import inspect
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus
from typing import Literal
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redisaq.dashboard.pages import TEMPLATES

Level = Literal["read", "change"]
Authorize = Callable[[Request], Level | Awaitable[Level | None] | None]
"""Says what the sender of a request may do; None: nothing."""

COOKIE = "redisaq_dashboard_"
"""How the name of the cookie begins; the port follows, since browsers give a host's cookies to all of its ports."""

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
OPEN = ("/static/", "/token")
"""What needs no token: the way to give one, and the files that are the same for everybody."""

MOST_BYTES = 1 << 20
"""The longest body of a request."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """An ASGI application in front of another one."""

    def __init__(self, inner: ASGIApp, hosts: Collection[str], authorize: Authorize) -> None:
        """Wrap an application.

        Args:
            inner: the application.
            hosts: names that it is served as, besides those of loopback. "*": any.
            authorize: says what the sender of a request may do.
        """
        self._inner = inner
        self._hosts = {name.lower() for name in (*LOOPBACK, *hosts)}
        self._authorize = authorize

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        request = Request(scope, receive)
        refusal = await self._refusal(request)
        await (refusal or self._inner)(scope, bounded(receive) if _changes(request) else receive, send_with_headers)

    async def _refusal(self, request: Request) -> Response | None:
        if not self._is_ours(request.headers.get("host", "")):
            return PlainTextResponse("This page is not served under that name.", HTTPStatus.MISDIRECTED_REQUEST)
        path = place_of(request.scope)
        changes = _changes(request)
        if changes and (reason := _foreign(request)):
            return JSONResponse({"error": reason}, HTTPStatus.FORBIDDEN)
        if path.startswith(OPEN[0]) or path == OPEN[1]:
            return None
        answer = self._authorize(request)
        level = await answer if inspect.isawaitable(answer) else answer
        request.state.level = level
        if level is None:
            return token_page(request)
        if changes and level != "change":
            return JSONResponse({"error": "you may look, and not change anything"}, HTTPStatus.FORBIDDEN)
        return None

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        return "*" in self._hosts or name.lower() in self._hosts


def place_of(scope: Scope) -> str:
    """Return the path of a request below the place where the application is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(root) else path


def bounded(receive: Receive) -> Receive:
    """Return a function that receives a request, and refuses it once its body is too long: who sends it may not have given a token yet."""
    left = MOST_BYTES

    async def receive_some() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return message

    return receive_some


def _changes(request: Request) -> bool:
    return request.method not in ("GET", "HEAD")


def _foreign(request: Request) -> str:
    """Return why a change does not come from a page of ours; "" if it does."""
    headers = request.headers
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    same = site == "same-origin" if site is not None else origin is not None and urlsplit(origin).netloc == headers.get("host")
    if not same:
        return "changes come from a page of this origin"
    if headers.get("x-redisaq") != "1":
        return "changes carry the header X-Redisaq: 1"
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return "changes carry JSON"
    return ""


# -- tokens ---------------------------------------------------------------------------------------------------------------------------


def cookie_of(token: str) -> str:
    """Return what a browser keeps instead of the token."""
    return hmac.new(token.encode(), b"redisaq dashboard", hashlib.sha256).hexdigest()


def same(given: str, wanted: str) -> bool:
    """Compare secrets, in a time that tells nothing."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def cookie_name(request: Request) -> str:
    """Return the name of the cookie for a page at this port."""
    try:
        port = urlsplit(f"//{request.headers.get('host', '')}").port
    except ValueError:
        port = None
    return f"{COOKIE}{port or {'http': 80, 'https': 443}.get(request.url.scheme, 0)}"


def by_token(token: str) -> Authorize:
    """Return an `authorize` that lets in who has given the token once, or sends it as a bearer token."""
    cookie, bearer = cookie_of(token), f"Bearer {token}"

    def authorize(request: Request) -> Level | None:
        given = same(request.cookies.get(cookie_name(request), ""), cookie) or same(request.headers.get("authorization", ""), bearer)
        return "change" if given else None

    return authorize


def token_page(request: Request) -> Response:
    """Return the page that asks for the token, which the script on it reads from the address."""
    if place_of(request.scope).startswith("/api"):
        return JSONResponse({"error": "a token is needed"}, HTTPStatus.UNAUTHORIZED)
    html = TEMPLATES.get_template("token.html").render(root=request.scope.get("root_path", ""))
    return Response(html, HTTPStatus.UNAUTHORIZED, media_type="text/html")
