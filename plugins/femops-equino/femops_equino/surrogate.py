"""EquiNO as a surrogate; what a trained law does not need is loaded when it is."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from femops.law import CertifiedLaw
from femops.notation import Array
from femops.surrogate import Fit, FitTask, TrainedModel
from femops_equino.options import EquiNOOptions, EquiNOParameters

if TYPE_CHECKING:
    from femops.rve.spec import RVE


def fit(task: FitTask) -> Fit:
    """Train the surrogate; see `femops_equino.training.fit`."""
    from femops_equino import training

    return training.fit(task)


def check(rve: "RVE", options: EquiNOOptions, low: Array, high: Array) -> None:
    """Refuse an RVE, options or a range that `fit` does not support; see `femops_equino.training.check`."""
    from femops_equino import training

    training.check(rve, options, low, high)


def packages(options: EquiNOOptions) -> tuple[str, ...]:
    """Return the optional packages that `fit` needs: networks are trained in torch."""
    return ("torch",) if options.mode == "original" or options.networks is not None else ()


def as_law(model: TrainedModel, parameters: EquiNOParameters) -> CertifiedLaw:
    """Return the law of a trained model.

    Raises:
        CaseError: The parameters request something that the model or this machine does not have.
    """
    if model.settings["mode"] == "original":
        from femops_equino.original.law import OriginalLaw

        return OriginalLaw(model, parameters)
    from femops_equino.law import EquiNOLaw

    return EquiNOLaw(model, parameters)


def c_source(law: CertifiedLaw) -> Mapping[str, str]:
    """Return the C source of a law; see `femops_equino.export.c_source`."""
    from femops_equino import export

    return export.c_source(law)


def torch_program(law: CertifiedLaw) -> Mapping[str, bytes]:
    """Return a law as a program of torch; see `femops_equino.export.torch_program`."""
    from femops_equino.export import torch_program  # imports torch

    return torch_program.torch_program(law)


def onnx_program(law: CertifiedLaw) -> Mapping[str, bytes]:
    """Return a law as a program of ONNX; see `femops_equino.export.onnx_program`."""
    from femops_equino.export import onnx_program  # imports torch

    return onnx_program.onnx_program(law)
