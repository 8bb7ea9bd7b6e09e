"""The command line, and the runs, comparisons and reports behind it."""
