"""One process at a time in a folder: a lock that says who works there, and that outlives nobody.

The lock is a file `.lock` in the folder. It is made whole in one go and names host, process, its start and its command.
A lock is stale, and is taken over, when its process is gone: on the same host (the same boot and the same space of
process numbers, so that containers of one name are not mistaken for each other) the process is looked up, where a
process with the same number but another start is another one. Elsewhere the lock is stale when nobody has touched it
for `STALE_AFTER` seconds; its holder touches it every `HEARTBEAT` seconds. Ages are measured with the clock of the
file system, not with those of two hosts. A holder that was stopped (not busy) for longer loses its folder.

A process that holds a folder may lock it again; the lock goes when the outermost block ends.
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

HEARTBEAT, STALE_AFTER = 30.0, 600.0  # [s]; a native solver may keep the heart from beating for minutes
_POLL = 0.5  # [s]
_NAME = ".lock"


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        host: Name of the host.
        pid: Number of the process.
        since: Local time at which it took the lock.
        command: Its command line.
        start: Start of the process in ticks since the boot; empty where that is not known.
        place: Tells boots and spaces of process numbers apart; empty where that is not known.
        token: Tells locks apart.
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
        """Return this process as the holder of a new lock."""
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        return cls(socket.gethostname(), os.getpid(), since, command, _start(os.getpid()), _place(), uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"host {self.host}, pid {self.pid}, since {self.since} ({self.command})"

    def is_gone(self) -> bool | None:
        """Tell whether the process has ended; None where that cannot be seen from here."""
        if self.host != socket.gethostname() or self.place != _place():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # of another user, whose processes /proc may hide
            return None if _start(self.pid) == "" else _start(self.pid) != self.start
        return _start(self.pid) != self.start


class FolderLock:
    """The lock of a folder; see the module.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / _NAME
        self._mine = Holder.here()
        self._stop = threading.Event()

    def acquire(self) -> Holder | None:
        """Take the lock; return who has it if somebody else does.

        The folder must exist. Taking over a stale lock has two parts, so processes do this one after the other as far
        as the file system can tell them to.

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
        """Give the lock back, if it is still the own one."""
        self._stop.set()
        with suppress(OSError):
            if self._holder().token == self._mine.token:
                self.file.unlink()

    def _create(self) -> bool:
        """Make the lock file, complete from its first moment; False if there is one."""
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
        """Return who the lock file names; somebody unknown where it cannot be read."""
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
        except FileNotFoundError:  # given back meanwhile
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
def locked(folder: Path, comm: Any, *, wait: bool = False, say: Callable[[str], None] = announce) -> Iterator[None]:
    """Keep other processes out of a folder while the block runs; collective.

    The folder is made if it is missing, and removed again if it is empty at the end.

    Args:
        folder: The folder.
        comm: The ranks that work together; the first one holds the lock.
        wait: Whether to wait until somebody else has finished there, instead of refusing.
        say: Tells the user who is waited for; called on the first rank.

    Raises:
        CaseError: Somebody else works there, or the folder cannot be written.
    """
    run = on_root_quietly if wait else on_root
    made = run(comm, lambda: _enter(folder, wait, say))
    try:
        yield
    finally:
        if comm is None or comm.rank == 0:
            _leave(folder, made)


def _enter(folder: Path, wait: bool, say: Callable[[str], None]) -> list[Path]:
    """Lock a folder; return the folders that had to be made, from the innermost one."""
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
                say(f"waiting for another femops that works in {folder}: {holder}")
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
        except FileNotFoundError:  # the other one has just removed the folder that it had made
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
    """Let the processes that do this in a folder do it one after the other, where its file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _start(pid: int) -> str:
    """Return when a process was started, in ticks since the boot; nothing for one that has ended or is not known."""
    try:
        rest = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if rest[0] in "ZX" else rest[19]  # ended processes stay listed until somebody asks for their exit code


def _place() -> str:
    """Return what tells boots of hosts and spaces of process numbers apart."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
