"""Named timers."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Timers:
    """Wall-clock seconds by name; nested parts are counted once, for the innermost name."""

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
        """Leave the time since the last part out of the total."""
        self._start += time.perf_counter() - self._since
        self._book()

    def total(self) -> float:
        """Return the seconds since the timers were made [s]."""
        return time.perf_counter() - self._start

    def _book(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now
