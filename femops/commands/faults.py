"""Reports of unexpected errors: one line, and a file with the details."""

import datetime
import errno
import os
import shlex
import sys
import tempfile
import traceback
from pathlib import Path

from femops.output.versions import versions

_PACKAGES = (
    "femops",
    "numpy",
    "scipy",
    "numba",
    "fenics-dolfinx",
    "dolfinx-solver-real",
    "petsc4py",
    "mpi4py",
    "torch",
)
# File errors that the user can fix: disk full, no permission, and the like.
_OF_FILES = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOENT,
    errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EMFILE, errno.ESTALE,
}  # fmt: skip


def of_files(error: BaseException) -> str | None:
    """Return a message for a file that cannot be read or written; None for other errors."""
    if not isinstance(error, OSError) or error.errno not in _OF_FILES:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}cannot be read or written ({' '.join(os.strerror(error.errno).split())})"


def noted(error: BaseException, arguments: list[str], rank: int | None) -> str:
    """Write an error report and return a one-line message that names it.

    The report is written to the current folder or, if that fails, to the folder for temporary files.

    Args:
        error: The error.
        arguments: Command-line arguments.
        rank: This rank; None for a single process.
    """
    now = datetime.datetime.now(datetime.UTC)
    of_rank = "" if rank is None else f"-rank{rank}"
    name = f"femops-error-{now:%Y%m%d-%H%M%S}-{os.getpid()}{of_rank}.txt"
    text = "\n".join(
        [
            f"date: {now.isoformat(timespec='seconds')}",
            f"command: {shlex.join(['femops', *arguments])}",
            *([] if rank is None else [f"rank: {rank}"]),
            f"python: {sys.version.split()[0]}",
            *(f"{package}: {version}" for package, version in versions(_PACKAGES).items()),
            "",
            "".join(traceback.format_exception(error)),
        ]
    )
    message = " ".join(f"{type(error).__name__}: {error}".split())
    for folder in (Path(), Path(tempfile.gettempdir())):
        try:
            (folder / name).write_text(text, encoding="utf-8")
        except OSError:
            continue
        return f"unexpected {message}; the details are in {folder / name}"
    return f"unexpected {message}; the details cannot be written to {name}"
