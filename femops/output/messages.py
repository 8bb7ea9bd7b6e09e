"""Lines on the terminal beside what a command prints as its result."""

import sys


def announce(text: str) -> None:
    """Write a line to the terminal, beside what a command prints as its result."""
    sys.stderr.write(f"{text}\n")
