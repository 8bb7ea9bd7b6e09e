"""SPON as a surrogate: training on families and problems, and the law of a trained model for one RVE."""

from femops.law import CertifiedLaw
from femops.surrogate import FamilyTask, Fit, ProblemTask, TrainedModel
from femops_spon.options import SPONParameters

# torch takes seconds to import: only when it is needed


def fit_family(task: FamilyTask) -> Fit:
    """Train on a family of RVEs; see `SPONOptions`."""
    from femops_spon.families import fit_network

    return fit_network(task)


def fit_problem(task: ProblemTask) -> Fit:
    """Learn the solution operator of a partial differential equation; see `femops_spon.pde`."""
    from femops_spon.pde.training import fit_problem as fit

    return fit(task)


def as_law(model: TrainedModel, parameters: SPONParameters) -> CertifiedLaw:
    """Return the law of a trained model for the RVE that a case names."""
    from femops_spon.families import is_linear
    from femops_spon.hyperelastic_law import HyperelasticSPONLaw
    from femops_spon.law import LinearSPONLaw

    return LinearSPONLaw(model, parameters) if is_linear(model.rve) else HyperelasticSPONLaw(model, parameters)
