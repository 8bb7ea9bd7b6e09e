"""EquiNO, the equilibrium neural operator, as a material law of femops."""

from femops.hookspecs import hookimpl
from femops.surrogate import SurrogateSpec
from femops_equino.options import EquiNOOptions, EquiNOParameters
from femops_equino.surrogate import as_law, c_source, check, fit, onnx_program, packages, torch_program


@hookimpl
def femops_surrogates() -> list[SurrogateSpec]:
    """Return the surrogate `equino`."""
    summary = "equilibrium neural operator: reduced-order model of one RVE with error bounds (surrogate)"
    return [
        SurrogateSpec(
            "equino",
            summary,
            EquiNOOptions,
            EquiNOParameters,
            fit,
            as_law,
            check=check,
            packages=packages,
            exporters={"c": c_source, "torch": torch_program, "onnx": onnx_program},
        )
    ]
