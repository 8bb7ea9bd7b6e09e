"""Named wall-clock timers, and the memory of a process."""

import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


def peak_memory() -> int:
    """Return the largest resident memory of this process so far [bytes]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Timers:
    """Wall-clock seconds by name; time in nested parts counts for the innermost one only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = time.perf_counter()
        self._start = self._since

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Attribute the time spent inside to `name`."""
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def skip(self) -> None:
        """Exclude the time since the last part from the total."""
        self._start += time.perf_counter() - self._since
        self._book()

    def total(self) -> float:
        """Return the time since construction, without skipped times [s]."""
        return time.perf_counter() - self._start

    def _book(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now
