"""BENO as a surrogate: training and evaluation on problems."""

from collections.abc import Iterable
from pathlib import Path

from femops.errors import CaseError
from femops.law import CertifiedLaw
from femops.surrogate import Evaluation, EvaluationTask, Fit, ProblemTask, TrainedModel
from femops_beno.options import BENOParameters
from femops_beno.poisson.options import PoissonShapes

# torch, gmsh and matplotlib take seconds to import: only when they are needed


def fit_problem(task: ProblemTask) -> Fit:
    """Learn the solution operator of Poisson's equation on varying shapes; see `femops_beno.training`."""
    from femops_beno.training import fit_problem as fit

    return fit(task)


def data_files(block: PoissonShapes, folder: Path) -> Iterable[Path]:
    """Return the files of given arrays; see `femops.surrogate.SurrogateSpec`."""
    from femops_beno.poisson.data import data_files as files

    return files(block, folder)


def evaluate_data(task: EvaluationTask) -> Evaluation:
    """Evaluate a model on arrays or on the test samples of a study; see `femops.surrogate.SurrogateSpec`."""
    from femops_beno.poisson.evaluation import evaluate_data as evaluate

    return evaluate(task)


def as_law(model: TrainedModel, parameters: BENOParameters) -> CertifiedLaw:
    """Refuse: a BENO is the operator of a problem, not a law.

    Raises:
        CaseError: Always.
    """
    raise CaseError("'beno' learns problems, there is no law of it; femops evaluate applies its models", key="law")
