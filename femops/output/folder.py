"""The folder of a run's results, where those of the earlier run stay until there are new ones."""

import errno
import glob
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
    """Where a run writes.

    Where a folder still holds the results of an earlier run, the new ones go to a hidden folder in it, until
    `take_over` brings them to their place; from then on, and in other folders, they are written in their place. A run
    that ends before that leaves the earlier results as they were, and only notes in `failure.json` why it failed.

    Args:
        folder: The folder, which this process has locked.
        case: The file of the case; its stem names the results.

    Attributes:
        folder: The folder.
        path: Where the run writes now.

    Raises:
        CaseError: The run would replace files that femops did not write, or the folder cannot be written.
    """

    def __init__(self, folder: Path, case: Path) -> None:
        self.folder, self._stem = folder, case.stem
        written = folder / CASE
        if written.exists() and written.samefile(case):
            raise CaseError("the resolved case would replace the case itself; choose another folder", file=written)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(folder / _NEW, ignore_errors=True)  # of a run that was killed
            if written.exists() and not written.read_text(encoding="utf-8").startswith(_MARK):
                raise CaseError("is not of femops and would be replaced; choose another folder", file=written)
            self.path = folder / _NEW if written.exists() else folder
            self.path.mkdir(exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    @property
    def keeps_earlier(self) -> bool:
        """Whether the results of an earlier run are still there."""
        return self.path != self.folder

    def write_case(self, text: str) -> None:
        """Write the resolved case beside the results that belong to it."""
        write_text(self.path / CASE, _MARK + text)

    def take_over(self) -> None:
        """Replace the results of the earlier run by those of this one, and nothing else.

        The summary comes first, since it says that the run has not finished.
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
        """Remove what did not come to its place."""
        if self.keeps_earlier:
            shutil.rmtree(self.path, ignore_errors=True)

    def _patterns(self) -> list[str]:
        """Return what a run may leave in its folder."""
        stem = glob.escape(self._stem)
        names = [f"{stem}.vtkhdf", f"{stem}.png", f"{stem}.bp", "micro_*_at_*.vtkhdf", "points.vtp"]
        names += [CURVES, SUMMARY, FAILURE, f"pictures/{stem}_*.png", "pictures/micro_*_at_*.png"]
        return names


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tell the user in one line that results cannot be written."""
    try:
        yield
    except OSError as error:
        raise CaseError(f"results cannot be written there ({error.strerror or error})", file=folder) from error
