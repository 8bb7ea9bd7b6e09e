"""Certificates are finite and hold where a phase hardly bears its stress, and at strains of every size."""

from dataclasses import replace

import numpy as np
import pytest
from equino_cases import PHASES, answer_of, norms

from femops import load_law
from femops.rve.sampling import sobol
from femops_equino.law import EquiNOLaw
from femops_equino.options import EquiNOParameters
from femops_equino.reduced import certificate
from femops_equino.reduced.admissible import least_gap
from femops_equino.reduced.full import full_model
from femops_equino.reduced.pod import ElasticRVE

NEARLY_PLASTIC = {"law": "saturating", "K": 4780.0, "alpha1": 5.0, "alpha2": 5e-4}
SOFT = {"law": "saturating", "K": 900.0, "alpha1": 8.0, "alpha2": 4e-3}


def error_of(law, nested, strain):
    """Return the answers of a law and their errors, by nested solves, relative and in the norm of the law."""
    ours, theirs = (answer_of(one, strain) for one in (law, nested))
    return ours, norms(ours.stress - theirs.stress, law.metric) / norms(ours.stress, law.metric)


def with_matrix(trained, dim, matrix):
    """Return law and nested law of the RVE of a trained model with another matrix, reduced to the same modes."""
    law = load_law(trained.model, dim=dim)
    rve = {**trained.rve, "phases": {**PHASES, "matrix": matrix}}
    nested = load_law({"law": "nested", "rve": rve, "solver": {"rtol": 1e-11, "max_iter": 60}}, dim=dim)
    found = full_model(nested.rve, ElasticRVE(nested.rve, nested.solver.free.of, nested.solver.free.count), law.basis)
    arrays = {name: one for name, one in law.trained.arrays.items() if name.startswith(("modes", "states"))}
    arrays |= found.model.to_arrays("model") | found.points.to_arrays() | found.quadratics.to_arrays()
    parameters = EquiNOParameters(model="here", start="zero", tolerance=1e-10)
    return EquiNOLaw(replace(law.trained, arrays=arrays, rve_or_builder=nested.rve), parameters), nested


@pytest.mark.parametrize("matrix", [NEARLY_PLASTIC, SOFT], ids=["nearly plastic", "soft"])
@pytest.mark.parametrize("dim", [2, 3])
def test_certificates_are_finite_and_hold_where_few_modes_make_more_stress_than_the_matrix_bears(
    plane, solid, dim, matrix, monkeypatch
):
    law, nested = with_matrix(plane if dim == 2 else solid, dim, matrix)
    corner = np.full(3 if dim == 2 else 6, 0.03)
    strain = np.concatenate([sobol(-scale * corner, scale * corner, 6, 3) for scale in (0.1, 1.0, 3.0)])
    ours, error = error_of(law, nested, strain)
    bound, indicator = (law.certify(strain, ours, kind) for kind in ("bound", "indicator"))
    assert np.isfinite(bound).all() and np.isfinite(indicator).all()
    assert (bound >= error - 1e-9).all()
    monkeypatch.setattr(certificate, "least_gap", lambda dual: (None, np.inf))
    assert np.isinf(law.certify(strain, ours, "bound")).any()  # what the projection alone says


@pytest.mark.parametrize("dim", [2, 3])
def test_the_stress_of_least_gap_is_found(plane, solid, dim, monkeypatch):
    law, _ = with_matrix(plane if dim == 2 else solid, dim, SOFT)
    strain = sobol(*(scale * np.full(3 if dim == 2 else 6, 0.03) for scale in (-1.0, 1.0)), 4, 5)
    seen = []
    monkeypatch.setattr(certificate, "least_gap", lambda dual: seen.append(dual) or least_gap(dual))
    law.certify(strain, answer_of(law, strain), "bound")
    dual = seen[0]
    b, gap = least_gap(dual)
    np.testing.assert_allclose(dual.value(b), gap, rtol=1e-12)
    random = np.random.default_rng(0).standard_normal((20, *b.shape))
    for size in (1e-3, 1e-2, 1e-1):
        around = np.array([dual.value(b + size * np.abs(b).max() * one) for one in random])
        assert (gap < 1.1 * around).all(), size
    slopes = dual.strains(dual.stress(0.5 * b))[0] - dual.strain  # of the gap at the points, against differences
    slope = dual.linear + 0.5 * b @ dual.quadratic
    slope += np.tensordot(slopes * dual.weight[:, None], dual.modes, axes=([0, 1], [0, 1]))
    step = 1e-6 * np.abs(b).max()
    for k in range(0, b.shape[1], 4):
        change = step * np.eye(b.shape[1])[k]
        central = (dual.value(0.5 * b + change) - dual.value(0.5 * b - change)) / (2 * step)
        np.testing.assert_allclose(slope[:, k], central, rtol=0, atol=1e-6 * np.abs(slope).max())


@pytest.mark.parametrize("dim", [2, 3])
def test_certificates_of_tiny_strains_are_those_of_elasticity(plane, solid, dim):
    """Relative errors, and what bounds them, do not depend on the size of a strain where the phases are elastic."""
    trained = plane if dim == 2 else solid
    law = load_law(trained.model, dim=dim)
    nested = load_law({"law": "nested", "rve": trained.rve, "solver": {"rtol": 1e-12}}, dim=dim)
    direction = np.random.default_rng(2).uniform(-1.0, 1.0, (3, 3 if dim == 2 else 6))
    found = []
    for size in 10.0 ** np.arange(-2, -15, -2):
        ours, error = error_of(law, nested, size * direction)
        bound, indicator = (law.certify(size * direction, ours, kind) for kind in ("bound", "indicator"))
        assert (bound >= error - 1e-9).all(), size
        found.append([bound, indicator])
    np.testing.assert_allclose(found[3:], np.broadcast_to(found[3], (4, 2, 3)), rtol=1e-3)
