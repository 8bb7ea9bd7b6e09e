"""Messages to the user besides the output of a command."""

import sys


def announce(text: str) -> None:
    """Write a message to standard error."""
    sys.stderr.write(f"{text}\n")
