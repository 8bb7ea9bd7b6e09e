"""Folder locks: one process at a time works in a folder.

The lock is a file `.lock` in the folder, created atomically, with host, process id, start time and command of its
holder. A lock is stale, and may be taken over, when its holder has ended. On the same host (same boot and same PID
namespace, to distinguish containers of one name) the process is looked up by id and start time. From other hosts the
lock is stale if its modification time is older than `STALE_AFTER` seconds; the holder updates it every `HEARTBEAT`
seconds. Ages are measured with the clock of the file system. A holder suspended for longer loses its lock.

Locks are re-entrant within a process; the lock is released when the outermost block ends.
"""

import fcntl
import json
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from femops.errors import CaseError
from femops.output.messages import announce
from femops.parallel import on_root, on_root_quietly

HEARTBEAT, STALE_AFTER = 30.0, 600.0  # [s]; a native solver may block the heartbeat thread for minutes
_POLL = 0.5  # [s]
_NAME = ".lock"


@dataclass(frozen=True)
class Holder:
    """The holder of a lock.

    Attributes:
        host: Host name.
        pid: Process id.
        since: Local time of acquisition.
        command: Command line.
        start: Start time of the process in clock ticks since boot; empty if unknown.
        place: Identifies boot and PID namespace; empty if unknown.
        token: Unique id of the lock.
    """

    host: str
    pid: int
    since: str
    command: str
    start: str
    place: str
    token: str

    @classmethod
    def here(cls) -> "Holder":
        """Return a new holder for this process."""
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        return cls(socket.gethostname(), os.getpid(), since, command, _start(os.getpid()), _place(), uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"host {self.host}, pid {self.pid}, since {self.since} ({self.command})"

    def is_gone(self) -> bool | None:
        """Return whether the process has ended; None if this cannot be determined from here."""
        if self.host != socket.gethostname() or self.place != _place():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # process of another user, which /proc may hide
            return None if _start(self.pid) == "" else _start(self.pid) != self.start
        return _start(self.pid) != self.start


class FolderLock:
    """The lock of a folder; see the module docstring.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / _NAME
        self._mine = Holder.here()
        self._stop = threading.Event()

    def acquire(self) -> Holder | None:
        """Acquire the lock; return its holder if another process has it, else None.

        The folder must exist. Taking over a stale lock takes two steps, so processes do this one at a time where the
        file system supports locks.

        Raises:
            OSError: The folder cannot be written.
        """
        with _in_turn(self.file.parent):
            if not self._create():
                holder = self._holder()
                if not self._stale(holder):
                    return holder
                self.file.unlink(missing_ok=True)
                if not self._create():
                    return self._holder()
        threading.Thread(target=self._beat, name=f"lock of {self.file.parent}", daemon=True).start()
        return None

    def release(self) -> None:
        """Release the lock, if this process still holds it."""
        self._stop.set()
        with suppress(OSError):
            if self._holder().token == self._mine.token:
                self.file.unlink()

    def _create(self) -> bool:
        """Create the lock file atomically; return False if one exists."""
        own = self._beside()
        text = json.dumps(asdict(self._mine))
        try:
            own.write_text(text, encoding="utf-8")
            try:
                os.link(own, self.file)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                return self._create_exclusively(text)
        finally:
            own.unlink(missing_ok=True)
        return True

    def _create_exclusively(self, text: str) -> bool:
        try:
            with self.file.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return False
        return True

    def _holder(self) -> Holder:
        """Return the holder named in the lock file; an unknown holder if it cannot be read."""
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
            return Holder(**{one.name: found[one.name] for one in fields(Holder)})
        except (OSError, ValueError, KeyError, TypeError):
            return Holder("unknown", 0, "unknown", "unknown", "", "unknown", "")

    def _stale(self, holder: Holder) -> bool:
        gone = holder.is_gone()
        if gone is not None:
            return gone
        now = self._beside()
        try:
            now.touch()
            return now.stat().st_mtime - self.file.stat().st_mtime > STALE_AFTER
        except FileNotFoundError:  # released meanwhile
            return True
        finally:
            now.unlink(missing_ok=True)

    def _beside(self) -> Path:
        return self.file.with_name(f"{_NAME}-{self._mine.token}")

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with suppress(OSError):
                if self._holder().token != self._mine.token:  # somebody took it for stale
                    return
                os.utime(self.file)


_held: dict[Path, tuple[FolderLock, int]] = {}


@contextmanager
def locked(folder: Path, comm: Any, *, wait: bool = False, notify: Callable[[str], None] = announce) -> Iterator[None]:
    """Lock a folder for the duration of the block; collective.

    A missing folder is created, and removed again if it is empty at the end.

    Args:
        folder: The folder.
        comm: The ranks that work together; rank 0 holds the lock.
        wait: Whether to wait for another holder instead of raising an error.
        notify: Announces to the user whose lock is awaited; called on rank 0.

    Raises:
        CaseError: Another process holds the lock, or the folder cannot be written.
    """
    run = on_root_quietly if wait else on_root
    made = run(comm, lambda: _enter(folder, wait, notify))
    try:
        yield
    finally:
        if comm is None or comm.rank == 0:
            _leave(folder, made)


def _enter(folder: Path, wait: bool, notify: Callable[[str], None]) -> list[Path]:
    """Lock a folder; return the folders that had to be created, innermost first."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    path = folder.resolve()
    if path in _held:
        lock, depth = _held[path]
        _held[path] = (lock, depth + 1)
        return []
    lock, waited_for = FolderLock(path), ""
    try:
        while (holder := _tried(lock)) is not None:
            if not wait:
                problem = f"another femops works there: {holder}; wait for it, or choose another folder with --output"
                raise CaseError(problem, file=folder)
            if waited_for != holder.token:
                waited_for = holder.token
                notify(f"waiting for another femops that works in {folder}: {holder}")
            time.sleep(_POLL)
    except OSError as error:
        raise CaseError(f"cannot be written ({error.strerror or error})", file=folder) from error
    _held[path] = (lock, 1)
    return missing


def _tried(lock: FolderLock) -> Holder | None:
    while True:
        lock.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            return lock.acquire()
        except FileNotFoundError:  # another process has just removed the folder that it had created
            continue


def _leave(folder: Path, made: list[Path]) -> None:
    path = folder.resolve()
    lock, depth = _held.pop(path)
    if depth > 1:
        _held[path] = (lock, depth - 1)
        return
    lock.release()
    with suppress(OSError):  # not empty
        for one in made:
            one.rmdir()


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """Serialise the block among processes by a file lock on the folder, if its file system supports this."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _start(pid: int) -> str:
    """Return the start time of a process in clock ticks since boot; empty if it has ended or is unknown."""
    try:
        values = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if values[0] in "ZX" else values[19]  # zombies have ended


def _place() -> str:
    """Return an identifier of the boot and the PID namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
