"""The arrays of a trained EquiNO as static C data, in the layouts that the C files read.

Weights of `add_product` have the columns first; rows are padded with zeros to a multiple of four.
"""

from typing import Any

import numpy as np

from femops.errors import CaseError
from femops.export.tables import Tables
from femops.notation import Array
from femops_equino.law import MOST_CORRECTIONS, EquiNOLaw
from femops_equino.networks.evaluation import FLOOR, Weights, expansion
from femops_equino.networks.stored import stored_weights
from femops_equino.reduced.adjoint import elasticity
from femops_equino.reduced.certificate import NO_STRAIN, ROUND_OFF
from femops_equino.reduced.model import ReducedModel

_TILE = 4
_GROUP = 4


_NETWORK = """
struct network {
  int width, n_norms, n_out;       /* width and n_out are multiples of 4 */
  const double *inverse_scale;     /* 1/scale (N_S) */
  const double *gram;              /* G (n_norms, N_S, N_S) */
  const double *weight_1, *bias_1; /* (n_in, width), (width) */
  const double *weight_2, *bias_2; /* (width, width), (width) */
  const double *back_2;            /* weight_2 transposed */
  const double *weight_3, *back_3; /* (width, n_out) and transposed */
  const double *value, *slope;     /* at z = 0, to subtract: with negative sign, (n_out), (n_in, n_out) */
  const double *curvature;         /* likewise (n_in, n_in), of a potential */
  const double *linear, *unit;     /* (n_linear, N_S), (n_out) */
};
"""

_ENERGY = """
struct energy {
  int n_groups;
  const double *quadratic; /* Q [stress] (M, PADDED_M) */
  const double *sample;    /* z to deviatoric strains (n_groups, M, GROUP * N_D) */
  const double *spread;    /* the transposed map (n_groups * GROUP, N_D, PADDED_M) */
  const double *points;    /* weight [-], alpha1 [stress], alpha2 [-] (n_groups * GROUP, 3) */
};
"""


def starts_from_network(law: EquiNOLaw) -> bool:
    """Return whether the first guess of the corrections is that of a network; if not, it is linear elasticity."""
    trained = bool(stored_weights(law.trained.arrays, "coefficients"))
    return trained and law.parameters.start in ("auto", "network")


def corrected_tables(law: EquiNOLaw) -> str:
    """Return the tables of the path with Newton corrections."""
    tables = _begun(law)
    corrections = law.parameters.corrections
    counted = corrections != "auto"
    tables.sizes(most_corrections=int(corrections) if counted else MOST_CORRECTIONS)
    tables.number("tolerance", 0.0 if counted else law.parameters.tolerance)
    tables.number("largest_decrement", np.finfo(np.float64).max if counted else law.parameters.tolerance)
    if starts_from_network(law):
        _networks(tables, law, "coefficients")
    _fields(tables, law)
    return str(tables)


def potential_tables(law: EquiNOLaw) -> str:
    """Return the tables of the path without corrections.

    Raises:
        CaseError: The law takes a spline.
    """
    if law.parameters.potential == "spline":
        raise CaseError("spline given, expected network for C", key="potential")
    tables = _begun(law)
    _networks(tables, law, "potential", *(["normal"] if law.dim == 2 else []))
    return str(tables)


def adjoint_tables(law: EquiNOLaw) -> str:
    """Return the tables of the path with an adjoint correction."""
    tables = _begun(law)
    _networks(tables, law, "potential", "coefficients", *(["normal"] if law.dim == 2 else []))
    _fields(tables, law)
    weights = stored_weights(law.trained.arrays, "coefficients")
    elastic = elasticity(law.model, weights)
    tables.array("sensitivity", elastic.sensitivity.T)
    tables.array("inverse_factor", _padded(elastic.factor.T))
    tables.number("smallest_work", elastic.smallest)
    tables.number("largest_decrement", np.finfo(np.float64).max)
    return str(tables)


def _begun(law: EquiNOLaw) -> Tables:
    tables, model = Tables(), law.model
    m, r = len(model.quadratic), model.n_modes
    tables.sizes(dim=law.dim, n_s=len(law.low), n_e=model.n_e, n_d=model.projection.shape[1], m=m, r=r)
    tables.sizes(padded_m=_up(m), padded_r=_up(r), pairs=m * (m + 1) // 2, group=_GROUP)
    tables.number("delta", FLOOR)
    return tables


def _networks(tables: Tables, law: EquiNOLaw, *names: str) -> None:
    """Add networks, and the elastic coefficients where there are coefficients.

    Raises:
        CaseError: The coefficients are not those of the modes.
    """
    stored = {name: stored_weights(law.trained.arrays, name) for name in names}
    members = {name: (_potential if name == "potential" else _network)(one) for name, one in stored.items()}
    tables.sizes(
        width=max(one["width"] for one in members.values()),
        n_norms=max(one["n_norms"] for one in members.values()),
        n_in=len(law.low) + max(one["n_norms"] for one in members.values()),
        n_out=max(one["n_out"] for one in members.values()),
    )
    tables.text(_NETWORK)
    for name, one in members.items():
        tables.struct("network", name, one)
    if "coefficients" in stored and not np.array_equal(stored["coefficients"]["linear"], law.basis.elastic):
        raise CaseError("networks of other modes found, expected those of the model; train it again")


def _network(weights: Weights) -> dict[str, Any]:
    at_zero = expansion(weights)
    n_out, wide = len(weights["weight_3"]), _up(len(weights["bias_1"]))
    second, third = np.zeros((wide, wide)), _padded(weights["weight_3"].T)
    second[: len(weights["weight_2"]), : len(weights["weight_2"])] = weights["weight_2"]
    third = np.concatenate([third, np.zeros((wide - len(third), third.shape[1]))])
    return {
        "width": wide,
        "n_norms": len(weights["metric"]),
        "n_out": _up(n_out),
        "inverse_scale": 1.0 / weights["scale"],
        "gram": np.einsum("kij,kil->kjl", weights["metric"], weights["metric"]),
        "weight_1": _padded(weights["weight_1"].T),
        "bias_1": _padded(weights["bias_1"]),
        "weight_2": second.T,
        "bias_2": _padded(weights["bias_2"]),
        "back_2": second,
        "weight_3": third,
        "back_3": third.T,
        "value": _padded(-at_zero.value),
        "slope": _padded(-at_zero.slope.T),
        "curvature": -at_zero.curvature,
        "linear": np.atleast_2d(weights["linear"]),
        "unit": _padded(np.broadcast_to(weights["unit"], (n_out,))),
    }


def _potential(weights: Weights) -> dict[str, Any]:
    """Return the members of a network of one output that is not padded."""
    at_zero = expansion(weights)
    own = {"n_out": 1, "weight_3": _padded(weights["weight_3"][0]), "slope": -at_zero.slope[0]}
    return {**_network(weights), **own}


def _fields(tables: Tables, law: EquiNOLaw) -> None:
    """Add the reduced energy and the indicator."""
    m, points, exact = len(law.model.quadratic), law.microscale.indicator_points, law.quadratics
    n_b, n_points, n_d = points.projection.shape
    groups = max(-(-n_points // _GROUP), 1)
    both = np.zeros((m + n_b, m + n_b))
    both[:m, :m], both[m:, m:] = exact.gap[:m, :m], exact.gap[m:, m:]
    both[:m, m:], both[m:, :m] = exact.gap[:m, m:], exact.gap[:m, m:].T
    tables.sizes(n_b=n_b, padded_b=_up(n_b), padded_y=_up(m + n_b), indicator_groups=groups)
    tables.text(_ENERGY)
    tables.struct("energy", "cubature", _energy(law.model))
    row, column = np.tril_indices(m)
    projection = _grouped(law.model.projection.transpose(1, 0, 2))  # (n_d, groups · GROUP, m)
    tables.array("squares", (projection[:, :, row] * projection[:, :, column]).sum(axis=0))
    tables.array("elastic", _padded(law.basis.elastic.T))
    tables.struct("energy", "indicator", _energy(points.model))
    tables.array("strain_at_points", _by_group(points.strain))
    tables.array("stress_at_points", _by_group(points.stress))
    forces = _grouped(points.projection).transpose(1, 2, 0).reshape(groups * _GROUP * n_d, n_b)
    tables.array("stress_of_points", _padded(forces))
    phases = np.zeros((groups * _GROUP, 4))
    phases[:, 1:] = 1.0
    phases[:n_points, 0] = points.model.parameters[:, 0]
    for part, phase in points.phases:
        phases[part, 1:] = phase.K, phase.alpha1, phase.alpha2
    tables.array("phase_of_points", phases)
    tables.array("stress_of_linear_phases", _padded(exact.projection.T))
    tables.array("gap_of_linear_phases", _padded(both))
    tables.array("metric", exact.metric)
    tables.number("round_off", ROUND_OFF)
    tables.number("no_stress", NO_STRAIN / np.sqrt(np.linalg.norm(exact.metric, 2)))


def _energy(model: ReducedModel) -> dict[str, Any]:
    n_points, n_d, m = model.projection.shape
    projection = _grouped(model.projection.transpose(1, 0, 2)).transpose(1, 0, 2)
    parameters = np.tile([0.0, 1.0, 1.0], (len(projection), 1))
    parameters[:n_points] = model.parameters
    return {
        "n_groups": len(projection) // _GROUP,
        "quadratic": _padded(model.quadratic),
        "sample": projection.reshape(-1, _GROUP * n_d, m).transpose(0, 2, 1),
        "spread": _padded(projection),
        "points": parameters,
    }


def _by_group(maps: Array) -> Array:
    """Return maps (n_s, points, columns) as one weight of `add_product` per group: (groups, columns, GROUP · n_s)."""
    grouped = _grouped(maps).transpose(1, 0, 2)
    return grouped.reshape(-1, _GROUP * maps.shape[0], maps.shape[2]).transpose(0, 2, 1)


def _grouped(values: Array) -> Array:
    """Return values (..., points, columns) with zero points appended: whole groups, at least one."""
    n = values.shape[-2]
    missing = max(-(-n // _GROUP), 1) * _GROUP - n
    return np.concatenate([values, np.zeros((*values.shape[:-2], missing, values.shape[-1]))], axis=-2)


def _padded(values: Array) -> Array:
    """Return values with zeros appended along the last axis, to a multiple of the tile."""
    missing = _up(values.shape[-1]) - values.shape[-1]
    return np.concatenate([values, np.zeros((*values.shape[:-1], missing))], axis=-1)


def _up(n: int) -> int:
    return -(-n // _TILE) * _TILE
