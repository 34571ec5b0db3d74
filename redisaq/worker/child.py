"""A child of a worker: imports the program, serves its App, and reports to the parent.

It ends like every program of redisaq: the first SIGTERM drains, the second cancels. If the parent is gone, it drains, too.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import Any, Literal

import anyio
from anyio.abc import ByteReceiveStream, UNIXSocketStream
from anyio.lowlevel import checkpoint

from redisaq.app import App
from redisaq.errors import RedisaqError, SettingsError
from redisaq.run import run
from redisaq.worker.loading import load
from redisaq.worker.logs import set_up_logging
from redisaq.worker.measuring import Measuring, measuring
from redisaq.worker.reports import ConsumerView, Job, Pulse, Refused, framed, read_job, send

logger = logging.getLogger("redisaq.worker")

LAST_REPORT_SECONDS = 1.0
"""How long the end of a child may wait until the parent takes its last report."""

FAILED, REFUSED = 1, 2
"""Exit statuses."""


class Service:
    """An App that is served, and reported on. `redisaq.run` runs it."""

    def __init__(self, app: App[Any], pipe: socket.socket, job: Job) -> None:
        """Create it.

        Args:
            app: what to serve.
            pipe: leads to the parent.
            job: what the parent said.
        """
        self._app = app
        self._pipe = pipe
        self._job = job
        self._state: Literal["starting", "serving", "draining"] = "starting"
        self._measuring: Measuring | None = None
        self._complained = False
        self._sending = anyio.Lock()  # the last report may meet one that the parent is slow to take

    def started(self, value: None = None) -> None:  # noqa: ARG002 -- the protocol's
        """Note that every consumer has its first assignment; the App calls this."""
        if self._state == "starting":
            self._state = "serving"
            logger.info("serving", extra={"app": self._job.app})

    async def serve(self) -> None:
        """Serve the App until it is stopped."""
        self._measuring = measuring(self._app, self._job)
        failure: Exception | None = None
        async with await UNIXSocketStream.from_socket(self._pipe) as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen, stream)
            tasks.start_soon(self._report, stream)
            if self._measuring is not None:
                tasks.start_soon(self._measuring.run)
            try:
                if self._state == "starting":  # no signal has come yet
                    await self._app.serve(task_status=self)
            except Exception as error:  # noqa: BLE001 -- raised below, outside of the task group, which would wrap it
                failure = error
            finally:
                with anyio.move_on_after(LAST_REPORT_SECONDS, shield=True):
                    await self._send(stream)
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def stop(self) -> None:
        """Drain."""
        self._state = "draining"
        await self._app.stop()

    async def close(self) -> None:
        """Stop without waiting for handlers."""
        await self._app.close()

    async def _report(self, stream: UNIXSocketStream) -> None:
        while True:
            await self._send(stream)
            await anyio.sleep(self._job.pulse)

    async def _send(self, stream: UNIXSocketStream) -> None:
        async with self._sending:
            measuring = self._measuring
            families, attention = (measuring.families(), measuring.attention()) if measuring is not None else ([], [])
            ready = self._state == "serving" and self._app.healthy()
            try:
                whole = await send(stream, Pulse(self._state, ready, views_of(self._app), families, attention))
                if not whole and not self._complained:
                    self._complained = True
                    logger.warning("the metrics of this process are too many, or have a label that is no text: /metrics lacks them")
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                await checkpoint()  # the parent is gone: `_listen` sees it, too

    async def _listen(self, stream: ByteReceiveStream) -> None:
        """Drain when the pipe closes: the parent has died. It never sends anything more."""
        try:
            while True:
                await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            logger.warning("the parent of this process is gone: draining")
        await self.stop()


def views_of(app: App[Any]) -> list[ConsumerView]:
    """Return what each consumer looks like."""
    views: list[ConsumerView] = []
    for one in app.consumers:
        seen = one.consumer.statistics()
        views.append(
            ConsumerView(
                topic=one.topic.name,
                group=one.group_name,
                state=seen.state,
                member=seen.member,
                partitions=[partition.partition for partition in seen.partitions],
                running=sum(partition.in_flight for partition in seen.partitions),
                waiting=sum(partition.waiting for partition in seen.partitions),
                handled=seen.handled,
                failed=seen.failed,
                trimmed=seen.trimmed,
                connected=seen.connected,
                last_heartbeat=seen.last_heartbeat,
            )
        )
    return views


def prepare(job: Job) -> App[Any]:
    """Return the App, as this child is to serve it.

    Raises:
        SettingsError: it cannot be found, has nothing to do, or cannot run in several processes.
        Exception: whatever importing the program raises.
    """
    app = load(job.app)
    url = job.url or app.url
    if job.processes > 1 and (url.startswith("memory:") or url in ("embedded:", "embedded://")):
        raise SettingsError(f"{url} is for one process alone, and --processes asks for {job.processes}")
    if not app.consumers:
        raise SettingsError(f"{job.app} has no consumer and no cron job: declare one with @topic.consumer(group_name) or @app.cron(…)")
    for one in app.consumers:
        if one.consumer.consumer_name is not None:
            one.consumer.consumer_name = f"{one.consumer.consumer_name}-{job.child}"
    return app


def without_ours(error: BaseException) -> BaseException:
    """Return the error without the frames of redisaq and of importlib before the program's first one."""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename not in (__file__, load.__code__.co_filename) and "importlib" not in code.co_filename:
            return error.with_traceback(trace)
        trace = trace.tb_next
    return error.with_traceback(None)


def main() -> int:
    """Do what the parent says over the pipe whose file descriptor is the first argument. Return the exit status."""
    with socket.socket(fileno=int(sys.argv.pop())) as pipe:
        pipe.set_inheritable(False)  # a process that the program starts must not keep it open
        try:
            job = read_job(pipe)
        except ConnectionError:
            return FAILED
        if job.counts is not None:
            os.set_inheritable(job.counts, False)  # noqa: FBT003 -- as in the socket module
        if job.log is not None:
            set_up_logging(job.log, job.child)
        try:
            app = prepare(job)
        except SettingsError as error:
            return _refuse(pipe, Refused(REFUSED, str(error)))
        except Exception as error:
            _set_up_fallback(job)
            logger.exception("importing %s failed", job.app, exc_info=without_ours(error))
            return _refuse(pipe, Refused(FAILED, f"importing {job.app} failed"))
        _set_up_fallback(job)
        return _serve(app, pipe, job)


def _set_up_fallback(job: Job) -> None:
    """Set up logging if neither the command line nor the program did."""
    if job.log is None and not logging.getLogger().hasHandlers():
        set_up_logging("text", job.child)


def _refuse(pipe: socket.socket, refused: Refused) -> int:
    pipe.sendall(framed(refused))
    return refused.status


def _serve(app: App[Any], pipe: socket.socket, job: Job) -> int:
    try:
        with app.replace(url=job.url):
            run(Service(app, pipe.dup(), job), backend=job.backend)
    except SettingsError as error:
        pipe.settimeout(None)  # the event loop has made it non-blocking
        return _refuse(pipe, Refused(REFUSED, str(error)))
    except RedisaqError as error:
        logger.error("%s", error)  # noqa: TRY400 -- it is a sentence for the operator
    except Exception:
        logger.exception("the App failed")
    else:
        return 0
    return FAILED
