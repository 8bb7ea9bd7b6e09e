"""Training of a library of components from snapshots of small arrangements."""

import time
from dataclasses import dataclass, replace

import numpy as np

from femops.devices.torch_library import torch
from femops.notation import Array, Indices
from femops.rve.sampling import sobol
from femops.rve.snapshots import SnapshotSolver
from femops.rve.spec import RVE
from femops.surrogate import Fit, FitTask
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.spec import Arrays
from femops_moe.basis import nonlinear_fields
from femops_moe.compiled import tiled_solver
from femops_moe.components import Arrangement, Component, arrangement
from femops_moe.cubature import Shares, changes, forces
from femops_moe.galerkin import Equilibrium
from femops_moe.library import Library, elastic_fluctuation, joined_rve
from femops_moe.local_modes import local_modes
from femops_moe.options import MoEOptions
from femops_moe.tiled import TiledExperts, tiled, with_points

_STRAINS = 4  # of each random arrangement
_OF_CUBATURE = 8  # arrangements to choose cubature points with
_SKETCH = 300  # random combinations of the functionals of a component
_WEIGHT_OF_UNKNOWNS = 0.05  # see `cubature`
_NAMES = {  # of the classes of sides
    2: ("vertical_face", "horizontal_face"),
    3: ("face_x", "face_y", "face_z", "edge_z", "edge_y", "edge_x"),
}
_EVALUATIONS, _CONVERGED = 12, 1e-13
_LARGEST, _SMALLER, _TRIALS = 1e-3, (0.2, 0.7), 20  # sizes of the singular vectors to keep: first, relative to the last
_ORDER = 2.0  # of the error in that size, about


@dataclass(frozen=True)
class _Solved:
    """A solved arrangement: strains (n, n_s), and the nonlinear fields (n_dofs, n_fields) at each place."""

    rve: RVE
    found: Arrangement
    strain: Array
    fields: list[Array]


def fit(task: FitTask) -> Fit:
    """Train the components that the RVE of a study consists of; see `MoEOptions`.

    Raises:
        CaseError: The RVE is no arrangement of components of the given size.
    """
    begin = time.perf_counter()
    options: MoEOptions = task.options
    assert options.component is not None
    dim = task.rve.discretisation.dim
    size = np.full(dim, options.component)
    solved, components = _solved(task, size)
    samples: list[list[Array]] = [[] for _ in components]
    for one in solved:
        for kind, fields in zip(one.found.kinds, one.fields, strict=True):
            samples[kind].append(fields)
    trained = local_modes(
        components, [np.concatenate(one, axis=1) for one in samples], options.tolerance, options.modes // 2
    )
    whole = [np.ones(one.discretisation.n_points) for one in components]
    library = Library(components, size, trained.counts, trained.modes, whole)
    errors: dict[int, float] = {}
    if options.cubature_tolerance is not None:
        task.progress("cubature", 0, 1)
        factors, errors = _cubature(library, solved[:_OF_CUBATURE], options.cubature_tolerance, options.seed)
        library = replace(library, factors=factors)
        task.progress("cubature", 1, 1, f"stress error {min(errors.values()):.1e}")
    bubbles = [one.bubbles.shape[1] for one in trained.modes]
    metrics = {
        "components": len(components),
        "arrangements": len(solved),
        **{f"modes_of_{name}": count for name, count in zip(_NAMES[dim], trained.counts, strict=True)},
        "bubbles": max(bubbles),
        "lost_by_faces": trained.lost[0],
        "lost_by_bubbles": trained.lost[1],
        "cubature_points_of_component": max(int((one > 0.0).sum()) for one in library.factors),
        "cubature_stress_error": min(errors.values(), default=0.0),
        "seconds_reduction": time.perf_counter() - begin,
    }
    phases = {name: str(one) for name, one in zip(task.rve.discretisation.phases, task.rve.phases, strict=True)}
    settings = {"options": options.model_dump(mode="json"), "components": len(components), "phases": phases}
    return Fit(library.arrays(task.rve), settings, metrics)


def _solved(task: FitTask, size: Array) -> tuple[list[_Solved], list[Component]]:
    """Return the RVE of the study and random ones of two components in each direction, solved, and the components."""
    options: MoEOptions = task.options
    found, components = arrangement(task.rve, size, [])
    half = 0.5 * (task.high - task.low)
    half = np.where(half > 0.0, half, half.max())
    meshes = [one.discretisation.mesh for one in components]
    solved = [_sampled(task.rve, found, task.snapshots, task.solver, half)]
    rng = np.random.default_rng(options.seed)
    strain = sobol(task.low, task.high, _STRAINS * options.arrangements, options.seed + 1)
    for number in range(options.arrangements):
        task.progress("arrangements", number, options.arrangements)
        rve = joined_rve(meshes, rng.integers(0, len(components), (2,) * len(size)), task.rve)
        solver = SnapshotSolver(rve, task.solver.solver.options)
        snapshots = solver.solve(strain[number :: options.arrangements])
        solved.append(_sampled(rve, arrangement(rve, size, components)[0], snapshots, solver, half))
    task.progress("arrangements", options.arrangements, options.arrangements)
    return solved, components


def _sampled(rve: RVE, found: Arrangement, snapshots: Arrays, solver: SnapshotSolver, half: Array) -> _Solved:
    """Return the strains and nonlinear fields of a solved arrangement."""
    space = FluctuationSpace(rve)
    every = nonlinear_fields(space, snapshots, solver.solver.elastic_sensitivity, half)
    nodal = every.reshape(space.n_nodes, rve.discretisation.dim, -1)
    fields = [nodal[space.node_of[nodes]].reshape(-1, nodal.shape[2]) for nodes in found.nodes]
    return _Solved(rve, found, np.asarray(snapshots["strain"])[:_STRAINS], fields)


@dataclass(frozen=True)
class _Case:
    """An arrangement to choose cubature points with; `root` is a root of its compliance at zero strain."""

    experts: TiledExperts
    kinds: Indices
    strain: Array
    full: Equilibrium
    root: Array

    def error(self, stress: Array) -> Array:
        """Return the relative errors (n,) of stresses (n, n_s), in the norm of the compliance at zero strain."""
        exact = self.full.stress
        return np.asarray(
            np.linalg.norm((stress - exact) @ self.root, axis=1) / np.linalg.norm(exact @ self.root, axis=1)
        )


def _case(library: Library, one: _Solved) -> _Case:
    elastic = elastic_fluctuation(one.rve, one.found, library.components)
    experts = tiled(one.found, library.components, library.modes, library.counts, elastic)
    found, n_s = tiled_solver(experts), experts.experts.n_s
    start = np.zeros((len(one.strain), len(experts.used)))
    full = found.solve(one.strain, start, _EVALUATIONS, _CONVERGED)
    tangent = found.solve(np.zeros((1, n_s)), start[:1], 1, 1.0).tangent[0]
    return _Case(experts, one.found.kinds, one.strain, full, np.linalg.cholesky(np.linalg.inv(tangent)))


def _cubature(
    library: Library, solved: list[_Solved], tolerance: float, seed: int
) -> tuple[list[Array], dict[int, float]]:
    """Return factors of the weights of each component, and the median error of the stress by number of points."""
    cases = [_case(library, one) for one in solved]
    rng = np.random.default_rng(seed)
    sums = [np.zeros((_SKETCH, one.discretisation.n_points)) for one in library.components]
    for case in cases:
        _add(sums, case, rng)
    shares = [
        _shares(total, one.discretisation.weight.ravel()) for total, one in zip(sums, library.components, strict=True)
    ]
    errors, smallest = dict[int, float](), _LARGEST
    for _ in range(_TRIALS):
        factors = [one.factors(smallest) for one in shares]
        found = []
        for case in cases:
            few = tiled_solver(with_points(case.experts, case.kinds, factors))
            found.append(case.error(few.solve(case.strain, case.full.unknowns, _EVALUATIONS, _CONVERGED).stress))
        errors[sum(int((one > 0.0).sum()) for one in factors)] = error = float(np.median(np.concatenate(found)))
        if error <= tolerance:
            break
        smallest *= float(np.clip((tolerance / error) ** (1.0 / _ORDER), *_SMALLER))
    return factors, errors


def _add(sums: list[Array], case: _Case, rng: np.random.Generator) -> None:
    """Add random combinations of the points' shares in the functionals to those of each component."""
    one, experts, unknowns = case.experts, case.experts.experts, case.full.unknowns
    z = one.local(torch.as_tensor(case.strain), torch.as_tensor(one.padded(unknowns)))
    totals = changes(one, tiled_solver(one).sensitivity(case.strain, unknowns) @ case.root, case.root)
    force = len(case.kinds) * forces(experts, z)  # weights of a component are relative to its own volume
    for k, kind in enumerate(case.kinds):
        inside = experts.points[k] >= 0
        local = torch.einsum("ngs,gsi->nig", force[k], experts.maps[k])
        own = local[:, experts.n_s :] * (_WEIGHT_OF_UNKNOWNS / len(one.used) ** 0.5)
        rows = torch.cat([totals[k].mT @ local, own], 1).flatten(0, 1).numpy()[:, inside]
        sums[kind][:, experts.points[k][inside]] += rng.standard_normal((_SKETCH, len(rows))) @ rows / _SKETCH**0.5


def _shares(sums: Array, weight: Array) -> Shares:
    """Return the singular values of sums of functionals (n_sums, n_points), relative to the largest."""
    sampled = np.flatnonzero((sums != 0.0).any(axis=0))
    _, sizes, vectors = np.linalg.svd(sums[:, sampled], full_matrices=False)
    rows = np.vstack([vectors, weight[sampled] / np.linalg.norm(weight[sampled])])
    return Shares(sizes / sizes[0], rows, rows.sum(axis=1), sampled, len(weight))


def check_components(rve: RVE, size: float) -> None:
    """Refuse an RVE that is no arrangement of components of a size.

    Raises:
        CaseError: See `components.arrangement`.
    """
    arrangement(rve, np.full(rve.discretisation.dim, size), [])
