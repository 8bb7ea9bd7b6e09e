"""Files that are either complete or absent, whatever stops the program while they are written."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a path beside `path` that takes its place when the block ends and is removed when the block fails.

    The temporary name is hidden and keeps the suffix, from which some writers choose their format. It is the same
    every time, so that the remains of a killed run are overwritten by the next one.

    Args:
        path: The file to write. Its folder is made if it is missing.

    Yields:
        The path to write to.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".partial-{final.name}")
    try:
        yield temporary
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write a UTF-8 text file in one piece."""
    with shielded(), atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


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
