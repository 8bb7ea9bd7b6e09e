"""The same cantilever with the same trained law in eight codes: deflection, Newton iterations and time.

CalculiX is the program named by FEMOPS_CCX (see tests/codes/build_calculix.sh). Times are those of the solutions alone,
the least of two; every code takes its own direct solver on one thread. The pictures go to `results/codes_PROBLEM.png`.
"""

import femops.stack  # noqa: F401

# isort: split
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from codes import calculix, kratos, opengeosys
from codes.answer import Answer
from host_structures import PHASES, Structure, material, solved_cantilever
from matplotlib.figure import Figure
from mpi4py import MPI
from scipy.spatial import cKDTree

from femops import load_law
from femops.devices.torch_library import torch  # before others import it
from femops.export.model import export_model
from femops.hosts import dolfinx, felupe, scikit_fem, torch_fem
from femops.inputs.study import load_study
from femops.notation import Array, ufl_strain
from femops.offline.train import train
from femops.rve.sampling import sobol

# isort: split
import felupe as fem
import meshio
import skfem
import torchfem
import ufl
from dolfinx import fem as dolfinx_fem
from dolfinx import mesh as dolfinx_mesh
from dolfinx.fem.petsc import NonlinearProblem
from dolfinx_external_operator import evaluate_external_operators, evaluate_operands, replace_external_operators
from dolfinx_external_operator.petsc import assemble_residual_with_callback
from skfem.io.meshio import from_meshio

_RESULTS = Path(__file__).parent / "results"
_RANGE = 0.05
_BEAM: dict[str, tuple[list[float], list[int], list[float]]] = {
    "plane_strain": ([8.0, 1.0], [128, 16], [0.5, 3.0]),
    "solid": ([8.0, 1.0, 1.0], [32, 4, 4], [0.3, 1.8, -0.9]),
}
_OPTIONS = {"modes": 12, "points": 60, "certificate_points": 60, "states": 32}
_REPEATS = 2


@dataclass(frozen=True)
class _Solution:
    """What a code found.

    Attributes:
        displacement: Nodal displacements. Shape (n_points, dim).
        iterations: Linear systems solved.
        seconds: Time of the solution.
    """

    displacement: Array
    iterations: int
    seconds: float


def _run(kinematics: str, options: Mapping[str, str]) -> dict[str, Any]:
    size, cells, traction = _BEAM[kinematics]
    dim = len(size)
    torch.set_default_dtype(torch.float64)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        law = {"law": "equino", "model": str(_trained(kinematics, base)), "device": "cpu"}
        structure = solved_cantilever(base, law, size, cells, traction)
        n_qp, error = len(structure.cells) * 2**dim, _law_error(structure)
        codes = _codes(structure, base)
        found = {name: _fastest(solve) for name, solve in codes.items()}
    reference = found["femops"]
    largest = np.abs(reference.displacement).max()
    result: dict[str, Any] = {"cells": len(structure.cells), "points": n_qp, "law_error": error}
    for name, one in found.items():
        difference = np.abs(one.displacement - reference.displacement).max() / largest
        result |= {
            f"{name}_deflection": float(one.displacement[structure.right, 1].mean()),
            f"{name}_difference": float(difference),
            f"{name}_iterations": one.iterations,
            f"{name}_seconds": one.seconds,
            f"{name}_over_femops": one.seconds / reference.seconds,
            f"{name}_points_per_second": n_qp * one.iterations / one.seconds,
        }
    _draw(structure, {name: one.displacement for name, one in found.items()}, _RESULTS / f"codes_{kinematics}.png")
    return result


def _trained(kinematics: str, folder: Path) -> Path:
    """Train EquiNO on an RVE without symmetries and return the model folder."""
    rve = material("nested", 2 if kinematics == "plane_strain" else 3)["rve"]
    sampling = {"method": "sobol", "count": 32, "seed": 1, "range": _RANGE}
    study = {"kinematics": kinematics, "rve": {**rve, "phases": PHASES}, "sampling": sampling}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**study, "surrogate": {"law": "equino", **_OPTIONS}}))
    return train(load_study(path), path, folder / "trained", MPI.COMM_SELF).model


def _law_error(structure: Structure) -> float:
    """Return the median error of the stress at unseen strains of the training range, relative to the nested law."""
    low, high = structure.law.low, structure.law.high
    nested = load_law(material("nested", structure.dim), dim=structure.dim)
    strain = sobol(low, high, 64, seed=2)
    found, exact = (law.evaluate(strain, np.zeros((64, law.n_state)), 1.0).stress for law in (structure.law, nested))
    return float(np.median(np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)))


def _codes(structure: Structure, base: Path) -> dict[str, Callable[[], _Solution]]:
    """Return for each code a function that solves the structure."""
    libraries = {}
    for kind, name, flags in (("mgis", "rve", ()), ("umat", "kratos", (kratos.FLAGS,)), ("umat", "RVE", ())):
        export_model(structure.parameters, kind, base / name)
        subprocess.run(["make", "-s", *flags], cwd=base / name, check=True)
        libraries[name] = base / name / f"lib{name}.so"
    exported: dict[str, Callable[[], Answer]] = {
        "OpenGeoSys": partial(opengeosys.solve, structure, libraries["rve"], base),
        "Kratos": partial(kratos.solve, structure, libraries["kratos"], base),
        "CalculiX": partial(calculix.solve, structure, libraries["RVE"], base, os.environ["FEMOPS_CCX"]),
    }
    adapted = {"FElupe": _felupe, "scikit-fem": _scikit_fem, "torch-fem": _torch_fem, "DOLFINx": _dolfinx}
    return {
        "femops": partial(_femops, structure),
        **{name: partial(_exported, solve) for name, solve in exported.items()},
        **{name: partial(solve, structure) for name, solve in adapted.items()},
    }


def _fastest(solve: Callable[[], _Solution]) -> _Solution:
    return min((solve() for _ in range(_REPEATS)), key=lambda one: one.seconds)


def _exported(solve: Callable[[], Answer]) -> _Solution:
    answer = solve()
    if answer.status or answer.displacement is None:
        raise SystemExit(answer.text)
    return _Solution(answer.displacement, len(answer.norms), answer.seconds)


def _femops(structure: Structure) -> _Solution:
    displacement = structure.problem.displacement
    displacement.x.array[:] = 0.0
    begin = time.perf_counter()
    report = structure.problem.solve(1.0, 1.0)
    seconds = time.perf_counter() - begin
    return _Solution(_at_nodes(displacement, structure), len(report.residuals) - 1, seconds)


def _at_nodes(displacement: Any, structure: Structure) -> Array:
    places = displacement.function_space.tabulate_dof_coordinates()[:, : structure.dim]
    order = cKDTree(places).query(structure.points)[1]
    return displacement.x.array.reshape(-1, structure.dim)[order]


def _felupe(structure: Structure) -> _Solution:
    plane = structure.dim == 2
    mesh = fem.Mesh(structure.points, structure.cells, "quad" if plane else "hexahedron")
    region = (fem.RegionQuad if plane else fem.RegionHexahedron)(mesh)
    field = fem.FieldContainer([fem.FieldPlaneStrain(region, dim=2) if plane else fem.Field(region, dim=3)])
    solid = fem.SolidBody(felupe.Material(structure.law), field)
    load = fem.PointLoad(field, np.arange(len(structure.points)), values=structure.nodal_force)
    bounds = {"left": fem.Boundary(field[0], fx=0.0)}
    dof0, dof1 = fem.dof.partition(field, bounds)
    ext0 = fem.dof.apply(field, bounds, dof0)
    begin = time.perf_counter()
    found = fem.newtonraphson(items=[solid, load], dof0=dof0, dof1=dof1, ext0=ext0, tol=1e-10, verbose=0)
    return _Solution(found.x[0].values, found.iterations, time.perf_counter() - begin)


def _scikit_fem(structure: Structure) -> _Solution:
    kind, element = {
        2: ("quad", skfem.ElementQuad1()),
        3: ("hexahedron", skfem.ElementHex1()),
    }[structure.dim]
    mesh = from_meshio(meshio.Mesh(structure.points, [(kind, structure.cells)]))
    basis = skfem.Basis(mesh, skfem.ElementVector(element), intorder=2)
    nodes = cKDTree(mesh.p.T).query(structure.points)[1]
    solid = scikit_fem.Solid(structure.law, basis)
    fixed, u, load = basis.get_dofs(lambda x: x[0] == 0.0).all(), basis.zeros(), basis.zeros()
    load[basis.nodal_dofs[:, nodes]] = structure.nodal_force.T
    begin = time.perf_counter()
    iterations = 0
    while True:
        stiffness, force = solid.assemble(u)
        residual = load - force
        residual[fixed] = 0.0
        if np.linalg.norm(residual) < 1e-10 * np.linalg.norm(load):
            break
        u += skfem.solve(*skfem.condense(stiffness, residual, D=fixed))
        iterations += 1
    seconds = time.perf_counter() - begin
    return _Solution(u[basis.nodal_dofs[:, nodes]].T, iterations, seconds)


def _torch_fem(structure: Structure) -> _Solution:
    nodes, cells = torch.tensor(structure.points), torch.tensor(structure.cells)
    model = (torchfem.Planar if structure.dim == 2 else torchfem.Solid)(nodes, cells, torch_fem.Material(structure.law))
    model.constraints[structure.left] = True
    model.forces = torch.tensor(structure.nodal_force)
    residuals: list[None] = []
    residual = model._residual

    def counted(*arguments: Any) -> Any:
        residuals.append(None)
        return residual(*arguments)

    model._residual = counted
    begin = time.perf_counter()
    u, *_ = model.solve(rtol=1e-10, atol=1e-30, max_iter=20)
    return _Solution(u.numpy(), len(residuals) - 1, time.perf_counter() - begin)


def _dolfinx(structure: Structure) -> _Solution:
    """Solve the cantilever as the example on the page of the hosts does."""
    size, cells, traction = _BEAM["plane_strain" if structure.dim == 2 else "solid"]
    kind = dolfinx_mesh.CellType.quadrilateral if structure.dim == 2 else dolfinx_mesh.CellType.hexahedron
    create = dolfinx_mesh.create_rectangle if structure.dim == 2 else dolfinx_mesh.create_box
    beam = create(MPI.COMM_SELF, [[0.0] * structure.dim, size], cells, kind)
    space = dolfinx_fem.functionspace(beam, ("Lagrange", 1, (structure.dim,)))
    u, v = dolfinx_fem.Function(space), ufl.TestFunction(space)
    stress = dolfinx.Stress(structure.law, u, degree=2)
    ends = dolfinx_mesh.locate_entities_boundary(beam, structure.dim - 1, lambda x: np.isclose(x[0], size[0]))
    tags = dolfinx_mesh.meshtags(beam, structure.dim - 1, np.sort(ends), np.ones(len(ends), dtype=np.int32))
    end = ufl.Measure("ds", beam, subdomain_data=tags)(1)
    work = ufl.inner(stress.operator, ufl_strain(v, structure.dim)) * stress.measure
    work -= ufl.inner(ufl.as_vector(traction), v) * end
    residual, of_residual = replace_external_operators(work)
    jacobian, of_jacobian = replace_external_operators(ufl.derivative(work, u, ufl.TrialFunction(space)))
    left = dolfinx_fem.locate_dofs_geometrical(space, lambda x: np.isclose(x[0], 0.0))
    bcs = [dolfinx_fem.dirichletbc(np.zeros(structure.dim), left, space)]

    def update() -> None:
        operands = evaluate_operands(of_residual)
        evaluate_external_operators(of_residual, operands)
        evaluate_external_operators(of_jacobian, operands)

    options = {"snes_linesearch_type": "none", "snes_rtol": 1e-10, "ksp_type": "preonly", "pc_type": "lu"}
    options |= {"pc_factor_mat_solver_type": "mumps"}
    problem = NonlinearProblem(residual, u, J=jacobian, bcs=bcs, petsc_options_prefix="beam", petsc_options=options)
    assemble = partial(assemble_residual_with_callback, u, problem.F, problem.J, bcs, update, ())
    problem.solver.setFunction(assemble, problem.b)
    begin = time.perf_counter()
    problem.solve()
    seconds = time.perf_counter() - begin
    return _Solution(_at_nodes(u, structure), problem.solver.getIterationNumber(), seconds)


def _draw(structure: Structure, displacement: Mapping[str, Array], file: Path) -> None:
    """Draw the lower edge of the deformed cantilevers, and how far each is from that of femops."""
    points = structure.points
    edge = np.flatnonzero((points[:, 1:] == 0.0).all(axis=1))
    edge = edge[np.argsort(points[edge, 0])]
    reference = displacement["femops"]
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for number, (name, u) in enumerate(displacement.items()):
        if name == "femops":
            upper.plot(points[edge, 0], u[edge, 1], color="black", label=name)
            continue
        few = edge[number :: len(displacement)]  # so that no code covers another
        upper.plot(points[few, 0], u[few, 1], "o", ms=4, color=f"C{number}", label=name)
        difference = np.abs(u - reference).max(axis=1)[edge] / np.abs(reference).max()
        lower.semilogy(points[edge, 0], np.maximum(difference, 1e-17), color=f"C{number}", label=name)
    upper.set_ylabel("deflection of the lower edge")
    lower.set(xlabel="x", ylabel="difference to femops,\nrelative to the largest", ylim=(1e-17, 1e-5))
    upper.legend(ncols=2)
    figure.savefig(file, dpi=110)


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    kinematics: partial(_run, kinematics) for kinematics in _BEAM
}
