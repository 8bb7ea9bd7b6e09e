"""The law of a trained EquiNO as a program of ONNX, for ONNX Runtime alone."""

from collections.abc import Callable, Mapping

from femops.devices.torch_library import Tensor, torch
from femops.errors import CaseError
from femops.law import CertifiedLaw
from femops.surrogate.programs import onnx_program as written
from femops_equino.export.torch_program import (
    Program,
    Response,
    certified,
    first_guess,
    split,
    split_tangent,
    uncorrected,
)
from femops_equino.kernels.torch_newton import SMALLEST, TorchNewton
from femops_equino.law import EquiNOLaw


def onnx_program(law: CertifiedLaw) -> Mapping[str, bytes]:
    """Return the program of a law by the name of its file; its response is that of `torch_program`.

    Raises:
        CaseError: The corrections are neither 0 nor 1, or `torch_program` refuses the law.
    """
    law = certified(law, "onnx")
    paths = {0: uncorrected, 1: _corrected_once}
    corrections = law.parameters.corrections
    if corrections not in paths:
        why = "which has no loop until convergence and no factorisation of matrices"
        raise CaseError(f"{corrections} given, expected 0 or 1 for onnx, {why}", key="corrections")
    return written(Program(law, paths[corrections](law)), len(law.low))


def _corrected_once(law: EquiNOLaw) -> Callable[[Tensor], Response]:
    newton, start = TorchNewton(law.model, "cpu"), first_guess(law)
    n_e, n_s = law.model.n_e, len(law.low)

    def response(strain: Tensor) -> Response:
        z = torch.cat([strain, strain.new_zeros(strain.shape[0], n_e - n_s), start(strain)], 1)
        stress, tangent, gap = _condensed(*newton.derivatives(z), n_e)
        decrement = gap / torch.clamp((stress * z[:, :n_e]).sum(1), min=SMALLEST)
        valid = torch.isfinite(decrement)
        return {**split(stress, law), **split_tangent(tangent, law), "valid": valid, "decrement": decrement}

    return response


def _condensed(gradient: Tensor, hessian: Tensor, n_e: int) -> tuple[Tensor, Tensor, Tensor]:
    """Condense a out of gradients (n, m) and Hessians (n, m, m), one row after the other from the last one up.

    Returns:
        Stress (n, n_e), tangent (n, n_e, n_e) and the energy gap gᵀ K⁻¹ g (n,).
    """
    gap = torch.zeros_like(gradient[:, 0])
    for p in range(hessian.shape[1] - 1, n_e - 1, -1):
        row, right, pivot = hessian[:, p, :p], gradient[:, p], hessian[:, p, p]
        factor = row / pivot[:, None]
        gap = gap + right * right / pivot
        gradient = gradient[:, :p] - factor * right[:, None]
        hessian = hessian[:, :p, :p] - factor[:, :, None] * row[:, None]
    return gradient, hessian, gap
