"""Modes of displacement and stress, and the fields of snapshots that they are computed from."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from femops.notation import Array
from femops.surrogate import CheckedArrays
from femops.surrogate.spec import Arrays

if TYPE_CHECKING:
    from femops_equino.reduced.pod import ElasticRVE


@dataclass(frozen=True)
class Basis:
    """Modes of displacement and stress.

    Attributes:
        displacement: Shape (n_free, r).
        stress: At the quadrature points. Shape (n_s · n_points, n_b).
        elastic: Coefficients of the elastic fluctuation of the unit strains. Shape (r, n_s).
    """

    displacement: Array
    stress: Array
    elastic: Array

    @staticmethod
    def from_arrays(arrays: CheckedArrays) -> "Basis":
        """Return the stored modes; binds r, n_b and m = n_e + r."""
        displacement = arrays.take("modes.displacement", "n_free", "r")
        arrays.sizes["m"] = arrays.sizes["n_e"] + arrays.sizes["r"]
        stress = arrays.take("modes.stress", "stresses", "n_b")
        return Basis(displacement, stress, arrays.take("modes.elastic", "r", "n_s"))


def displacement_candidates(sensitivity: Array, snapshots: Arrays, half: Array) -> tuple[Array, Array]:
    """Return the elastic fluctuations of the unit strains, and the nonlinear parts of snapshots and sensitivities.

    Args:
        sensitivity: dq/dE at zero strain. Shape (n_free, n_s).
        snapshots: Snapshots; `strain`, `fluctuation` and `sensitivity` are used.
        half: Half widths of the training range, which scale the sensitivities. Shape (n_s,).
    """
    strain = np.asarray(snapshots["strain"])
    fields = np.asarray(snapshots["fluctuation"]).T - sensitivity @ strain.T
    changes = (np.asarray(snapshots["sensitivity"]) - sensitivity) * half
    return sensitivity, np.concatenate([fields, changes.transpose(1, 0, 2).reshape(len(fields), -1)], axis=1)


def stress_candidates(
    operators: "ElasticRVE", sensitivity: Array, snapshots: Arrays, half: Array
) -> tuple[Array, Array]:
    """Return the elastic stresses of the unit strains, and the nonlinear parts of snapshots and sensitivities.

    Arguments as in `displacement_candidates`; `phase_stress` and `phase_stress_sensitivity` are used.
    """
    n_s = operators.n_s
    unit = operators.gradient @ sensitivity + np.repeat(np.eye(n_s), len(operators.weight), axis=0)
    elastic = operators.stress_of(unit)
    strain = np.asarray(snapshots["strain"])
    n = len(strain)
    columns = np.empty((len(elastic), n * (1 + n_s)))
    columns[:, :n] = np.asarray(snapshots["phase_stress"]).reshape(n, -1).T - elastic @ strain.T
    changes = np.asarray(snapshots["phase_stress_sensitivity"]).reshape(n, -1, n_s)
    columns[:, n:] = ((changes - elastic) * half).transpose(1, 0, 2).reshape(len(elastic), -1)
    return elastic, columns
