"""Modes of snapshots, and the reduced model with all quadrature points and its certificate data."""

from dataclasses import dataclass

import numpy as np

from femops.notation import Array
from femops.phases.saturating import Saturating
from femops.rve.spec import RVE
from femops.surrogate import CheckedArrays
from femops.surrogate.spec import Arrays
from femops_equino.reduced.certificate import Points, Quadratics
from femops_equino.reduced.model import DEVIATOR, TRACE, ReducedModel, full_model
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
        stress = arrays.take("modes.stress", arrays.sizes["n_s"] * arrays.sizes["n_points"], "n_b")
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


def stress_candidates(operators: ElasticRVE, sensitivity: Array, snapshots: Arrays, half: Array) -> tuple[Array, Array]:
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


@dataclass(frozen=True)
class Full:
    """The reduced model with all quadrature points, and its certificate.

    Attributes:
        model: The reduced energy.
        points: All points of the nonlinear phases.
        exact: Exact contributions of linear phases and bulk parts.
    """

    model: ReducedModel
    points: Points
    exact: Quadratics


def full(rve: RVE, operators: ElasticRVE, basis: Basis) -> Full:
    """Build the reduced model with all quadrature points.

    Raises:
        CaseError: A phase is neither linear nor `saturating`.
    """
    d = rve.discretisation
    n_s, w = d.n_s, operators.weight / operators.volume
    model, maps = full_model(rve, operators, basis.displacement)
    psi = basis.stress.reshape(n_s, d.n_points, -1)
    dual = np.einsum("stg,tgk->sgk", operators.compliance, psi, optimize=True)
    n_b, m = psi.shape[2], maps.shape[2]
    projection, gap, elastic = np.zeros((n_b, m)), np.zeros((m + n_b, m + n_b)), np.zeros((m, m))
    phases: list[tuple[slice, Saturating]] = []
    nonlinear = []
    for position, phase in enumerate(rve.phases):
        part = d.points_of_phase(position)
        local, weight = maps[:n_s, part], w[part]
        stiff = np.einsum("stg,tgi->sgi", operators.tangent[:, :, part], local)
        elastic += np.tensordot(local * weight[:, None], stiff, axes=([0, 1], [0, 1]))
        if phase.linear:
            projection += np.tensordot(psi[:, part] * weight[:, None], local, axes=([0, 1], [0, 1]))
            # The gap is ½ (σ − D ε) : D⁻¹ : (σ − D ε) and D⁻¹ (σ − D ε) = D⁻¹ σ − ε.
            stresses = np.concatenate([-stiff, psi[:, part]], axis=2) * weight[:, None]
            strains = np.concatenate([-local, dual[:, part]], axis=2)
            gap += np.tensordot(stresses, strains, axes=([0, 1], [0, 1]))
            continue
        assert isinstance(phase, Saturating)  # checked by `full_model`
        bulk = phase.K * np.tensordot(TRACE[d.dim], maps[:, part], axes=1) * weight[:, None]
        volumetric = np.tensordot(TRACE[d.dim][:n_s], dual[:, part], axes=1)
        projection += volumetric.T @ bulk
        start = sum(len(range(one.start, one.stop)) for one, _ in phases)
        phases.append((slice(start, start + part.stop - part.start), phase))
        nonlinear.append(np.arange(part.start, part.stop))
    where = np.concatenate([np.zeros(0, dtype=np.int64), *nonlinear])
    deviatoric = np.einsum("as,sgk->kga", DEVIATOR[d.dim][:, :n_s], dual[:, where])
    strain, stress, deviatoric = (np.ascontiguousarray(one) for one in (maps[:n_s, where], psi[:, where], deviatoric))
    points = Points(strain, stress, deviatoric, tuple(phases), model)
    metric = np.linalg.inv(_homogenized(elastic, basis.elastic, n_s, len(TRACE[d.dim])))
    return Full(model, points, Quadratics(projection, 0.5 * (gap + gap.T), elastic, 0.5 * (metric + metric.T)))


def _homogenized(elastic: Array, coefficients: Array, n_s: int, n_e: int) -> Array:
    """Return the elastic homogenized tangent."""
    lift = np.zeros((len(elastic), n_s))
    lift[:n_s], lift[n_e:] = np.eye(n_s), coefficients
    return np.asarray(lift.T @ elastic @ lift)
