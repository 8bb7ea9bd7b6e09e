"""The reduced model with all quadrature points: what the cubature approximates, and what bounds errors."""

from dataclasses import dataclass

import numpy as np

from femops.notation import Array
from femops.phases.saturating import Saturating
from femops.rve.spec import RVE
from femops_equino.reduced.basis import Basis
from femops_equino.reduced.certificate import CertificatePoints, Quadratics
from femops_equino.reduced.model import DEVIATOR, TRACE, ReducedModel, assemble
from femops_equino.reduced.pod import ElasticRVE


@dataclass(frozen=True)
class FullModel:
    """The reduced model with all quadrature points, and the data of its certificate.

    Attributes:
        model: The reduced energy.
        points: All points of the nonlinear phases.
        quadratics: Exact contributions of linear phases and bulk parts.
    """

    model: ReducedModel
    points: CertificatePoints
    quadratics: Quadratics


def full_model(rve: RVE, operators: ElasticRVE, basis: Basis) -> FullModel:
    """Build the reduced model with all quadrature points.

    Raises:
        CaseError: A phase is neither linear nor `saturating`.
    """
    model, strain = assemble(rve, operators, basis.displacement)
    stress = basis.stress.reshape(operators.n_s, len(operators.weight), -1)
    dual = np.einsum("stg,tgk->sgk", operators.compliance, stress, optimize=True)
    points = _points(rve, model, strain, stress, dual)
    return FullModel(model, points, _quadratics(rve, operators, basis, strain, stress, dual))


def _points(rve: RVE, model: ReducedModel, strain: Array, stress: Array, dual: Array) -> CertificatePoints:
    """Return the points of the nonlinear phases; `dual` is D₀⁻¹ : `stress`. Shapes (n_s or n_e, n_points, ·)."""
    d = rve.discretisation
    nonlinear = [(d.points_of_phase(k), one) for k, one in enumerate(rve.phases) if isinstance(one, Saturating)]
    stops = np.cumsum([part.stop - part.start for part, _ in nonlinear])
    phases = tuple(
        (slice(int(stop) - part.stop + part.start, int(stop)), phase)
        for stop, (part, phase) in zip(stops, nonlinear, strict=True)
    )
    where = np.concatenate([np.arange(0), *(np.arange(part.start, part.stop) for part, _ in nonlinear)])
    projection = np.einsum("as,sgk->kga", DEVIATOR[d.dim][:, : d.n_s], dual[:, where])
    strain, stress, projection = (
        np.ascontiguousarray(one) for one in (strain[: d.n_s, where], stress[:, where], projection)
    )
    return CertificatePoints(strain, stress, projection, phases, model)


def _quadratics(rve: RVE, operators: ElasticRVE, basis: Basis, strain: Array, stress: Array, dual: Array) -> Quadratics:
    """Return the exact contributions of linear phases and bulk parts; arguments as in `_points`."""
    d = rve.discretisation
    n_s, n_b, m = d.n_s, stress.shape[2], strain.shape[2]
    projection, gap, elastic = np.zeros((n_b, m)), np.zeros((m + n_b, m + n_b)), np.zeros((m, m))
    for position, phase in enumerate(rve.phases):
        part = d.points_of_phase(position)
        local, weight = strain[:n_s, part], operators.weight[part, None] / operators.volume
        stiff = np.einsum("stg,tgi->sgi", operators.tangent[:, :, part], local)
        elastic += np.tensordot(local * weight, stiff, axes=([0, 1], [0, 1]))
        if phase.linear:
            projection += np.tensordot(stress[:, part] * weight, local, axes=([0, 1], [0, 1]))
            # The gap is ½ (σ − D ε) : D⁻¹ : (σ − D ε) and D⁻¹ (σ − D ε) = D⁻¹ σ − ε.
            stresses = np.concatenate([-stiff, stress[:, part]], axis=2) * weight
            strains = np.concatenate([-local, dual[:, part]], axis=2)
            gap += np.tensordot(stresses, strains, axes=([0, 1], [0, 1]))
        else:
            assert isinstance(phase, Saturating)  # checked by `assemble`
            bulk = phase.K * np.tensordot(TRACE[d.dim], strain[:, part], axes=1) * weight
            projection += np.tensordot(TRACE[d.dim][:n_s], dual[:, part], axes=1).T @ bulk
    metric = np.linalg.inv(_homogenized(elastic, basis.elastic, n_s, len(TRACE[d.dim])))
    return Quadratics(projection, 0.5 * (gap + gap.T), elastic, 0.5 * (metric + metric.T))


def _homogenized(elastic: Array, coefficients: Array, n_s: int, n_e: int) -> Array:
    """Return the elastic homogenized tangent."""
    lift = np.zeros((len(elastic), n_s))
    lift[:n_s], lift[n_e:] = np.eye(n_s), coefficients
    return np.asarray(lift.T @ elastic @ lift)
