"""Names in paths: routing on the path as it was sent, since a topic's name may have a slash in it."""

from __future__ import annotations

from urllib.parse import unquote

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send


class RawPaths:
    """Lets the router see the path as it was sent; `names_in` returns the names in it."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the router."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, with its raw path."""
        raw = scope.get("raw_path")
        if scope["type"] == "http" and raw is not None:
            scope = {**scope, "path": raw.partition(b"?")[0].decode("latin-1")}
        await self._app(scope, receive, send)


def names_in(request: Request) -> dict[str, str]:
    """Return the names in a request's path."""
    return {name: unquote(str(value)) for name, value in request.path_params.items()}
