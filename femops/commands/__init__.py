"""The command-line interface: runs, comparisons and reports."""
