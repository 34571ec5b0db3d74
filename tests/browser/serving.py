"""Serves a page in an event loop of its own, in a thread, and drives a browser: playwright's loop is the test's own.

Everything that touches the queue runs in that loop, since the memory broker belongs to one.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio.from_thread
import uvicorn
from anyio.from_thread import BlockingPortal
from playwright.sync_api import Browser, Page, sync_playwright
from starlette.applications import Starlette

CHROMIUM = shutil.which("chromium")
"""Debian's browser."""

WORDS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

LIMIT = 60_000
"""Milliseconds that anything may take on a busy machine."""


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    """Start the browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=WORDS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def looping() -> Iterator[BlockingPortal]:
    """Run an event loop in a thread."""
    with anyio.from_thread.start_blocking_portal() as portal:
        yield portal


@contextlib.contextmanager
def serving(portal: BlockingPortal, app: Starlette) -> Iterator[str]:
    """Serve an application in the loop; return its address."""

    async def serve(*, task_status: anyio.abc.TaskStatus[str]) -> None:
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none", timeout_graceful_shutdown=1))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve)
            while not server.started:
                await anyio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            task_status.started(f"http://localhost:{port}")
            await stop.wait()
            server.should_exit = True

    stop: anyio.Event = portal.call(anyio.Event)
    future, address = portal.start_task(serve)
    try:
        yield address
    finally:
        portal.call(stop.set)
        future.result()


RECORD = """
window.said = [];
document.addEventListener("DOMContentLoaded", () => {
  const record = (changes) => changes.forEach((change) => change.addedNodes.forEach((node) => window.said.push(node.textContent)));
  new MutationObserver(record).observe(document.getElementById("toasts") || document, { childList: true });
});
"""
"""Keeps what a page said in a toast: that goes away after some seconds, which a busy machine may take to look."""


class Looker:
    """A page of the browser, and everything that it complains about."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.set_default_timeout(LIMIT)
        page.add_init_script(RECORD)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        page.on(
            "response", lambda response: self.complaints.append(f"{response.status} {response.url}") if response.status >= 400 else None
        )

    def hear(self, text: str) -> None:
        """Wait until the page has said this in a toast."""
        self.until(f"window.said.some((one) => one.includes({json.dumps(text)}))")

    def until(self, expression: str) -> None:
        """Wait until an expression is true. It is passed as a function, since the page forbids `eval`."""
        self.page.wait_for_function(f"() => ({expression})")


@contextlib.contextmanager
def looking(browser: Browser, *, theme: str = "light", width: int = 1440, height: int = 900) -> Iterator[Looker]:
    """Open a window."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="dark" if theme == "dark" else "light")
    try:
        yield Looker(context.new_page())
    finally:
        context.close()


def call(portal: BlockingPortal, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run an async function in the loop."""
    return portal.call(function, *args)
