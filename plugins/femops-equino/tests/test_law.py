"""The certified mode: its law keeps the contract, is close to the nested solve, and knows how close."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from equino_cases import answer_of, loaded, norms, relative, virgin

from femops import CaseError, load_law
from femops.checks import check_arrays, check_law
from femops.inputs.case import load_case
from femops.surrogate.store import checksum
from femops_equino.law import EquiNOLaw

CONVERGED = {"corrections": "auto", "tolerance": 1e-9}
PATHS = [
    {**CONVERGED, "start": "last"},
    {**CONVERGED, "start": "zero"},
    {**CONVERGED, "start": "network"},
    {"corrections": 0},
]


@pytest.mark.parametrize("parameters", PATHS, ids=str)
def test_the_law_keeps_the_contract(plane, parameters):
    check_law(loaded(plane, **parameters))


def test_the_tangent_of_the_default_is_consistent_up_to_what_its_corrections_leave(law):
    check_law(law, rtol_tangent=1e-3)


def test_stress_and_tangent_are_those_of_the_nested_solve(law, reference):
    inside = reference.inside
    ours, theirs = answer_of(law, reference.strain[inside]), reference.answer
    error = relative(ours.stress, theirs.stress[inside])
    assert np.median(error) < 1e-4 and error.max() < 2e-3
    assert relative(ours.tangent, theirs.tangent[inside]).max() < 1e-3
    assert relative(ours.tangent_33, theirs.tangent_33[inside]).max() < 1e-3
    normal = theirs.stress_33[inside]
    assert np.abs(ours.stress_33 - normal).max() < 1e-4 * np.abs(normal).max()
    np.testing.assert_allclose(ours.tangent, ours.tangent.transpose(0, 2, 1), rtol=0, atol=1e-10 * 43452.0)
    assert ours.valid.all() and not answer_of(law, reference.strain[100:]).valid.all()


def test_networks_without_corrections_come_close_and_are_symmetric(plane, reference):
    ours, theirs = answer_of(loaded(plane, corrections=0), reference.strain[reference.inside]), reference.answer
    assert np.median(relative(ours.stress, theirs.stress[reference.inside])) < 0.02
    assert np.median(np.abs(ours.stress_33 / theirs.stress_33[reference.inside] - 1.0)) < 0.02
    np.testing.assert_array_equal(ours.tangent, ours.tangent.transpose(0, 2, 1))


def test_the_elastic_limit_is_that_of_the_nested_solve(law, reference):
    tiny = 1e-10 * np.eye(3)
    exact = reference.nested.evaluate(tiny, np.zeros((3, reference.nested.n_state)), 1.0)
    full = law.microscale.full.model
    start = full.extended(tiny, tiny @ law.basis.elastic.T)[:, full.n_e :]
    assert relative(full.solve(tiny, start, 3, 1e-14).tangent, exact.tangent).max() < 1e-8
    assert relative(answer_of(law, tiny).tangent, exact.tangent).max() < 2e-4  # what the cubature leaves


@pytest.mark.parametrize("corrections", ["auto", 1, "adjoint", 0])
def test_no_error_is_stated_unasked(plane, reference, corrections):
    """The decrement of the reduced problem knows nothing of modes and cubature, and can be far below the error."""
    law, strain = loaded(plane, corrections=corrections), reference.strain[reference.inside]
    ours = answer_of(law, strain)
    assert ours.error is None
    assert (ours.solver_residual is None) == (corrections == 0)
    if corrections == "auto":
        error = relative(ours.stress, reference.answer.stress[reference.inside])
        assert (ours.solver_residual <= law.parameters.tolerance).all()
        assert (ours.solver_residual / error).min() < 1e-3


@pytest.mark.parametrize("corrections", ["auto", 1, "adjoint", 0])
def test_the_bound_is_never_below_the_error(plane, reference, corrections):
    law = loaded(plane, corrections=corrections)
    ours = answer_of(law, reference.strain)
    error = norms(ours.stress - reference.answer.stress, law.metric) / norms(ours.stress, law.metric)
    bound = law.certify(reference.strain, ours, "bound")
    assert np.isfinite(bound).all()
    assert (bound >= error - 1e-9).all()
    assert np.median(bound[reference.inside]) < 0.1


def test_the_indicator_is_of_the_size_of_the_error(plane, reference):
    law = loaded(plane, corrections="auto")
    strain = reference.strain[reference.inside]
    ours = answer_of(law, strain)
    error = norms(ours.stress - reference.answer.stress[reference.inside], law.metric) / norms(ours.stress, law.metric)
    ratio = law.certify(strain, ours, "indicator") / error
    assert 0.2 < np.median(ratio) < 5.0
    assert ratio.min() > 0.1


def test_the_energy_lies_between_its_bounds(law, reference):
    strain = reference.strain[95:105]
    t, weight = np.polynomial.legendre.leggauss(14)
    along = (0.5 * (t + 1.0))[:, None, None] * strain
    stress = reference.nested.evaluate(along.reshape(-1, 3), np.zeros((140, reference.nested.n_state)), 1.0).stress
    energy = np.einsum("t,tns,ns->n", 0.5 * weight, stress.reshape(14, 10, 3), strain)
    lower, upper = law.energy_bounds(strain, answer_of(law, strain))
    slack = 1e-9 * energy
    assert (lower - slack <= energy).all() and (energy <= upper + slack).all()
    assert ((upper - lower) < 0.02 * energy)[:5].all()


def test_the_exact_solve_is_the_nested_one(law, reference):
    strain = reference.strain[90:110]
    ours = law.solve_exactly(strain, virgin(law, 20), 1.0)
    for name in ("stress", "tangent", "stress_33", "tangent_33"):
        theirs = getattr(reference.answer, name)[90:110]
        assert np.abs(getattr(ours, name) - theirs).max() < 1e-7 * np.abs(theirs).max(), name
    assert ours.state.shape == (20, law.n_state) and (ours.error == 0.0).all()


def test_a_law_learns_from_exact_solutions_and_its_old_states_stay_good(plane, reference):
    law = loaded(plane, **CONVERGED)
    known, new = (
        reference.strain[reference.inside][:20],
        np.array([[0.01, -0.01, 0.1], [0.02, 0.03, 0.06], [0.06, -0.06, 0.01]]),
    )
    exact = reference.nested.evaluate(new, virgin(reference.nested, 3), 1.0).stress
    before = answer_of(law, known)
    learned = law.enriched(new)
    assert learned.n_state > law.n_state
    padded = np.zeros((20, learned.n_state))
    padded[:, : law.n_state] = before.state
    after = learned.evaluate(known, padded, 1.0)
    change = relative(after.stress, before.stress)
    assert np.median(change) < 2e-4 and change.max() < 4e-3
    errors = [relative(answer_of(one, new).stress, exact) for one in (law, learned)]
    assert errors[1].max() < 0.3 * errors[0].max()
    errors = [
        relative(one.microscale.full.model.solve(new, new @ one.basis.elastic.T, 12, 1e-14).stress, exact)
        for one in (law, learned)
    ]
    assert (errors[1] < 0.5 * errors[0]).all()  # without the cubature, of every strain
    assert answer_of(learned, new).valid.all()
    check_law(learned)


def test_networks_alone_cannot_learn(plane, reference):
    with pytest.raises(CaseError, match=r"corrections: 0 given, but networks cannot learn .* expected auto or"):
        loaded(plane, corrections=0).enriched(reference.strain[:1])


def test_fields_inside_the_rve_are_those_of_the_nested_solve(law, reference):
    strain = reference.strain[3]
    ours = law.micro_fields(strain, virgin(law, 1)[0])
    theirs = reference.nested.micro_fields(strain, np.zeros(reference.nested.n_state))
    for name, allowed in (("displacement", 5e-3), ("fluctuation", 3e-2), ("strain", 2e-2), ("stress", 2e-2)):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert np.linalg.norm(one - other) < allowed * np.linalg.norm(other), name
    mean = np.abs(theirs.stress_33).max()
    assert np.abs(ours.stress_33 - theirs.stress_33).max() < 0.02 * mean


def test_modes_are_orthonormal_in_energy_and_hold_elasticity_first(law):
    basis, operators = law.basis, law.microscale.operators
    np.testing.assert_allclose(
        operators.displacement_gram(basis.displacement, basis.displacement), np.eye(12), rtol=0, atol=1e-10
    )
    np.testing.assert_allclose(operators.stress_gram(basis.stress, basis.stress), np.eye(18), rtol=0, atol=1e-10)
    elastic = law.microscale.exact.solver.elastic_sensitivity
    size = np.abs(basis.elastic).max()
    assert np.abs(basis.elastic[3:]).max() < 1e-9 * size and np.linalg.matrix_rank(basis.elastic[:3]) == 3
    np.testing.assert_allclose(basis.displacement @ basis.elastic, elastic, rtol=0, atol=1e-9 * np.abs(elastic).max())


@pytest.mark.parametrize("model", ["model", "indicator"])
def test_weights_of_the_cubature_are_positive_and_fill_the_matrix(law, model):
    found = law.model if model == "model" else law.microscale.indicator_points.model
    weight = found.parameters[:, 0]
    assert (weight > 0.0).all()
    assert weight.sum() == pytest.approx(law.microscale.full.model.parameters[:, 0].sum(), rel=0.05)
    assert len(weight) < len(law.microscale.full.model.parameters) / 10


def test_a_law_in_3d_keeps_contract_and_bound(solid, solid_reference):
    law = load_law(solid.model)
    assert law.dim == 3
    check_law(law, rtol_tangent=1e-3)  # what its corrections leave
    check_law(load_law({"law": "equino", "model": str(solid.model), "tolerance": 1e-10}, dim=3))
    ours, theirs, inside = answer_of(law, solid_reference.strain), solid_reference.answer, solid_reference.inside
    of_stress = relative(ours.stress, theirs.stress)[inside]
    assert of_stress.max() < 3e-3 and np.median(of_stress) < 2.5e-4  # one strain is far from the others
    assert relative(ours.tangent, theirs.tangent)[inside].max() < 2e-2
    error = norms(ours.stress - theirs.stress, law.metric) / norms(ours.stress, law.metric)
    assert (law.certify(solid_reference.strain, ours, "bound") >= error - 1e-9).all()


def test_a_model_without_networks_says_what_it_can_do(solid):
    for parameters in ({"corrections": 0}, {"start": "network"}):
        with pytest.raises(CaseError, match="start: the model has no networks; expected corrections: auto, 1, 2, "):
            load_law({"law": "equino", "model": str(solid.model), **parameters}, dim=3)


def test_a_trained_law_runs_without_torch(plane):
    code = (
        "import sys, numpy, femops, femops_equino\n"
        "assert 'torch' not in sys.modules\n"
        "for more in ({}, {'start': 'network'}, {'corrections': 'adjoint'}, {'corrections': 0}):\n"
        f"    law = femops.load_law({{'law': 'equino', 'model': {str(plane.model)!r}, 'device': 'cpu', **more}})\n"
        "    answer = law.evaluate(numpy.full((2, 3), 0.01), numpy.zeros((2, law.n_state)), 1.0)\n"
        "    law.certify(numpy.full((2, 3), 0.01), answer, 'indicator')\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("more", [{}, {"corrections": 1}, {"corrections": "adjoint"}, {"corrections": 0}], ids=str)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_a_point_has_the_same_response_in_a_batch_of_any_size(plane, reference, more, precision):
    """To the bit in the kernels; corrections start from a product by BLAS, whose round-off depends on the batch."""
    law = loaded(plane, precision=precision, **more)
    whole = answer_of(law, reference.strain)
    rounded = 0.0 if more.get("corrections") in (0, "adjoint") else 1e-12 if precision == "float64" else 1e-5
    for n in (1, 7, 8, 9, 130):
        part = answer_of(law, reference.strain[5 : 5 + n])
        for name in ("stress", "tangent", "stress_33", "state"):
            expected = getattr(whole, name)[5 : 5 + n]
            size = np.abs(expected).max(initial=0.0)
            np.testing.assert_allclose(getattr(part, name), expected, rtol=0, atol=rounded * size, err_msg=name)


HEAVY = {
    *("mpi4py", "petsc4py", "dolfinx", "ufl", "basix", "gmsh", "h5py", "meshio", "torch", "matplotlib", "pyvista"),
    *("scipy.stats", "scipy.sparse", "scipy.spatial", "femops_spon", "femops.rve.spec", "femops.builtin"),
}


@pytest.mark.parametrize("more", [{}, {"corrections": 1}, {"corrections": "adjoint"}, {"corrections": 0}], ids=str)
def test_a_trained_law_is_evaluated_without_the_libraries_of_the_host(plane, more):
    """Neither MPI nor meshes are loaded until they are needed, and of the plugins only the one that is named."""
    given = {"law": "equino", "model": str(plane.model), "device": "cpu", **more} if more else str(plane.model)
    code = (
        "import sys, numpy, femops\n"
        f"law = femops.load_law({given!r})\n"
        "answer = law.evaluate(numpy.full((2, 3), 0.01), numpy.zeros((2, law.n_state)), 1.0)\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), len(sys.modules))\n"
        "assert law.certify(numpy.full((2, 3), 0.01), answer, 'bound').max() < 1.0 and 'dolfinx' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    loaded, _, count = done.stdout.strip().rpartition(" ")
    assert loaded == "[]" and int(count) < 1000


def test_single_precision_is_close_to_double(plane, law, reference):
    strain = reference.strain[reference.inside]
    ours = answer_of(loaded(plane, precision="float32", tolerance=1e-6), strain)
    assert relative(ours.stress, answer_of(law, strain).stress).max() < 1e-4
    assert ours.stress.dtype == np.float64


def test_a_tolerance_below_the_round_off_of_single_precision_is_refused():
    case, single = Path(__file__).parents[3] / "cases" / "cook_equino.yaml", "material.precision=float32"
    with pytest.raises(CaseError, match=r"solver\.rtol: 1e-08 given, but precision: float32 .* expected at least 1e-6"):
        load_case(case, (single,))
    assert load_case(case, (single, "solver.rtol=1e-6")).solver.rtol == 1e-6


@pytest.mark.parametrize("kind", ["plane", "solid"])
def test_a_model_with_a_wrong_array_is_refused_before_a_kernel_sees_it(kind, request, monkeypatch):
    law = load_law(request.getfixturevalue(kind).model)
    exact = law.microscale.exact
    monkeypatch.setattr("femops_equino.microscale.ExactRVE", lambda rve: exact)  # the same for all, and slow to make
    stored = replace(law.trained, rve_or_builder=law.rve)
    load = lambda arrays: EquiNOLaw(replace(stored, arrays=arrays), law.parameters).microscale  # noqa: E731
    check_arrays(stored.arrays, load, any_length=["states"])


@pytest.mark.parametrize(
    ("name", "index", "value", "words"),
    [
        ("points.stops", 0, 10**9, "'points.stops': holds 1000000000 to 1000000000, expected 0 to"),
        ("points.stops", 0, 3, r"'points.stops': holds \[3\], expected ends of ranges up to"),
        ("model.parameters", (0, 2), 0.0, "'model.parameters': expected positive α₁ and α₂"),
        ("potential.scale", 1, 0.0, "'potential.scale': holds values that are not positive"),
    ],
)
def test_numbers_that_no_model_has_are_refused(plane, law, name, index, value, words):
    changed = np.array(law.trained.arrays[name])
    changed[index] = value
    with pytest.raises(CaseError, match=words):
        assert EquiNOLaw(replace(law.trained, arrays={**law.trained.arrays, name: changed}), law.parameters).microscale


def test_a_wrong_array_is_told_with_its_file(plane, tmp_path):
    """Two arrays are exchanged, and both checksums are right again: what the checksum cannot see."""
    folder = tmp_path / "model"
    shutil.copytree(plane.model, folder)
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    one, other = "model/points.strain", "model/points.stress"
    arrays[one], arrays[other] = arrays[other], arrays[one]
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["arrays_sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    manifest["sha256"] = checksum(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        CaseError,
        match=r"model\.safetensors: array 'points\.strain': \(3, 120, 18\) float64 found, "
        r"expected \(n_s = 3, P, m = 16\) float64; train the model again",
    ):
        load_law(folder)
