"""Results folder of a run, in which earlier results are kept until new ones are available."""

import errno
import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from femops.errors import CaseError
from femops.output.atomic import write_text

CASE, SUMMARY, CURVES, FAILURE = "case.yaml", "summary.json", "curves.csv", "failure.json"
_MARK = "# Written by femops run: the case with all defaults.\n"
_NEW = ".new"


class ResultsFolder:
    """Results folder of a run.

    If the folder contains results of an earlier run, new ones are written to a hidden subfolder until `take_over`
    replaces the earlier ones. A run that fails before that keeps them and only writes the reason to `failure.json`.

    Args:
        folder: The folder, locked by this process.
        case: The case file; its stem names the results.

    Attributes:
        folder: The folder.
        path: Folder to which the run currently writes.

    Raises:
        CaseError: The run would replace files that femops did not write, or the folder cannot be written.
    """

    def __init__(self, folder: Path, case: Path) -> None:
        self.folder = folder
        written = folder / CASE
        if written.exists() and written.samefile(case):
            raise CaseError("the resolved case would replace the case itself; choose another folder", file=written)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(folder / _NEW, ignore_errors=True)  # left by an interrupted run
            if written.exists() and not written.read_text(encoding="utf-8").startswith(_MARK):
                raise CaseError("is not of femops and would be replaced; choose another folder", file=written)
            self.path = folder / _NEW if written.exists() else folder
            self.path.mkdir(exist_ok=True)
            self._stems = sorted({case.stem, _stem_of(folder / SUMMARY, default=case.stem)})
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    @property
    def keeps_earlier(self) -> bool:
        """Whether the results of an earlier run are still kept."""
        return self.path != self.folder

    def write_case(self, text: str) -> None:
        """Write the resolved case next to its results."""
        write_text(self.path / CASE, _MARK + text)

    def take_over(self) -> None:
        """Replace the results of the earlier run by those of this one; other files are kept.

        The summary is moved first, as it marks the run as unfinished.
        """
        if not self.keeps_earlier:
            return
        new = sorted(self.path.iterdir(), key=lambda file: file.name != SUMMARY)
        for file in new:
            os.replace(file, self.folder / file.name)
        names = {file.name for file in new}
        for old in (one for pattern in self._patterns() for one in self.folder.glob(pattern) if one.name not in names):
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink()
        pictures = self.folder / "pictures"
        if pictures.is_dir() and not any(pictures.iterdir()):
            pictures.rmdir()
        self.close()
        self.path = self.folder

    def close(self) -> None:
        """Remove new results that were not taken over."""
        if self.keeps_earlier:
            shutil.rmtree(self.path, ignore_errors=True)

    def _patterns(self) -> list[str]:
        """Return glob patterns of all files that this run and the earlier one may have written."""
        names = ["micro_*_at_*.vtkhdf", "points.vtp", CURVES, SUMMARY, FAILURE, "pictures/micro_*_at_*.png"]
        for stem in map(glob.escape, self._stems):
            names += [f"{stem}.vtkhdf", f"{stem}.png", f"{stem}.bp", f"pictures/{stem}_*.png"]
        return names


def _stem_of(summary: Path, default: str) -> str:
    """Return the stem of the case of a summary, by which its results are named."""
    try:
        return Path(json.loads(summary.read_text(encoding="utf-8"))["case"]).stem
    except (OSError, ValueError, KeyError, TypeError):
        return default


@contextmanager
def writing(folder: Path, what: str = "results") -> Iterator[None]:
    """Convert an OSError in the block to a one-line CaseError.

    Args:
        folder: The folder, for the message.
        what: What is written, for the message.
    """
    try:
        yield
    except OSError as error:
        raise CaseError(f"{what} cannot be written there ({error.strerror or error})", file=folder) from error
