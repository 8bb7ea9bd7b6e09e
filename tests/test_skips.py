"""In continuous integration, a run with an unexpected skip fails."""

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import pytest

def test_that_passes():
    pass

@pytest.mark.skipif(True, reason="FEMOPS_CCX does not name a CalculiX with more words")
def test_that_needs_calculix():
    pass

def test_that_needs_an_accelerator():
    pytest.skip("no accelerator")
"""
RENAMED = """
def test_of_a_file_that_was_renamed():
    pytest.skip("no such file")
"""
MODULE = "import pytest\npytest.importorskip('renamed')"
EMPTY = "import pytest\n@pytest.mark.parametrize('a', [])\ndef test_of_nothing(a):\n    pass"


def run(pytester: pytest.Pytester, **files: str) -> tuple[int, str]:
    """Return exit code and output of a run of tests with the rule."""
    pytester.makeconftest("from skips import pytest_sessionfinish, pytest_terminal_summary")
    pytester.makepyfile(**files)
    result = pytester.runpytest_inprocess("-q")
    return int(result.ret), result.stdout.str()


@pytest.mark.parametrize("ci", ["true", "", None])
def test_expected_skips_do_not_fail_a_run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str) -> None:
    monkeypatch.delenv("CI", raising=False) if ci is None else monkeypatch.setenv("CI", ci)
    code, output = run(pytester, test_a=TESTS)
    assert code == 0 and "1 passed, 2 skipped" in output and "unexpected" not in output


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (TESTS + RENAMED, "test_b.py::test_of_a_file_that_was_renamed: no such file"),
        (MODULE, "test_b.py: could not import 'renamed'"),
        (EMPTY, "test_b.py::test_of_nothing[NOTSET]: got empty parameter set"),
    ],
    ids=["test", "module", "parameters"],
)
def test_an_unexpected_skip_fails_a_run_in_continuous_integration_and_is_named(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, content: str, told: str
) -> None:
    monkeypatch.setenv("CI", "true")
    code, output = run(pytester, test_a=TESTS, test_b=content)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert output.count("ERROR unexpected skip") == 1 and f"ERROR unexpected skip: {told}" in output
    monkeypatch.delenv("CI")
    code, output = run(pytester, test_a=TESTS, test_b=content)
    assert code == 0 and "unexpected" not in output


def test_a_run_that_fails_anyway_tells_the_skip_too(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    code, output = run(pytester, test_a=TESTS + RENAMED + "\n\ndef test_that_fails():\n    assert False")
    assert code == pytest.ExitCode.TESTS_FAILED and "ERROR unexpected skip" in output
