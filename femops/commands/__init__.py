"""The command-line interface: runs, comparisons and reports."""

import femops.stack  # noqa: F401
