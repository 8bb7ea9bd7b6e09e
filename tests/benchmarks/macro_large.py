"""Large bodies in 3D: femops against plain DOLFINx, in processor time by part and peak memory.

A clamped cube of hexahedra under a traction, by one Newton solve to 1e-8 with its output. Plain DOLFINx has the law in
UFL, its own generator of boxes, and the same solver of linear systems; it writes the same fields. Every side runs in
processes of its own after a small body that loads the compiled code.

`strong` and `weak` run femops on one and two ranks, with the least time of each part over some runs, as ranks that wait
for each other count as busy; `nested_balance` is a nested run on two ranks, with and without points that move.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

MATERIALS = {
    "elastic": {"law": "elastic", "K": 4780.0, "G": 416.7},
    "saturating": {"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": 0.06},
}
TRACTION = (0.0, 0.5, 1.0)
RTOL = 1e-8
CELLS = (14, 31, 47, 69)
RUNS = 2
BEAM = (
    "mesh={box: {size: [10.0, 2.0], cells: [8, 3], cell: quadrilateral}}",
    "steps={count: 4, end: 1.0}",
    "supports={left: {ux: 0.0, uy: 0.0}}",
    "loads={right: {displacement: {uy: '0.15 * t'}}}",
    "quantities={}",
    "output.picture=null",
    "output.micro=[]",
)
MIB = 2.0**20


def measure(cells: int, material: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Run both sides on one rank."""
    ours, theirs = (_run("femops", 1, cells, material), _run("plain", 1, cells, material))
    result = {name: ours[name] for name in ("dofs", "points", "iterations", "cg_iterations")}
    for side, found in (("femops", ours), ("plain", theirs)):
        result |= {f"{side}_{name}_s": value for name, value in found["seconds"].items()}
        result |= {f"{side}_memory_MB": found["memory_MB"]}
    totals = [sum(side["seconds"].values()) for side in (ours, theirs)]
    result["time_ratio"] = totals[0] / totals[1]
    result["memory_ratio"] = ours["memory_MB"] / theirs["memory_MB"]
    result["plain_iterations"] = theirs["iterations"]
    result["difference"] = abs(ours["tip"] - theirs["tip"]) / abs(theirs["tip"])
    return result


def scale(of_one: int, of_two: int, options: Mapping[str, str]) -> dict[str, Any]:
    """Run bodies of so many cells along an edge on one and two ranks; efficiency 1: time follows the dofs of a rank."""
    cells = {1: of_one, 2: of_two}
    found = {ranks: [_run("femops", ranks, n, "saturating") for _ in range(RUNS)] for ranks, n in cells.items()}
    result: dict[str, Any] = {}
    dofs = {ranks: runs[0]["dofs"] / ranks for ranks, runs in found.items()}
    seconds = {
        ranks: {name: min(run["seconds"][name] for run in runs) for name in runs[0]["seconds"]}
        for ranks, runs in found.items()
    }
    for ranks, parts in seconds.items():
        parts["total"] = sum(parts.values())
        result[f"ranks_{ranks}_dofs_of_a_rank"] = dofs[ranks]
        result |= {f"ranks_{ranks}_{name}_s": value for name, value in parts.items()}
        result[f"ranks_{ranks}_memory_of_a_rank_MB"] = found[ranks][0]["memory_MB"] / ranks
        result[f"ranks_{ranks}_cg_iterations"] = found[ranks][0]["cg_iterations"]
    for name, value in seconds[1].items():
        result[f"efficiency_{name}"] = value * dofs[2] / dofs[1] / seconds[2][name]
    return result


def balance(options: Mapping[str, str]) -> dict[str, Any]:
    """Run a nested beam on two ranks, with and without points that move."""
    return _run("nested", 2, 0, "")


def _run(side: str, ranks: int, cells: int, material: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.macro_large", side, str(cells), material]
    if ranks > 1:
        command = [str(Path(sys.executable).parent / "mpirun"), "-n", str(ranks), *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0 / MIB


@contextmanager
def _part(seconds: dict[str, float], name: str) -> Iterator[None]:
    begin = time.process_time()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.process_time() - begin


def femops_side(cells: int, material: str) -> dict[str, Any]:
    """Solve with femops."""
    from mpi4py import MPI

    import femops.macro.timers as timers
    from femops.commands.prepare import prepare
    from femops.commands.run import solve
    from femops.inputs.case import Case
    from femops.inputs.meshes import macro_tagged_mesh
    from femops.macro.mesh import macro_mesh
    from femops.output.locks import locked

    timers.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[attr-defined]
    case = Case.model_validate(
        {
            "kinematics": "solid",
            "mesh": {"box": {"size": [1.0] * 3, "cells": [cells] * 3, "cell": "hexahedron"}},
            "material": MATERIALS[material],
            "supports": {"left": {"ux": 0.0, "uy": 0.0, "uz": 0.0}},
            "loads": {"right": {"traction": list(TRACTION)}},
            "solver": {"rtol": RTOL},
            "steps": {"count": 1},
            "output": {"picture": None, "fields": ["displacement", "strain", "stress", "von_mises"]},
            "quantities": {"tip": {"displacement": "uz", "at": [1.0, 1.0, 1.0]}},
        }
    )
    comm, seconds = MPI.COMM_WORLD, dict[str, float]()
    with _part(seconds, "mesh"):
        mesh = macro_mesh(lambda: macro_tagged_mesh(case, Path()), 3, comm)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(comm.bcast(folder))
        with locked(place / "results", comm):
            run = prepare(case, place / "large.yaml", comm, mesh)
            summary = solve(run, place / "large.yaml", place / "results")
        comm.Barrier()
    seconds |= summary["seconds"]
    total = seconds.pop("total")
    seconds["other"] = total - sum(value for name, value in seconds.items() if name != "mesh")
    return {
        "seconds": {name.replace(" ", "_"): value for name, value in seconds.items()},
        "tip": summary["quantities"]["tip"],
        "dofs": summary["dofs"],
        "points": summary["n_qp"],
        "iterations": summary["steps"][0]["iterations"],
        "cg_iterations": run.problem._solver._solver.getIterationNumber(),
    }


def plain_side(cells: int, material: str) -> dict[str, Any]:
    """Solve with DOLFINx alone."""
    from femops.macro import linear  # loads MPI in the order that DOLFINx needs

    # isort: split
    import ufl
    from dolfinx import fem, mesh
    from dolfinx.fem import petsc
    from dolfinx.io import VTXWriter
    from mpi4py import MPI
    from petsc4py import PETSc

    seconds: dict[str, float] = {}
    with _part(seconds, "mesh"):
        domain = mesh.create_box(
            MPI.COMM_WORLD,
            [[0.0] * 3, [1.0] * 3],
            [cells] * 3,
            mesh.CellType.hexahedron,
            ghost_mode=mesh.GhostMode.none,
        )
        left, right = (mesh.locate_entities_boundary(domain, 2, lambda x, at=at: np.isclose(x[0], at)) for at in (0, 1))
    with _part(seconds, "set-up"):
        space = fem.functionspace(domain, ("Lagrange", 1, (3,)))
        u, test = fem.Function(space, name="displacement"), ufl.TestFunction(space)
        strain = ufl.sym(ufl.grad(u))
        parameters: Mapping[str, Any] = MATERIALS[material]
        stress = _stress(strain, parameters)
        dx = ufl.Measure("dx", domain, metadata={"quadrature_degree": 2})
        tags = mesh.meshtags(domain, 2, right, np.ones(len(right), dtype=np.int32))
        load = ufl.inner(fem.Constant(domain, TRACTION), test) * ufl.Measure("ds", domain, subdomain_data=tags)(1)
        internal, external = ufl.inner(stress, ufl.sym(ufl.grad(test))) * dx, load
        jacobian = fem.form(ufl.derivative(internal, u, ufl.TrialFunction(space)))
        forms = [fem.form(internal), fem.form(external)]
        dofs = fem.locate_dofs_topological(space, 2, left)
        fixed = [fem.dirichletbc(np.zeros(3), dofs, space)]
        matrix = petsc.create_matrix(jacobian)
        vectors = [petsc.create_vector(space) for _ in forms]
        step = vectors[0].duplicate()
        solver = linear.LinearSolver(matrix, space, 0.01 * RTOL, {})
    owned = np.concatenate([3 * dofs + i for i in range(3)])
    owned = owned[owned < 3 * space.dofmap.index_map.size_local]
    iterations = 0
    while True:
        with _part(seconds, "assembly"):
            for vector, form in zip(vectors, forms, strict=True):
                vector.set(0.0)
                petsc.assemble_vector(vector, form)
                vector.ghostUpdate(addv=PETSc.InsertMode.ADD, mode=PETSc.ScatterMode.REVERSE)
            rest = vectors[0].copy()
            rest.axpy(-1.0, vectors[1])
            rest.array_w[owned] = 0.0
        if iterations and rest.norm() <= RTOL * vectors[0].norm():
            break
        with _part(seconds, "assembly"):
            matrix.zeroEntries()
            petsc.assemble_matrix(matrix, jacobian, bcs=fixed)
            matrix.assemble()
        with _part(seconds, "linear_solve"):
            solver.solve(rest, step)
        u.x.petsc_vec.axpy(-1.0, step)
        u.x.scatter_forward()
        iterations += 1
    with _part(seconds, "output"), tempfile.TemporaryDirectory() as folder:
        of_cells = [fem.functionspace(domain, ("DG", 0, shape)) for shape in ((3, 3), ())]
        deviator = stress - ufl.tr(stress) / 3.0 * ufl.Identity(3)
        mises = ufl.sqrt(1.5 * ufl.inner(deviator, deviator))
        fields = []
        for name, value in {"strain": strain, "stress": stress, "von_mises": mises}.items():
            function = fem.Function(of_cells[name == "von_mises"], name=name)
            function.interpolate(fem.Expression(value, function.function_space.element.interpolation_points))
            fields.append(function)
        with VTXWriter(domain.comm, Path(folder) / "u.bp", [u]) as file:
            file.write(1.0)
        with VTXWriter(domain.comm, Path(folder) / "cells.bp", fields) as file:
            file.write(1.0)
    tip = fem.locate_dofs_geometrical(space, lambda x: np.isclose(x, 1.0).all(axis=0))
    found = float(u.x.array[3 * tip[0] + 2]) if len(tip) else -np.inf
    return {
        "seconds": seconds,
        "tip": domain.comm.allreduce(found, op=MPI.MAX),
        "iterations": iterations,
        "cg_iterations": solver._solver.getIterationNumber(),
    }


def nested_side(_: int, __: str) -> dict[str, Any]:
    """Solve a nested beam whose matrix flows near its support, without and with points that move between ranks."""
    from mpi4py import MPI

    import femops.macro.balance as balancing
    from femops.commands.run import run_case
    from femops.inputs.case import load_case

    comm, path = MPI.COMM_WORLD, Path(__file__).parents[2] / "cases" / "bar_j2_nested.yaml"
    case, seconds, timed, evaluate = load_case(path, BEAM), list[float](), balancing._timed, balancing.Balance.evaluate

    def noted(*given: Any) -> Any:
        answer = timed(*given)
        seconds[-1] += answer[1]
        return answer

    def begun(*given: Any) -> Any:
        seconds.append(0.0)
        return evaluate(*given)

    balancing._timed, balancing.Balance.evaluate = noted, begun  # type: ignore[method-assign]
    result: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    worth = balancing._WORTH
    for name, least in (("still", np.inf), ("moved", worth)):
        balancing._WORTH = least
        seconds.clear()
        with tempfile.TemporaryDirectory() as folder:

            def keep(problem: Any, _: Any, name: str = name) -> None:
                fields[name] = problem.displacement.x.array.copy()

            summary = run_case(case, path, Path(comm.bcast(folder)) / "results", comm, observe=keep)
            comm.Barrier()
        of_ranks = np.array(comm.allgather(seconds))
        result[f"{name}_longest_s"] = float(of_ranks.max(axis=0).sum())
        result[f"{name}_longest_over_mean"] = float(of_ranks.max(axis=0).sum() / of_ranks.mean(axis=0).sum())
        result[f"{name}_share"] = (
            summary["law_statistics"]["points_moved"] / summary["law_statistics"]["points_evaluated"]
        )
    result["speed_up"] = result["still_longest_s"] / result["moved_longest_s"]
    difference = float(np.abs(fields["moved"] - fields["still"]).max() / np.abs(fields["still"]).max())
    result["difference"] = comm.allreduce(difference, op=MPI.MAX)
    return result


def _stress(strain: Any, parameters: Mapping[str, Any]) -> Any:
    """Return the stress of a law in UFL."""
    import ufl

    trace = ufl.tr(strain)
    deviator = strain - trace / 3.0 * ufl.Identity(3)
    if parameters["law"] == "elastic":
        factor = 2.0 * parameters["G"]
    else:
        norm = ufl.sqrt(ufl.inner(deviator, deviator) + 1e-30)  # the derivative of the root at zero strain
        factor = parameters["alpha1"] / (parameters["alpha2"] + norm)
    return parameters["K"] * trace * ufl.Identity(3) + factor * deviator


SIDES = {"femops": femops_side, "plain": plain_side, "nested": nested_side}
PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    "strong": partial(scale, 28, 28),
    "weak": partial(scale, 22, 28),
    "nested_balance": balance,
    **{f"{material}_{cells}": partial(measure, cells, material) for cells in CELLS for material in MATERIALS},
}


def plot(record: Path, picture: Path) -> None:
    """Draw processor time by part and memory over the dofs, with the slopes between the two largest bodies."""
    import matplotlib.pyplot as plt

    problems = json.loads(record.read_text(encoding="utf-8"))["problems"]
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.5), layout="constrained")
    for axis, material in zip(axes, MATERIALS, strict=False):
        chosen = [problems[f"{material}_{cells}"] for cells in CELLS]
        dofs = np.array([one["dofs"] for one in chosen])
        for side, style in (("femops", "o-"), ("plain", "s--")):
            names = [name for name in chosen[0] if name.startswith(f"{side}_") and name.endswith("_s")]
            total = np.array([sum(one[name] for name in names) for one in chosen])
            axis.loglog(dofs, total, style, color="black", label=f"{side}: {_slope(dofs, total)}")
            memory = np.array([one[f"{side}_memory_MB"] for one in chosen])
            axes[2].loglog(dofs, memory, style, label=f"{side}, {material}: {_slope(dofs, memory)}")
        for part in ("mesh", "set-up", "assembly", "law", "linear_solve", "output"):
            values = np.array([one[f"femops_{part}_s"] for one in chosen])
            axis.loglog(dofs, values, ".-", lw=0.8, label=f"{part.replace('_', ' ')}: {_slope(dofs, values)}")
        axis.set(title=material, ylabel="processor time [s]")
    axes[2].set(title="peak memory above the start", ylabel="[MB]")
    for axis in axes:
        axis.set_xlabel("dofs")
        axis.legend(fontsize=7)
        axis.grid(which="both", alpha=0.3)
    figure.savefig(picture, dpi=110)


def _slope(dofs: Any, values: Any) -> str:
    return f"n^{np.log(values[-1] / values[-2]) / np.log(dofs[-1] / dofs[-2]):.2f}"


def _child(side: str, cells: int, material: str) -> None:
    from mpi4py import MPI

    if cells:
        SIDES[side](4, material)
    floor = _peak()
    result = SIDES[side](cells, material)
    comm = MPI.COMM_WORLD
    result["memory_MB"] = comm.reduce(_peak() - floor)
    of_ranks = comm.gather(result.get("seconds", {}))
    if comm.rank == 0 and cells:
        result["seconds"] = {name: max(one[name] for one in of_ranks) for name in result["seconds"]}
    if comm.rank == 0:
        sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "plot":
        results = Path(__file__).parent / "results"
        plot(results / "macro_large.json", results / "macro_large.png")
    else:
        _child(sys.argv[1], int(sys.argv[2]), sys.argv[3])
