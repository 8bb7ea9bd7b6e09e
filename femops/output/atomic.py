"""Files and folders that are either complete or absent, whatever stops the program while they are written."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

PARTIAL = ".partial-"
"""How the name of a file or folder begins that is not complete yet."""
_OLD = ".replaced-"


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a path beside `path` that takes its place when the block ends and is removed when the block fails.

    The content is on the disk before it takes that place.

    The temporary name is hidden and keeps the suffix, from which some writers choose their format. It is the same
    every time, so that the remains of a killed run are overwritten by the next one.

    Args:
        path: The file to write. Its folder is made if it is missing.

    Yields:
        The path to write to.
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
    """Write a UTF-8 text file in one piece."""
    with shielded(), atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file in one piece."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when the block ends, and is removed when it fails.

    A folder cannot replace another one in one go. The old one is moved aside first; a kill between the two moves
    leaves it there, where `present` finds it.

    Args:
        folder: The folder to write; files in it are to be written by `write_bytes`.
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
    """Return a folder that `new_folder` writes, or the old one of it if a kill left only that."""
    old = folder.with_name(_OLD + folder.name)
    return old if old.is_dir() and not folder.exists() else folder


@contextmanager
def shielded() -> Iterator[None]:
    """Hold back Ctrl-C inside the block; its KeyboardInterrupt is raised on leaving.

    Outside the main thread, and where SIGINT has no Python handler, the block runs unchanged.
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
