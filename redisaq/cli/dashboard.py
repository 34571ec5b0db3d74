"""`redisaq dashboard`: serves the live page.

uvicorn serves it: of the servers for ASGI it is the best kept, and brings the fewest packages. It knows asyncio alone, which does not
matter for a process of its own; an application that runs on trio mounts the page and is served by hypercorn or anycorn.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn
from urllib.parse import quote

from cyclopts import Parameter

from redisaq.cli.common import USAGE, Place, Refused

HERE = Place()


def dashboard(
    *,
    listen: str = "127.0.0.1:8787",
    allow_changes: Annotated[bool, Parameter(negative="")] = False,
    token: str | None = None,
    token_file: Path | None = None,
    host: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False)] = (),
    always: Annotated[bool, Parameter(negative="")] = False,
    no_payloads: Annotated[bool, Parameter(negative="")] = False,
    redact: str | None = None,
    place: Place = HERE,
) -> int:
    """Serve a live page about topics and groups, until SIGINT or SIGTERM.

    Args:
        listen: HOST:PORT; port 0 takes a free one. An address beyond this machine needs a token.
        allow_changes: let the page change things. Without it, it has no address that does.
        token: who looks must have this token. Other users of the machine can read it in the list of processes; --token-file is safer.
        token_file: a file with the token.
        host: a name that the page is served as; may be given more than once.
        always: continue to look, every 20 s, while nobody watches, so that curves have no gaps.
        no_payloads: show no payloads and headers.
        redact: a regular expression, such as 'card|token': values in payloads, and headers, whose name has a match are not shown.
        place: the server.
    """
    missing = [name for name in ("starlette", "jinja2", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise Refused(f'the page needs the package {missing[0]}: pip install "redisaq[dashboard]"', USAGE)
    import uvicorn  # noqa: PLC0415 -- it may be missing, and no other command needs it

    from redisaq.dashboard import app  # noqa: PLC0415 -- as above

    name, port = _place_of(listen)
    secret = _token(token, token_file)
    if secret is None and not _is_loopback(name):
        raise Refused(f"--listen {listen} can be reached from other machines: give --token-file", USAGE)
    page = app(
        place.url,
        namespace=place.namespace,
        allow_changes=allow_changes,
        token=secret,
        hosts=(*host, f"[{name}]" if ":" in name else name),
        always=always,
        payloads=not no_payloads,
        redact=redact,
    )
    try:
        listener = socket.create_server((name, port), family=socket.AF_INET6 if ":" in name else socket.AF_INET)
    except OSError as error:
        raise Refused(f"cannot listen on {listen}: {error.strerror}") from error
    with listener:
        shown = f"[{name}]" if ":" in name else name
        print(f"http://{shown}:{listener.getsockname()[1]}/{'#token=' + quote(secret, safe='') if secret else ''}", flush=True)
        signal.signal(signal.SIGTERM, _end)  # uvicorn ends in order first, and then sends the signal again
        config = uvicorn.Config(
            page, http="h11", log_level="warning", server_header=False, timeout_graceful_shutdown=1, ws="none", proxy_headers=False
        )  # h11 reads at most 64 KiB of headers, whatever else is installed
        uvicorn.Server(config).run([listener])
    return 0


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def _place_of(listen: str) -> tuple[str, int]:
    name, colon, port = listen.rpartition(":")
    if not (colon and name and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise Refused(f"--listen takes HOST:PORT, not {listen}", USAGE)
    return name.removeprefix("[").removesuffix("]"), int(port)


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _token(token: str | None, file: Path | None) -> str | None:
    if token is not None and file is not None:
        raise Refused("give --token or --token-file, not both", USAGE)
    if file is None:
        return token
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{file} cannot be read: {error}", USAGE) from error
