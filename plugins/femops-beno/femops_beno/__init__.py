"""BENO, the boundary-embedded graph neural operator, for elliptic problems on varying shapes."""

from femops.hookspecs import hookimpl
from femops.surrogate import SurrogateSpec
from femops_beno.options import BENOOptions, BENOParameters
from femops_beno.poisson.options import PoissonShapes
from femops_beno.surrogate import as_law, check, data_files, evaluate_data, fit_family, fit_problem


@hookimpl
def femops_surrogates() -> list[SurrogateSpec]:
    """Return the surrogate `beno`."""
    return [
        SurrogateSpec(
            "beno",
            "boundary-embedded graph operator: elliptic problems and RVEs of varying shape (surrogate)",
            BENOOptions,
            BENOParameters,
            None,
            as_law,
            check=check,
            fit_family=fit_family,
            problem=PoissonShapes,
            fit_problem=fit_problem,
            data_files=data_files,
            evaluate_data=evaluate_data,
        )
    ]
