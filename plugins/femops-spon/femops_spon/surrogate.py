"""SPON as a surrogate: training on families and problems, and the law of a trained model."""

from femops.law import CertifiedLaw
from femops.notation import Array
from femops.pde.options import Problem
from femops.rve.spec import RVE
from femops.surrogate import FamilyTask, Fit, ProblemTask, TrainedModel
from femops.surrogate.exact import check_dimension, check_elastic
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops_spon.options import SPONOptions, SPONParameters

# torch takes seconds to import: only when it is needed


def check(rve: RVE, options: SPONOptions, low: Array, high: Array) -> None:
    """Refuse RVEs that the network cannot be trained on.

    Raises:
        CaseError: A phase has internal state, the RVE is not periodic, or its mesh is too coarse for the levels.
    """
    from femops_spon.network import hierarchy

    check_elastic(rve)
    hierarchy(FluctuationSpace(rve), options.levels or 1)


def fit_family(task: FamilyTask) -> Fit:
    """Train on a family of RVEs; see `SPONOptions`."""
    from femops_spon.families import fit_network

    return fit_network(task)


def fit_problem(task: ProblemTask) -> Fit:
    """Learn the solution operator of a partial differential equation; see `femops_spon.pde`."""
    from femops_spon.pde.training import fit_problem as fit

    return fit(task)


def runs_code(problem: Problem) -> str | None:
    """Return the name of the user code of a problem, or None; see `femops.surrogate.SurrogateSpec`."""
    from femops.pde.find import code_of

    return code_of(problem.root)


def as_law(model: TrainedModel, parameters: SPONParameters) -> CertifiedLaw:
    """Return the law of a trained model for its RVE.

    Raises:
        CaseError: The network cannot predict the fields of the RVE, whether the law evaluates it or not.
    """
    from femops_spon.families import is_linear
    from femops_spon.hyperelastic_law import HyperelasticSPONLaw
    from femops_spon.linear_law import linear_law
    from femops_spon.network import hierarchy

    check_elastic(model.rve)
    check_dimension(model.rve, model.settings["dim"])
    hierarchy(FluctuationSpace.shared(model.rve), int(model.settings["levels"]))
    return linear_law(model, parameters) if is_linear(model.rve) else HyperelasticSPONLaw(model, parameters)
