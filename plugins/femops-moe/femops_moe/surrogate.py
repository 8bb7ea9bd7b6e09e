"""The mixture of experts as a surrogate; torch and the libraries of RVEs are loaded when they are needed."""

from typing import TYPE_CHECKING

from femops.errors import CaseError
from femops.law import CertifiedLaw
from femops.notation import Array
from femops.surrogate import FamilyTask, Fit, FitTask, ProblemTask, TrainedModel
from femops_moe.options import MoEOptions, MoEParameters

if TYPE_CHECKING:
    from femops.rve.spec import RVE


def fit(task: FitTask) -> Fit:
    """Train the surrogate; see `femops_moe.training.fit` and, of components, `femops_moe.component_training.fit`."""
    from femops_moe import component_training, training

    return (training if task.options.component is None else component_training).fit(task)


def fit_family(task: FamilyTask) -> Fit:
    """Train on a family of RVEs; see `femops_moe.learned.training.fit_family`."""
    from femops_moe.learned import training

    return training.fit_family(task)


def fit_problem(task: ProblemTask) -> Fit:
    """Train on an equation; see `femops_moe.pde.training.fit_problem`."""
    from femops_moe.pde import training

    return training.fit_problem(task)


def check(rve: "RVE", options: MoEOptions, low: Array, high: Array) -> None:
    """Refuse RVEs and options that `fit` does not support.

    Raises:
        CaseError: A phase has internal state, all phases are linear, the boundary condition is static, or there are
            more experts than cells.
    """
    from femops.surrogate.exact import check_elastic
    from femops.surrogate.fields.fluctuation_space import FluctuationSpace
    from femops_moe.component_training import check_components
    from femops_moe.training import partition_of

    check_elastic(rve)
    if all(phase.linear for phase in rve.phases):
        raise CaseError("all are linear, expected a nonlinear one; spon learns linear ones", key="rve.phases")
    if options.component is not None:
        check_components(rve, options.component)
    else:
        partition_of(FluctuationSpace(rve), options)


def as_law(model: TrainedModel, parameters: MoEParameters) -> CertifiedLaw:
    """Return the law of a trained model.

    Raises:
        CaseError: An RVE is given for a model that has no components, or a network is asked for that it has not.
    """
    from femops_moe.component_law import ComponentLaw
    from femops_moe.first_guess import is_stored
    from femops_moe.law import MoELaw
    from femops_moe.learned.law import LearnedBasisLaw

    if parameters.start == "network" and not is_stored(model.arrays):
        raise CaseError("network given, but the model has none; expected auto or last", key="start")
    if "learned" in model.settings:
        return LearnedBasisLaw(model, parameters)
    if "components" in model.settings:
        return ComponentLaw(model, parameters)
    if parameters.rve is not None:
        raise CaseError("given, but the model was trained for one RVE, which it brings along", key="rve")
    return MoELaw(model, parameters)
