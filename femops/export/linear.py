"""C source of laws whose tangent is constant: those of RVEs with linear phases."""

from importlib.resources import files

import numpy as np

from femops.errors import CaseError
from femops.export.tables import Tables
from femops.law import MaterialLaw, MicroscaleLaw
from femops.notation import Array, n_strain

_TRIALS = 16
_ROUND_OFF = 1e-9


def linear_source(law: MaterialLaw) -> dict[str, str]:
    """Return the C files of a law of an RVE of linear phases.

    Its error, if it has one, is that of the law: √(E·B·E / E·C·E) with its tangent C and a matrix B, found from the
    errors at the unit strains and at their sums.

    Raises:
        CaseError: The RVE has other phases, or the error is none of this kind.
    """
    if not isinstance(law, MicroscaleLaw) or not all(phase.linear for phase in law.rve.phases):
        raise CaseError("cannot be exported: its plugin gives no C source, and its RVE has phases that are not linear")
    n_s = n_strain(law.dim)
    units = law.evaluate(np.eye(n_s), np.zeros((n_s, law.n_state)), 1.0)
    tangent = units.tangent[0]
    tables = Tables()
    tables.sizes(n_s=n_s, chunk=256, has_error=int(units.error is not None))
    tables.array("stiffness", tangent)
    if law.dim == 2:
        tables.array("stiffness_33", units.stress_33)
    if units.error is not None:
        tables.array("bound", _bound(law, tangent))
    text = files("femops.export").joinpath("templates", "linear.h").read_text(encoding="utf-8")
    return {"law.h": text, "tables.h": str(tables)}


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
