"""SPON as a surrogate: training on a family of RVEs, and the law of a trained model for one of them."""

from femops.law import CertifiedLaw
from femops.surrogate import FamilyTask, Fit, TrainedModel
from femops_spon.options import SPONParameters


def fit_family(task: FamilyTask) -> Fit:
    """Train on a family; see `SPONOptions`."""
    from femops_spon.prediction import fit_network  # torch takes seconds to import: only when needed

    return fit_network(task)


def as_law(model: TrainedModel, parameters: SPONParameters) -> CertifiedLaw:
    """Return the law of a trained model for the RVE that a case names."""
    from femops_spon.law import LinearSPONLaw

    return LinearSPONLaw(model, parameters)
