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
    d = rve.discretisation
    n_s, w = d.n_s, operators.weight / operators.volume
    model, maps = assemble(rve, operators, basis.displacement)
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
        assert isinstance(phase, Saturating)  # checked by `assemble`
        bulk = phase.K * np.tensordot(TRACE[d.dim], maps[:, part], axes=1) * weight[:, None]
        volumetric = np.tensordot(TRACE[d.dim][:n_s], dual[:, part], axes=1)
        projection += volumetric.T @ bulk
        start = sum(len(range(one.start, one.stop)) for one, _ in phases)
        phases.append((slice(start, start + part.stop - part.start), phase))
        nonlinear.append(np.arange(part.start, part.stop))
    where = np.concatenate([np.zeros(0, dtype=np.int64), *nonlinear])
    deviatoric = np.einsum("as,sgk->kga", DEVIATOR[d.dim][:, :n_s], dual[:, where])
    strain, stress, deviatoric = (np.ascontiguousarray(one) for one in (maps[:n_s, where], psi[:, where], deviatoric))
    points = CertificatePoints(strain, stress, deviatoric, tuple(phases), model)
    metric = np.linalg.inv(_homogenized(elastic, basis.elastic, n_s, len(TRACE[d.dim])))
    return FullModel(model, points, Quadratics(projection, 0.5 * (gap + gap.T), elastic, 0.5 * (metric + metric.T)))


def _homogenized(elastic: Array, coefficients: Array, n_s: int, n_e: int) -> Array:
    """Return the elastic homogenized tangent."""
    lift = np.zeros((len(elastic), n_s))
    lift[:n_s], lift[n_e:] = np.eye(n_s), coefficients
    return np.asarray(lift.T @ elastic @ lift)
