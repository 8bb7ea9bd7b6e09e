"""Laws in other codes: the same patch as in femops, quadratic convergence, history, and what is refused."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import meshio
import numpy as np
import pytest
from helpers import SATURATING
from host_structures import J2, LAWS, Structure, assert_quadratic, material, solved_patch
from scipy.sparse.linalg import MatrixRankWarning

from femops import CaseError, LawResponse, NotConverged, load_law, notation
from femops.errors import Refused
from femops.hosts import felupe, scikit_fem, torch_fem
from femops.hosts.host_law import HostLaw

import felupe as fem  # isort: skip
import skfem  # isort: skip
from skfem.io.meshio import from_meshio  # isort: skip
import torchfem  # isort: skip
from torchfem.mesh import rect_quad  # isort: skip
from femops.devices.torch_library import torch  # isort: skip

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
Array = np.ndarray
REVERSED = (1.0, -0.5)


@pytest.fixture(scope="module", params=[(dim, law) for dim in (2, 3) for law in LAWS], ids=lambda p: f"{p[0]}D {p[1]}")
def patch(request: Any, tmp_path_factory: Any) -> Structure:
    """A patch of each law in each dimension."""
    dim, law = request.param
    return solved_patch(tmp_path_factory.mktemp("patch"), dim, material(law, dim))


@pytest.fixture(scope="module", params=[2, 3])
def plastic(request: Any, tmp_path_factory: Any) -> Structure:
    """A patch of J2 plasticity that is loaded and reversed."""
    return solved_patch(tmp_path_factory.mktemp("plastic"), request.param, J2, REVERSED)


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# -- FElupe -------------------------------------------------------------------------------------------------------


def felupe_steps(patch: Structure, umat: Any, factors: tuple[float, ...], **options: Any) -> list[Any]:
    """Results of FElupe's Newton method after each step."""
    mesh = fem.Mesh(patch.points, patch.cells, "quad" if patch.dim == 2 else "hexahedron")
    region = (fem.RegionQuad if patch.dim == 2 else fem.RegionHexahedron)(mesh)
    field = fem.FieldContainer([fem.FieldPlaneStrain(region, dim=2) if patch.dim == 2 else fem.Field(region, dim=3)])
    solid = fem.SolidBody(umat, field)
    bounds = {"left": fem.Boundary(field[0], fx=0.0)}
    names = [f"right {axis}" for axis in range(patch.dim)]
    results = []
    for factor in factors:
        for axis, name in enumerate(names):
            others = [other != axis for other in range(patch.dim)]
            bounds[name] = fem.Boundary(field[0], fx=1.0, skip=others, value=factor * patch.pull[axis])
        dof0, dof1 = fem.dof.partition(field, bounds)
        ext0 = fem.dof.apply(field, bounds, dof0)
        results.append(
            fem.newtonraphson(items=[solid], dof0=dof0, dof1=dof1, ext0=ext0, tol=1e-13, verbose=0, **options)
        )
        field[0].values[:] = results[-1].x[0].values
    return results


def test_felupe_finds_the_displacement_of_femops(patch: Structure) -> None:
    (result,) = felupe_steps(patch, felupe.Material(patch.law), (1.0,))
    patch.compare(result.x[0].values)
    assert_quadratic(result.fnorms)


def test_felupe_evaluates_the_law_once_per_iteration(patch: Structure) -> None:
    counting = Counting(patch.law)
    (result,) = felupe_steps(patch, felupe.Material(counting), (1.0,))
    assert counting.calls == result.iterations + 1


def test_felupe_commits_the_state_of_each_step(plastic: Structure) -> None:
    results = felupe_steps(plastic, felupe.Material(plastic.law), REVERSED)
    for step, result in enumerate(results):
        plastic.compare(result.x[0].values, step)


def test_felupe_is_given_the_stress_out_of_the_plane() -> None:
    law = load_law(SATURATING)
    gradient = np.zeros((3, 3, 1, 1))
    gradient[:2, :2, 0, 0] = [[0.02, 0.01], [0.0, -0.01]]
    x = [gradient + np.eye(3)[:, :, None, None], np.zeros((0, 1, 1))]
    umat = felupe.Material(law)
    solid = felupe.Material(load_law(SATURATING, dim=3))
    for of_plane, of_solid in ((umat.gradient(x)[0], solid.gradient(x)[0]), (umat.hessian(x)[0], solid.hessian(x)[0])):
        rows = (slice(None),) * 2 + (slice(2), slice(2)) * (of_plane.ndim == 6)
        np.testing.assert_allclose(of_plane[rows], of_solid[rows], rtol=1e-12, atol=1e-9)


def test_felupe_refuses_strains_out_of_the_plane_for_a_law_in_plane_strain() -> None:
    region = fem.RegionQuad(fem.Rectangle(n=3))
    field = fem.FieldContainer([fem.FieldAxisymmetric(region, dim=2, values=0.01)])
    solid = fem.SolidBody(felupe.Material(load_law(SATURATING)), field)
    with pytest.raises(ValueError, match=r"expected felupe\.FieldPlaneStrain"):
        solid.assemble.vector(field)


# -- scikit-fem ---------------------------------------------------------------------------------------------------


def scikit_basis(patch: Structure) -> Any:
    kind = "quad" if patch.dim == 2 else "hexahedron"
    mesh = from_meshio(meshio.Mesh(patch.points, [(kind, patch.cells)]))
    element = skfem.ElementQuad1() if patch.dim == 2 else skfem.ElementHex1()
    return skfem.Basis(mesh, skfem.ElementVector(element), intorder=2)


def scikit_step(solid: Any, patch: Structure, x: Array, factor: float) -> list[float]:
    """Solve a step by Newton's method in place and return the residual norms."""
    basis = solid.basis
    left = basis.get_dofs(lambda p: p[0] == 0.0).all()
    right = [basis.get_dofs(lambda p: p[0] == 1.0).all(f"u^{axis + 1}") for axis in range(patch.dim)]
    fixed = np.concatenate([left, *right])
    free = np.setdiff1d(np.arange(basis.N), fixed)
    step = np.zeros_like(x)
    for axis, dofs in enumerate(right):
        step[dofs] = factor * patch.pull[axis] - x[dofs]
    norms: list[float] = []
    for _ in range(15):
        matrix, force = solid.assemble(x)
        norms.append(float(np.linalg.norm(force[free] + matrix[free] @ step)))
        if norms[-1] < 1e-13 * np.linalg.norm(force[fixed]):
            break
        x += skfem.solve(*skfem.condense(matrix, -force, x=step, D=fixed))
        step[:] = 0.0
    return norms


def scikit_nodes(basis: Any, patch: Structure, x: Array) -> Array:
    """Displacements at the nodes of the patch."""
    order = [int(np.abs(basis.mesh.p.T - point).sum(axis=1).argmin()) for point in patch.points]
    return x[basis.nodal_dofs][:, order].T


def test_scikit_fem_finds_the_displacement_of_femops(patch: Structure) -> None:
    basis = scikit_basis(patch)
    solid = scikit_fem.Solid(patch.law, basis)
    x = basis.zeros()
    norms = scikit_step(solid, patch, x, 1.0)
    patch.compare(scikit_nodes(basis, patch, x))
    assert_quadratic(norms)


def test_scikit_fem_commits_the_state_of_each_step(plastic: Structure) -> None:
    basis = scikit_basis(plastic)
    solid = scikit_fem.Solid(plastic.law, basis)
    x = basis.zeros()
    for step, factor in enumerate(REVERSED):
        scikit_step(solid, plastic, x, factor)
        solid.commit()
        plastic.compare(scikit_nodes(basis, plastic, x), step)


def test_scikit_fem_refuses_a_law_of_another_dimension(patch: Structure) -> None:
    with pytest.raises(CaseError, match=f"the law is {5 - patch.dim}D, expected {patch.dim}D as the mesh"):
        scikit_fem.Solid(load_law(SATURATING, dim=5 - patch.dim), scikit_basis(patch))


# -- torch-fem ----------------------------------------------------------------------------------------------------


def torch_model(patch: Structure, umat: Any) -> Any:
    nodes, cells = torch.tensor(patch.points), torch.tensor(patch.cells)
    model = (torchfem.Planar if patch.dim == 2 else torchfem.Solid)(nodes, cells, umat)
    fixed = torch.zeros_like(nodes, dtype=torch.bool)
    fixed[patch.left], fixed[patch.right] = True, True
    model.constraints = fixed
    moved = torch.zeros_like(nodes)
    moved[patch.right] = torch.tensor(patch.pull)
    model.displacements = moved
    return model


def with_norms(model: Any) -> list[float]:
    """Return a list that receives the residual norms of the model."""
    norms, original = [], model._residual

    def residual(*args: Any) -> Any:
        result = original(*args)
        norms.append(float(torch.linalg.norm(result[0])))
        return result

    model._residual = residual
    return norms


def test_torch_fem_finds_the_displacement_of_femops(patch: Structure) -> None:
    model = torch_model(patch, torch_fem.Material(patch.law))
    norms = with_norms(model)
    u, *_ = model.solve(rtol=1e-13, atol=1e-30, max_iter=20)
    patch.compare(u.numpy())
    assert_quadratic(norms)


def test_torch_fem_commits_the_state_of_each_step(plastic: Structure) -> None:
    model = torch_model(plastic, torch_fem.Material(plastic.law))
    increments = torch.tensor([0.0, *REVERSED])
    u, *_ = model.solve(increments, rtol=1e-12, atol=1e-30, max_iter=20, return_intermediate=True)
    for step in range(len(REVERSED)):
        plastic.compare(u[step + 1].numpy(), step)


def without_state(law: dict[str, Any]) -> dict[str, Any]:
    """The law; a nested one without its predictor, which is all the state that elastic phases have."""
    return {**law, "solver": {**law["solver"], "predictor": False}} if law["law"] == "nested" else law


def test_gradients_flow_through_torch_fem(patch: Structure) -> None:
    """The derivative of a reaction with respect to the nodes, over two increments, against central differences."""
    rng = np.random.default_rng(4)
    law = load_law(without_state(patch.parameters), dim=patch.dim)
    weight, direction = torch.tensor(rng.uniform(-1, 1, patch.points.shape)), rng.uniform(-1, 1, patch.points.shape)

    def reaction(points: Any) -> Any:
        model = torch_model(patch, torch_fem.Material(law))
        model.nodes = points
        parameters = points if points.requires_grad else None
        increments = torch.tensor([0.0, 0.5, 1.0])
        u, f, *_ = model.solve(increments, rtol=1e-13, atol=1e-30, max_iter=20, differentiable_parameters=parameters)
        return (weight * (u + 1e-3 * f)).sum()

    points = torch.tensor(patch.points, requires_grad=True)
    (gradient,) = torch.autograd.grad(reaction(points), points)
    step = 1e-5 * torch.tensor(direction)
    with torch.no_grad():
        expected = (reaction(points.detach() + step) - reaction(points.detach() - step)) / 2e-5
    assert float((gradient * torch.tensor(direction)).sum()) == pytest.approx(float(expected), rel=1e-6)


def test_an_external_strain_in_torch_fem_moves_the_strain_of_the_law(patch: Structure) -> None:
    model = torch_model(patch, torch_fem.Material(patch.law))
    model.displacements = torch.zeros_like(model.nodes)
    model.constraints = torch.ones_like(model.constraints)
    external = torch.tensor(np.random.default_rng(5).uniform(-0.01, 0.01, (patch.dim, patch.dim)))
    external = external + external.T
    model.ext_strain = external.expand(len(patch.cells), -1, -1)
    _, _, stress, *_ = model.solve(torch.tensor([0.0, 0.3, 1.0]))
    strain = -notation.from_tensor(external.numpy())[None]
    expected = patch.law.evaluate(strain, np.zeros((1, patch.law.n_state)), 1.0).stress
    np.testing.assert_allclose(
        notation.from_tensor(stress.numpy()), np.repeat(expected, len(patch.cells), 0), rtol=1e-9
    )


def test_torch_fem_refuses_what_it_cannot_do(plastic: Structure) -> None:
    umat = torch_fem.Material(plastic.law)
    with pytest.raises(NotImplementedError, match="rotate the RVE"):
        umat.rotate(torch.eye(plastic.dim))
    model = torch_model(plastic, umat)
    points = torch.tensor(plastic.points, requires_grad=True)
    model.nodes = points
    with pytest.raises(NotImplementedError, match="has a state"):
        model.solve(differentiable_parameters=points)
    torch.set_default_dtype(torch.float32)
    single = torchfem.Planar(*rect_quad(2, 2), torch_fem.Material(load_law(SATURATING)))
    with pytest.raises(TypeError, match=r"expected torch\.set_default_dtype"):
        single.solve()


# -- decisions of the user ----------------------------------------------------------------------------------------


class Counting:
    """A law that counts its evaluations."""

    def __init__(self, law: Any) -> None:
        self.law, self.calls = law, 0
        self.strain_measure, self.dim = law.strain_measure, law.dim
        self.n_state, self.state_fields = law.n_state, law.state_fields

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        self.calls += 1
        return self.law.evaluate(strain, state, dt)


class Limited(Counting):
    """A law that is valid up to a strain, and does not converge beyond another."""

    def __init__(self, law: Any, valid: float = np.inf, converges: float = np.inf) -> None:
        super().__init__(law)
        self.valid, self.converges, self.failures = valid, converges, 0

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        size = np.abs(strain).max(axis=1, initial=0.0)
        if (size > self.converges).any():
            self.failures += 1
            raise NotConverged("the iteration of the law")
        response = super().evaluate(strain, state, dt)
        return replace(response, valid=size <= self.valid)


HOSTS: dict[str, Callable[[Structure, Any, dict[str, str]], Any]] = {
    "felupe": lambda patch, law, how: felupe_steps(patch, felupe.Material(law, **how), (1.0,))[0].x[0].values,
    "scikit-fem": lambda patch, law, how: scikit_solved(patch, law, how),
    "torch-fem": lambda patch, law, how: (
        torch_model(patch, torch_fem.Material(law, **how)).solve(rtol=1e-12, atol=1e-30, max_iter=20)[0].numpy()
    ),
}
ALL_HOSTS = pytest.mark.parametrize("host", HOSTS)


def scikit_solved(patch: Structure, law: Any, how: dict[str, str]) -> Array:
    basis = scikit_basis(patch)
    x = basis.zeros()
    scikit_step(scikit_fem.Solid(law, basis, **how), patch, x, 1.0)
    return scikit_nodes(basis, patch, x)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: Any) -> Structure:
    """A small patch for the decisions."""
    return solved_patch(tmp_path_factory.mktemp("plane"), 2, SATURATING)


@ALL_HOSTS
def test_a_strain_out_of_range_stops_every_host_unless_the_user_decides_otherwise(host: str, plane: Structure) -> None:
    law = Limited(plane.law, valid=0.01)
    with pytest.raises(Refused, match=r"\d+ of \d+ strains are out of the range of the law, the first \["):
        HOSTS[host](plane, law, {})
    plane.compare(HOSTS[host](plane, law, {"out_of_range": "extrapolate"}))


@ALL_HOSTS
def test_a_law_that_does_not_converge_stops_every_host(host: str, plane: Structure) -> None:
    with pytest.raises(NotConverged, match="the iteration of the law"):
        HOSTS[host](plane, Limited(plane.law, converges=0.01), {})


def test_hosts_with_a_step_control_cut_back_where_the_law_does_not_converge(plane: Structure) -> None:
    """The first iteration puts the whole displacement into one layer of cells; smaller steps do not."""
    law = Limited(plane.law, converges=0.09)
    u, *_ = torch_model(plane, torch_fem.Material(law, not_converged="nan")).solve(rtol=1e-12, atol=1e-30, max_iter=20)
    plane.compare(u.numpy())
    assert law.failures
    umat = felupe.Material(Limited(plane.law, converges=0.01), not_converged="nan")
    with pytest.warns(MatrixRankWarning), pytest.raises(fem.NewtonConvergenceError):
        felupe_steps(plane, umat, (1.0,))


def test_hosts_with_a_step_control_cut_back_where_an_iterate_leaves_the_range(plane: Structure) -> None:
    law = Limited(plane.law, valid=0.09)
    with pytest.raises(Refused):
        HOSTS["torch-fem"](plane, law, {})
    plane.compare(HOSTS["torch-fem"](plane, law, {"out_of_range": "nan"}))
    law.valid = 0.01  # exceeded by the solution
    with pytest.raises(torchfem.sparse.ConvergenceError):
        HOSTS["torch-fem"](plane, law, {"out_of_range": "nan"})
    with pytest.raises(fem.NewtonConvergenceError):
        HOSTS["felupe"](plane, law, {"out_of_range": "nan"})


def test_one_strain_out_of_range_is_enough_and_is_named() -> None:
    law = HostLaw(Limited(load_law(SATURATING), valid=0.01))
    strain = np.array([[0.005, 0.0, 0.0], [0.0, -0.0125, 0.01]])
    with pytest.raises(Refused, match=r"1 of 2 strains are out .* the first \[0, -0.0125, 0.01\]"):
        law.evaluate(strain, np.zeros((2, 0)))
    law.out_of_range = "extrapolate"
    assert law.evaluate(strain, np.zeros((2, 0))).valid.tolist() == [True, False]


def test_unknown_decisions_and_broken_laws_are_refused() -> None:
    law = load_law(SATURATING)
    with pytest.raises(CaseError, match="out_of_range: 'ignore' given, expected raise, nan, extrapolate"):
        HostLaw(law, "ignore")  # type: ignore[arg-type]
    with pytest.raises(CaseError, match="not_converged: 'zero' given, expected raise, nan"):
        HostLaw(law, not_converged="zero")  # type: ignore[arg-type]
    with pytest.raises(CaseError, match="lacks strain_measure"):
        HostLaw(object())  # type: ignore[arg-type]


def test_a_rate_dependent_law_is_given_the_length_of_the_increment() -> None:
    seen = []

    class Timed(Counting):
        def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
            seen.append(dt)
            return super().evaluate(strain, state, dt)

    law = HostLaw(Timed(load_law(SATURATING)))
    for law.dt in (0.5, 0.5, 0.25):
        law.evaluate(np.zeros((1, 3)), np.zeros((1, 0)))
    assert seen == [0.5, 0.25]


def test_a_host_is_imported_by_its_own_module_only() -> None:
    code = "import femops.hosts.felupe, sys; print({'felupe', 'torch', 'skfem', 'dolfinx'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == "set()\n"
