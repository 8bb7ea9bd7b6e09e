"""Skipped tests: in continuous integration (`CI=true`), a run with a skip that is not among the expected ones fails."""

import os
from collections.abc import Iterator

import pytest

EXPECTED = ("no accelerator", "FEMOPS_CCX does not name a CalculiX")
"""How the reasons of expected skips begin."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that would have passed."""
    if session.exitstatus == pytest.ExitCode.OK and any(_unexpected(session.config)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the unexpected skips."""
    for line in _unexpected(config):
        terminalreporter.write_line(f"ERROR unexpected skip: {line}", red=True)


def _unexpected(config: pytest.Config) -> Iterator[str]:
    """Yield place and reason of each unexpected skip."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") != "true" or reporter is None:
        return
    for report in reporter.stats.get("skipped", []):
        _, _, told = report.longrepr
        reason = told.removeprefix("Skipped: ")
        if not reason.startswith(EXPECTED):
            yield f"{report.nodeid}: {reason}"
