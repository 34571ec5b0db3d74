"""Run a consumer, or an App, as a program, until it ends or a signal stops it."""

from __future__ import annotations

import inspect
import signal
import threading
from collections.abc import Awaitable, Callable
from types import FrameType, TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar, overload, runtime_checkable

import anyio

from redisaq.describing import shown
from redisaq.errors import SettingsError
from redisaq.settings import check_choice

T = TypeVar("T")


@runtime_checkable
class Stoppable(Protocol):
    """An object with a `stop()` that drains; it is closed afterwards."""

    async def stop(self) -> None:
        """Drain and end."""
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...


@runtime_checkable
class Servable(Stoppable, Protocol):
    """An object that runs by itself: an App."""

    async def serve(self) -> None:
        """Run until stopped."""
        ...


@overload
def run(main: Servable, /, *, backend: Literal["asyncio", "uvloop", "trio"] = ...) -> None: ...
@overload
def run(main: Callable[..., Awaitable[T]], *args: Any, backend: Literal["asyncio", "uvloop", "trio"] = ..., **kwargs: Any) -> T | None: ...
def run(
    main: Callable[..., Awaitable[Any]] | Servable, *args: Any, backend: Literal["asyncio", "uvloop", "trio"] = "asyncio", **kwargs: Any
) -> Any:
    """Run `main(*args, **kwargs)` in a new event loop; end it cleanly on SIGINT and SIGTERM.

    If `main` is a method of an object with `stop()` (`redisaq.run(consumer.process, handle)`), the first signal calls that `stop()`, which
    drains. The second signal cancels. Any other function is cancelled by the first signal. Such an object is closed at the end. An App is
    served.

    Args:
        main: what to run: an async function, or an App.
        args: its arguments.
        backend: "asyncio", "uvloop" or "trio"; the last two need `pip install "redisaq[uvloop]"` or `"redisaq[trio]"`.
        kwargs: its keyword arguments.

    Returns:
        What `main` returned; None if it was cancelled.

    Raises:
        SettingsError: there is no such backend, `main` cannot be called, or this is not the main thread.
        Exception: the exception of `main`, unchanged.
    """
    check_choice("backend", backend, ("asyncio", "uvloop", "trio"))
    if threading.current_thread() is not threading.main_thread():
        raise SettingsError("redisaq.run must be called in the main thread, which alone gets signals: use anyio.run in another one")
    function = _checked(main)
    owner = getattr(function, "__self__", None)
    result: Any = None

    async def supervise() -> None:
        nonlocal result
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    listening.set()
                    told = False
                    async for _ in signals:
                        if told or not isinstance(owner, Stoppable):
                            tasks.cancel_scope.cancel()
                            return
                        told = True
                        tasks.start_soon(owner.stop)

            listening = anyio.Event()
            tasks.start_soon(listen)
            await listening.wait()
            early.over = True
            try:
                if not early.came:
                    result = await function(*args, **kwargs)
            finally:
                if isinstance(owner, Stoppable):
                    with anyio.CancelScope(shield=True):  # `main` has ended: there is nothing left to wait for
                        await owner.close()
            tasks.cancel_scope.cancel()

    options = {"use_uvloop": True} if backend == "uvloop" else {}
    failure: BaseException | None = None
    with Early() as early:
        try:
            anyio.run(supervise, backend="trio" if backend == "trio" else "asyncio", backend_options=options)
        except BaseExceptionGroup as group:
            failure = group.exceptions[0] if len(group.exceptions) == 1 else group  # of `main`, without the task group's wrapping
    if failure is not None:
        raise failure
    return result


def _checked(main: Callable[..., Awaitable[Any]] | Servable) -> Callable[..., Awaitable[Any]]:
    """Return the function to run; SettingsError if there is none."""
    function = main.serve if isinstance(main, Servable) else main
    if inspect.iscoroutine(function):
        function.close()
        raise SettingsError("main must be an async function, not what calling it makes: run(main), not run(main())")
    if not callable(function):
        raise SettingsError(f"main must be an async function or an App, not {shown(function)}")
    return function


class Early:
    """Records SIGINT and SIGTERM until the event loop handles them, so that a signal does not interrupt a loop that is just starting.

    Attributes:
        came: a signal has arrived.
        over: the loop handles signals now. Signals that arrive at the very end, when it no longer does, have their previous effect.
    """

    def __init__(self) -> None:
        self.came = self.over = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Start to record."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note) or signal.SIG_DFL
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.over:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
        self.came = True
