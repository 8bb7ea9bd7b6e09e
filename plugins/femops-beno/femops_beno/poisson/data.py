"""The samples that a study trains and tests on: random ones, or those of given arrays."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from femops.surrogate import EvaluationTask, ProblemTask, Progress
from femops_beno.poisson.arrays import files_of, read_samples
from femops_beno.poisson.generate import Sample, random_samples
from femops_beno.poisson.options import PoissonShapes


def training_samples(task: ProblemTask) -> tuple[list[Sample], list[Sample]]:
    """Return the training samples and the test samples of a study.

    Nothing of them is kept in the checkpoint: to draw and to solve a sample again takes some 10 ms (32 × 32 cells).

    Raises:
        CaseError: Given arrays cannot be read.
    """
    block: PoissonShapes = task.problem
    test = test_samples(block, task.folder, task.progress)
    if block.data is not None:
        return _read(block.data.train, task.folder, task.progress, "reading, train"), test
    count, seed = block.samples.train, 2 * block.samples.seed
    return random_samples(block, count, seed, task.progress, "solving, train"), test


def test_samples(block: PoissonShapes, folder: Path, progress: Progress) -> list[Sample]:
    """Return the test samples of a study.

    Args:
        block: The problem.
        folder: Folder of the study.
        progress: Progress callback.

    Raises:
        CaseError: Given arrays cannot be read.
    """
    if block.data is not None:
        return _read(block.data.test, folder, progress, "reading, test")
    return random_samples(block, block.samples.test, 2 * block.samples.seed + 1, progress, "solving, test")


def samples_to_evaluate(task: EvaluationTask) -> list[Sample]:
    """Return the samples of a file of arrays, or the test samples of a study.

    Raises:
        CaseError: Arrays cannot be read.
    """
    if task.problem is not None:
        return test_samples(task.problem, task.data.parent, task.progress)
    return read_samples(task.data)


def data_files(block: PoissonShapes, folder: Path) -> Iterator[Path]:
    """Yield the files of given arrays; see `femops.surrogate.SurrogateSpec`."""
    if block.data is not None:
        for file in (*block.data.train, *block.data.test):
            yield from files_of(folder / file)


def _read(files: Sequence[Path], folder: Path, progress: Progress, stage: str) -> list[Sample]:
    found: list[Sample] = []
    for done, file in enumerate(files):
        progress(stage, done, len(files))
        found += read_samples(folder / file)
    progress(stage, len(files), len(files))
    return found
