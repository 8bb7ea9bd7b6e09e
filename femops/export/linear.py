"""Laws whose tangent is constant, those of RVEs with linear phases, as C source and as programs."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

import numpy as np

from femops.errors import CaseError
from femops.export.tables import Tables
from femops.law import MaterialLaw, MicroscaleLaw
from femops.notation import Array, n_strain

_TRIALS = 16
_ROUND_OFF = 1e-9
_NO_WORK = 1e-300


@dataclass(frozen=True)
class LinearLaw:
    """The constants of a law of an RVE of linear phases.

    Attributes:
        tangent: C, Mandel [stress]. Shape (n_s, n_s).
        tangent_33: In plane strain, d stress_33 / d strain [stress], shape (n_s,); None in 3D.
        bound: B [stress] of the error √(E·B·E / E·C·E), shape (n_s, n_s); None if the law states no error.
    """

    tangent: Array
    tangent_33: Array | None
    bound: Array | None

    @classmethod
    def of(cls, law: MaterialLaw, without: str) -> "LinearLaw":
        """Find the constants from the response and the errors at the unit strains and at their sums.

        Args:
            law: The law.
            without: What its plugin does not give, for the message.

        Raises:
            CaseError: The RVE has other phases, or the error is none of this kind.
        """
        if not isinstance(law, MicroscaleLaw) or not all(phase.linear for phase in law.rve.phases):
            raise CaseError(f"cannot be exported: {without}, and its RVE has phases that are not linear")
        n_s = n_strain(law.dim)
        units = law.evaluate(np.eye(n_s), np.zeros((n_s, law.n_state)), 1.0)
        tangent = units.tangent[0]
        return cls(tangent, units.stress_33, None if units.error is None else _bound(law, tangent))


def linear_source(law: LinearLaw) -> dict[str, str]:
    """Return the C files of a law with a constant tangent."""
    tables = Tables()
    tables.sizes(n_s=len(law.tangent), chunk=256, has_error=int(law.bound is not None))
    tables.array("stiffness", law.tangent)
    if law.tangent_33 is not None:
        tables.array("stiffness_33", law.tangent_33)
    if law.bound is not None:
        tables.array("bound", law.bound)
    text = files("femops.export").joinpath("templates", "linear.h").read_text(encoding="utf-8")
    return {"law.h": text, "tables.h": str(tables)}


def linear_program(law: LinearLaw, kind: Literal["torch", "onnx"]) -> Mapping[str, bytes]:
    """Return a law with a constant tangent as a program of torch or ONNX; see `femops.surrogate.programs`."""
    from femops.devices.torch_library import Tensor, torch
    from femops.surrogate.programs import onnx_program, saved_program

    constants = {name: torch.as_tensor(one) for name, one in vars(law).items() if one is not None}

    class Program(torch.nn.Module):
        def forward(self, strain: Tensor) -> dict[str, Tensor]:
            work = ((strain @ constants["tangent"]) * strain).sum(1)
            response = {"stress": strain @ constants["tangent"], "valid": torch.isfinite(work)}
            response["tangent"] = constants["tangent"].repeat(strain.shape[0], 1, 1)
            if law.tangent_33 is not None:
                response["stress_33"] = strain @ constants["tangent_33"]
                response["tangent_33"] = constants["tangent_33"].repeat(strain.shape[0], 1)
            if law.bound is not None:
                gap = ((strain @ constants["bound"]) * strain).sum(1)
                response["error"] = torch.sqrt(gap.clamp(min=0.0) / work.clamp(min=_NO_WORK))
            return response

    write = saved_program if kind == "torch" else onnx_program
    return write(Program(), len(law.tangent))


def _bound(law: MaterialLaw, tangent: Array) -> Array:
    """Return the matrix B of the errors of a law.

    Raises:
        CaseError: There is none.
    """
    n_s = len(tangent)
    row, column = np.triu_indices(n_s)
    strain = np.eye(n_s)[row] + np.where(row != column, 1.0, 0.0)[:, None] * np.eye(n_s)[column]
    found = _squared(law, tangent, strain)
    bound = np.diag(found[row == column])
    for i, j, value in zip(row, column, found, strict=True):
        if i != j:
            bound[i, j] = bound[j, i] = 0.5 * (value - bound[i, i] - bound[j, j])
    trial = np.random.default_rng(0).normal(size=(_TRIALS, n_s))
    expected = _squared(law, tangent, trial)
    if not np.allclose(np.einsum("ni,ij,nj->n", trial, bound, trial), expected, rtol=_ROUND_OFF):
        raise CaseError("cannot be exported: its error is no quadratic form of the strain")
    return bound


def _squared(law: MaterialLaw, tangent: Array, strain: Array) -> Array:
    """Return error² E·C·E at strains (n, n_s)."""
    error = law.evaluate(strain, np.zeros((len(strain), law.n_state)), 1.0).error
    assert error is not None
    return np.asarray(error**2 * np.einsum("ni,ij,nj->n", strain, tangent, strain))
