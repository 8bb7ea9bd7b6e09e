"""SPON, the structure-preserving operator network, as a material law of femops and as a solution operator."""

from femops.hookspecs import hookimpl
from femops.pde.options import Problem
from femops.surrogate import SurrogateSpec
from femops_spon.options import SPONOptions, SPONParameters
from femops_spon.surrogate import as_law, check, fit_family, fit_problem, runs_code


@hookimpl
def femops_surrogates() -> list[SurrogateSpec]:
    """Return the surrogate `spon`."""
    summary = "operator network on finite-element spaces: one model for a family of RVEs (surrogate)"
    return [
        SurrogateSpec(
            "spon",
            summary,
            SPONOptions,
            SPONParameters,
            None,
            as_law,
            check=check,
            fit_family=fit_family,
            problem=Problem,
            fit_problem=fit_problem,
            runs_code=runs_code,
            validation={"start": "network", "corrections": 2},
        )
    ]
