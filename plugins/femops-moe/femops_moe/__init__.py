"""Mixture of experts: port-coupled reduced models of the subdomains of an RVE, as a material law of femops."""

from femops.hookspecs import hookimpl
from femops.surrogate import SurrogateSpec
from femops_moe.options import MoEOptions, MoEParameters
from femops_moe.pde.options import PaperProblem
from femops_moe.surrogate import as_law, check, fit, fit_family, fit_problem


@hookimpl
def femops_surrogates() -> list[SurrogateSpec]:
    """Return the surrogate `moe`."""
    summary = "mixture of experts: coupled reduced models of the subdomains of one RVE (surrogate)"
    return [
        SurrogateSpec(
            "moe",
            summary,
            MoEOptions,
            MoEParameters,
            fit,
            as_law,
            version=2,
            check=check,
            fit_family=fit_family,
            problem=PaperProblem,
            fit_problem=fit_problem,
        )
    ]
