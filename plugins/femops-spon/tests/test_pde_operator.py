"""A stored operator is data, takes what it was trained for, and says how good its answers are."""

import json
import sys

import numpy as np
import pytest
import ufl
import yaml
from dolfinx import fem, mesh
from test_pde import BEAM, NETWORK, POISSON, wild

from femops.checks import check_arrays
from femops.commands import cli
from femops.errors import CaseError
from femops.pde.distribution import Distribution
from femops.pde.find import make_problem
from femops.pde.options import problem_block
from femops.pde.solver import draw_inputs
from femops.surrogate.store import checksum
from femops_spon.pde.operator import Operator, load_operator

OWN = """
import sys
import numpy as np
import ufl
from dolfinx import fem
from femops.pde.meshes import Box, boundary
from femops.pde.problem import PDEProblem

sys.stderr.write("imported\\n")

def build(options):
    box = Box((1.0, 1.0, 1.0), (4, 4, 4), "tetrahedron")
    space, *coarse = box.spaces(1)
    u, v, f = fem.Function(space), ufl.TestFunction(space), fem.Constant(space.mesh, 0.0)
    residual = (ufl.inner(ufl.grad(u), ufl.grad(v)) + options["k"] * u**3 * v - f * v) * ufl.dx
    fixed = boundary(box, space.tabulate_dof_coordinates())
    draw = lambda draws: {"source": np.array(draws.uniform(5.0, 9.0))}
    return PDEProblem(residual, u, {"source": f}, draw, fixed, coarse=coarse)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A trained operator of a problem in 3D whose code is in a file of the user's, and what its training said."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "cubic_own.py").write_text(OWN)
    problem = {"pde": "cubic_own:build", "options": {"k": 3.0}, "samples": {"train": 4, "test": 2}}
    study = {"problem": problem, "surrogate": {"law": "spon", **NETWORK, "steps": 3}}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(sys.stderr, "write", said.append)
        with pytest.raises(SystemExit) as ended:
            cli.main(["train", str(folder / "study.yaml"), "--output", str(folder / "out")])
    assert ended.value.code == 0
    return folder, "".join(said)


def forgotten(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "cubic_own", raising=False)


def test_a_study_that_runs_code_says_so_before_it_is_imported(own):
    folder, said = own
    first = f"{folder}/study.yaml: problem: this study runs code: cubic_own:build from {folder}/cubic_own.py"
    assert first in said.replace("\n", "") and said.index("runs code") < said.index("imported")


def test_code_of_a_stored_operator_is_given_or_allowed_and_never_imported_unasked(own, monkeypatch):
    folder, _ = own
    forgotten(folder, monkeypatch)
    model = folder / "out" / "model"
    with pytest.raises(
        CaseError, match=r"model: problem\.pde: 'cubic_own:build' is code that the model does not hold;"
    ):
        load_operator(model)
    assert "cubic_own" not in sys.modules
    allowed = load_operator(model, allow_code=True)
    build = sys.modules["cubic_own"].build
    inputs = {"source": np.array([6.0, 8.0])}
    for given in (build, build({"k": 3.0})):
        assert np.array_equal(load_operator(model, problem=given).evaluate(inputs), allowed.evaluate(inputs))
    with pytest.raises(CaseError, match="the function given returns int, expected a PDEProblem"):
        load_operator(model, problem=lambda options: 3)
    with pytest.raises(CaseError, match="the function given is str, expected a function"):
        load_operator(model, problem="cubic_own:build")


def test_another_problem_than_the_one_trained_for_is_refused(own, monkeypatch):
    """Same mesh, same inputs; the coefficient differs, so that the stored solution leaves a load."""
    folder, _ = own
    forgotten(folder, monkeypatch)
    model = folder / "out" / "model"
    build = load_operator(model, allow_code=True) and sys.modules["cubic_own"].build
    with pytest.raises(CaseError, match=r"model: problem: is not the one .* relative residual [1-9]\.\de-0[1-4],"):
        load_operator(model, problem=build({"k": 3.3}))


def test_a_manifest_that_names_other_code_is_refused(own, tmp_path, monkeypatch):
    folder, _ = own
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    manifest = json.loads((folder / "out" / "model" / "manifest.json").read_text())
    manifest["problem"]["pde"] = manifest["settings"]["problem"]["pde"] = "evil:run"
    for name in ("edited", "sealed"):
        (tmp_path / name).mkdir()
        for file in (folder / "out" / "model").iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "edited" / "manifest.json").write_text(json.dumps(manifest))
    manifest["sha256"] = checksum(manifest)
    (tmp_path / "sealed" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CaseError, match="is damaged or was edited"):
        load_operator(tmp_path / "edited", allow_code=True)
    with pytest.raises(CaseError, match="'evil:run' is code that the model does not hold"):
        load_operator(tmp_path / "sealed")


@pytest.fixture(scope="module")
def poisson():
    return wild(make_problem(problem_block(POISSON)))[0]


@pytest.fixture(scope="module")
def beam():
    return wild(make_problem(problem_block(BEAM)))[0]


GOOD = np.ones((2, 81))
BAD_INPUTS = {
    "single": (GOOD[0], r"source: shape \(81,\) given, expected \(n, 81\)"),
    "too short": (GOOD[:, 1:], r"source: shape \(2, 80\) given, expected \(2, 81\)"),
    "scalar": (np.array(1.0), r"source: shape \(\) given, expected \(n, 81\)"),
    "complex": (GOOD + 0j, "source: complex128 given, expected an array of real numbers"),
    "text": (GOOD.astype(str), "source: <U32 given, expected an array of real numbers"),
    "objects": (GOOD.astype(object), "source: object given, expected an array of real numbers"),
    "truth": (GOOD > 0, "source: bool given, expected an array of real numbers"),
    "ragged": ([[1.0], [1.0, 2.0]], "source: list given, expected an array of real numbers"),
    "nothing": (None, "source: object given, expected an array of real numbers"),
    "nan": (np.where(np.arange(162).reshape(2, 81) == 100, np.nan, GOOD), "source: sample 1 holds values that are no"),
    "infinite": (np.where(np.arange(162).reshape(2, 81) == 3, -np.inf, GOOD), "source: sample 0 holds values that are"),
}


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_inputs_that_no_operator_takes_are_told_by_name(kind, poisson):
    given, message = BAD_INPUTS[kind]
    with pytest.raises(CaseError, match=message) as caught:
        poisson.evaluate({"source": given, "boundary": GOOD})
    assert "\n" not in str(caught.value)


def test_inputs_that_are_no_mapping_or_beyond_all_measure_are_told(poisson, beam):
    with pytest.raises(CaseError, match="ndarray given, expected inputs by name: source, boundary"):
        poisson.evaluate(GOOD)
    with pytest.raises(CaseError, match=r"shortening: shape \(2, 1\) given, expected \(2,\)"):
        beam.evaluate({"modulus": np.ones((2, 32)), "shortening": np.ones((2, 1))})
    with pytest.raises(CaseError, match="the prediction for sample 1 is not finite"):
        poisson.evaluate({"source": np.array([1.0, 1e300])[:, None] * GOOD, "boundary": GOOD})
    answer = poisson.evaluate({"source": np.array([1.0, 1e300])[:, None] * GOOD, "boundary": GOOD}, details=True)
    assert np.isinf(answer.residual).tolist() == [False, True]


def test_an_empty_batch_is_answered_and_other_real_types_are_taken(poisson):
    nothing = {"source": np.zeros((0, 81)), "boundary": np.zeros((0, 81))}
    assert poisson.evaluate(nothing).shape == (0, 81)
    answer = poisson.evaluate(nothing, details=True)
    assert (answer.solution.shape, answer.in_distribution.shape, answer.residual.shape) == ((0, 81), (0,), (0,))
    whole = {"source": GOOD.astype(int), "boundary": GOOD.astype(np.float32)}
    assert np.array_equal(poisson.evaluate(whole), poisson.evaluate({"source": GOOD, "boundary": GOOD}))


def test_the_residual_is_that_of_an_assembly_of_its_own(poisson):
    """−Δu = f with its forms written anew, and dofs on the boundary found by topology."""
    inputs = draw_inputs(poisson.problem, 3, 21)
    answer = poisson.evaluate(inputs, details=True)
    space = poisson.problem.space
    u, v, f = fem.Function(space), ufl.TestFunction(space), fem.Function(space)
    form = fem.form(ufl.dot(ufl.grad(u), ufl.grad(v)) * ufl.dx - f * v * ufl.dx)
    space.mesh.topology.create_connectivity(1, 2)
    facets = mesh.exterior_facet_indices(space.mesh.topology)
    inner = np.setdiff1d(np.arange(81), fem.locate_dofs_topological(space, 1, facets))
    for row in range(3):
        f.x.array[:] = inputs["source"][row]
        norms = []
        for values in (answer.solution[row], inputs["boundary"][row]):
            u.x.array[:] = values
            norms.append(np.linalg.norm(fem.assemble_vector(form).array[inner]))
        assert answer.residual[row] == pytest.approx(norms[0] / norms[1], rel=1e-10)
    exact = poisson.solver.solve(inputs)
    assert poisson.residuals(exact, exact.solution).max() < 1e-12


def test_the_residual_in_space_is_that_of_an_assembly_of_its_own(own, monkeypatch):
    folder, _ = own
    forgotten(folder, monkeypatch)
    operator = load_operator(folder / "out" / "model", allow_code=True)
    answer = operator.evaluate({"source": np.array([6.0])}, details=True)
    space = operator.problem.space
    u, v = fem.Function(space), ufl.TestFunction(space)
    x = space.tabulate_dof_coordinates()
    inner = np.flatnonzero((np.abs(x - 0.5) < 0.49).all(axis=1))
    source = fem.assemble_vector(fem.form(6.0 * v * ufl.dx)).array[inner]
    u.x.array[:] = answer.solution[0]
    left = fem.assemble_vector(fem.form((ufl.dot(ufl.grad(u), ufl.grad(v)) + 3.0 * u * u * u * v) * ufl.dx)).array[
        inner
    ]
    assert answer.residual[0] == pytest.approx(np.linalg.norm(left - source) / np.linalg.norm(source), rel=1e-10)


def noise(samples, seed=3):
    """White noise with mean and variance of samples at every dof."""
    draws = np.random.default_rng(seed).standard_normal(samples.shape)
    return samples.mean(axis=0) + samples.std(axis=0) * draws


@pytest.mark.parametrize("name", ["source", "boundary"])
def test_inputs_of_another_size_or_correlation_are_flagged(name, poisson):
    usual = draw_inputs(poisson.problem, 100, 77)
    assert poisson.evaluate(usual, details=True).in_distribution.mean() >= 0.97
    for other in (10.0 * usual[name], noise(usual[name])):
        assert not poisson.evaluate({**usual, name: other}, details=True).in_distribution.any()


def test_numbers_and_positive_fields_beyond_those_trained_for_are_flagged(beam):
    usual = draw_inputs(beam.problem, 60, 77)
    assert beam.evaluate(usual, details=True).in_distribution.mean() >= 0.97
    far = {**usual, "shortening": np.full(60, 0.1)}
    stiff = {**usual, "modulus": 10.0 * usual["modulus"]}
    rough = {**usual, "modulus": np.exp(noise(np.log(usual["modulus"])))}
    for other in (far, stiff, rough):
        assert not beam.evaluate(other, details=True).in_distribution.any()


def test_the_numbers_of_a_distribution_are_those_of_its_definition():
    """Samples in a plane of R⁵ with known directions: T² by hand, and all that leaves the plane is in Q."""
    draws = np.random.default_rng(0)
    plane = np.linalg.qr(draws.standard_normal((5, 2)))[0]
    found = Distribution.of(draws.standard_normal((4000, 2)) * [3.0, 0.5] @ plane.T + 1.0)
    assert found.components.shape == (2, 5)
    off = np.linalg.svd(plane)[0][:, 3]
    t_squared, q = found.statistics((1.0 + 6.0 * plane[:, 0] + 0.25 * off)[None])
    assert t_squared[0] == pytest.approx(0.5 * (6.0 / 3.0) ** 2, rel=0.1)
    assert q[0] == pytest.approx(0.25**2, rel=1e-6)
    assert found.contains(np.ones((1, 5))).all() and not found.contains((1.0 + 0.01 * off)[None]).any()


def test_few_samples_in_many_dimensions_do_not_make_the_others_unusual():
    draws = np.random.default_rng(0)
    found = Distribution.of(draws.standard_normal((40, 200)))
    assert found.contains(draws.standard_normal((200, 200))).mean() > 0.95


def test_an_operator_with_a_wrong_array_is_refused(poisson):
    problem = poisson.problem
    settings = {"surrogate": {**NETWORK, "passes": 2}}
    arrays = stored_arrays(problem)
    check_arrays(arrays, lambda given: Operator(given, settings, problem))


def stored_arrays(problem):
    kept = {}

    class Recording(Operator):
        def __init__(self, arrays, *more):
            kept.update(arrays)
            super().__init__(arrays, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("test_pde.Operator", Recording)
        wild(problem)
    return kept
