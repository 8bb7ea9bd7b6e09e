"""The two errors of femops: input that a user can mend, and an iteration that did not converge."""

from pathlib import Path


class CaseError(Exception):
    """Input that the user can mend.

    Args:
        problem: What was given and what was expected, in one line.
        file: The file at fault.
        key: The dotted key at fault, for example `material.rve.mesh`.
    """

    def __init__(self, problem: str, file: Path | str | None = None, key: str = "") -> None:
        super().__init__(problem, file, key)  # so that it can travel between ranks
        self.problem = problem
        self.file = file
        self.key = key

    def within(self, *, file: Path | str | None = None, key: str = "") -> "CaseError":
        """Return the error with the file and the key prefix of the enclosing block added."""
        path = ".".join(part for part in (key, self.key) if part)
        return CaseError(self.problem, file=self.file or file, key=path)

    def __str__(self) -> str:
        where = [str(part) for part in (self.file, self.key) if part]
        return ": ".join([*where, self.problem])


class NotConverged(Exception):  # noqa: N818 - the name that the architecture gives it
    """An iteration ended above its tolerance.

    Args:
        what: Which iteration, and why it ended.
        residuals: Relative residual norms of its iterations.
    """

    def __init__(self, what: str, residuals: tuple[float, ...] = ()) -> None:
        super().__init__(what, residuals)
        self.what = what
        self.residuals = residuals

    def __str__(self) -> str:
        history = ", ".join(f"{value:.1e}" for value in self.residuals[-5:])
        return f"{self.what} (last residuals: {history})" if history else self.what


class Refused(NotConverged):
    """A converged solution that violates the trust settings; shorter increments do not help."""
