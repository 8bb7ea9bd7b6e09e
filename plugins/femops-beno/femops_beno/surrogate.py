"""BENO as a surrogate: training and evaluation on problems, training on families and the law of a model."""

from collections.abc import Iterable
from pathlib import Path

from femops.errors import CaseError
from femops.law import CertifiedLaw
from femops.notation import Array
from femops.rve.spec import RVE
from femops.surrogate import Evaluation, EvaluationTask, FamilyTask, Fit, ProblemTask, TrainedModel
from femops_beno.options import BENOOptions, BENOParameters
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


def check(rve: RVE, options: BENOOptions, low: Array, high: Array) -> None:
    """Refuse RVEs that the network cannot be trained on.

    Raises:
        CaseError: A phase is nonlinear, the boundary condition is not kinematic, the cells are not linear, or the
            network is the published one.
    """
    from femops_beno.rve.systems import rve_fields

    if options.published:
        raise CaseError("true given, but the published network solves scalar problems only", key="surrogate.published")
    rve_fields(rve)


def fit_family(task: FamilyTask) -> Fit:
    """Train on a family of RVEs; see `femops_beno.rve.training`."""
    from femops_beno.rve.training import fit_family as fit

    return fit(task)


def as_law(model: TrainedModel, parameters: BENOParameters) -> CertifiedLaw:
    """Return the law of a trained model for its RVE."""
    from femops_beno.rve.law import beno_law

    return beno_law(model, parameters)
