"""Atomic writing of files and folders: complete or absent, even after an interruption."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

PARTIAL = ".partial-"
"""Prefix of the names of incomplete files and folders."""
_OLD = ".replaced-"


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends, and is removed if the block fails.

    The content is synced to disk before the replacement. The temporary name is hidden and keeps the suffix, by which
    some writers choose the format. It is the same every time, so that a file left by an interrupted run is overwritten.

    Args:
        path: The file to write; its folder is created if missing.

    Yields:
        The temporary path, in the same folder.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(PARTIAL + final.name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with shielded(), atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a binary file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `folder` when the block ends, and is removed if the block fails.

    A folder cannot be replaced atomically: the old one is moved aside first, and `present` finds it there after an
    interruption between the two moves.

    Args:
        folder: The folder to write; its files must be written by `write_bytes`.
    """
    new, old = folder.with_name(PARTIAL + folder.name), folder.with_name(_OLD + folder.name)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def present(folder: Path) -> Path:
    """Return a folder written by `new_folder`, or its old version if an interruption left only that."""
    old = folder.with_name(_OLD + folder.name)
    return old if old.is_dir() and not folder.exists() else folder


@contextmanager
def shielded() -> Iterator[None]:
    """Defer Ctrl-C inside the block; KeyboardInterrupt is raised when the block ends.

    No effect outside the main thread, or if SIGINT has no Python handler.
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield
        return
    caught: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if caught:
            previous(*caught[0])
