"""What other codes answer, and how they are run."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from femops.notation import Array


@dataclass(frozen=True)
class Points:
    """Results at the integration points of a code, in its own order.

    Attributes:
        strain: Mandel. Shape (n_qp, n_s).
        error: What the law states. Shape (n_qp,).
        out_of_range: 1 outside the range of the training, else 0. Shape (n_qp,).
    """

    strain: Array
    error: Array
    out_of_range: Array


@dataclass(frozen=True)
class Answer:
    """A run of a code.

    Attributes:
        text: What it printed.
        status: Its exit status.
        norms: Residual norms of its iterations; of CalculiX the largest corrections.
        seconds: Time of its solution, without start and files.
        displacement: Displacements of the nodes after its first step, if it came to that. Shape (n_points, dim).
        points: Results at the integration points, then too.
    """

    text: str
    status: int
    norms: list[float]
    seconds: float
    displacement: Array | None
    points: Points | None


def ran(command: list[str], folder: Path, variables: Mapping[str, str] | None = None) -> tuple[str, int]:
    """Run a code without the libraries that femops loads into every program; return what it prints and its status."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "PYTHONPATH")}
    environment = {**inherited, **(variables or {})}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)
    return done.stdout + done.stderr, done.returncode
