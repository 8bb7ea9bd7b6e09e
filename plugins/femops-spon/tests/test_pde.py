"""SPON's own problems: their spaces, their solutions, and the operators that it learns."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ufl
import yaml
from dolfinx import fem, mesh
from mpi4py import MPI

from femops import load_law
from femops.commands import cli
from femops.devices.torch_library import torch
from femops.errors import CaseError
from femops.inputs.study import load_study
from femops.offline.train import train
from femops.pde.find import make_problem
from femops.pde.levels import free_nodes, interpolation, make_hierarchy
from femops.pde.meshes import Box, at_points, boundary, periodic_images, side
from femops.pde.options import OwnBlock, Problem, problem_block
from femops.pde.problem import PDEProblem
from femops.pde.random_fields import gaussian_field
from femops.pde.residual import residual_load
from femops.pde.solver import PDESolver, draw_inputs
from femops.surrogate import ProblemTask
from femops.surrogate.learning.checkpoint import MemoryCheckpoint
from femops_spon.options import SPONOptions
from femops_spon.pde.operator import Operator, assembled_residual, build_network, load_operator, network_inputs
from femops_spon.pde.training import fit_problem, stored_samples

POISSON = {"pde": "poisson", "cells": 8, "boundary": "random", "length": 0.3}
BEAM = {"pde": "beam", "cells": [8, 4], "shortening": [0.02, 0.05], "load_steps": 2}
NETWORK = {"widths": [4, 6], "layers": [1, 1], "passes": 2, "steps": 30, "batch": 4, "learning_rate": 1e-2}


class Kept(MemoryCheckpoint):
    """A checkpoint in memory that is stopped when it has saved the network so many times."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.left = stop_after

    def save(self, name, arrays):
        super().save(name, arrays)
        if name == "training" and self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def silent(*_):
    pass


def fitted(problem, kept=None, **changes):
    block = {**problem, "samples": {"train": 8, "test": 4}}
    options = SPONOptions.model_validate({**NETWORK, **changes})
    return fit_problem(ProblemTask(Problem.model_validate(block), options, kept or Kept(), silent))


def neumann(options):
    """Poisson's equation with a flux on three sides and zero on the fourth."""
    box = Box((1.0, 1.0), (options.get("cells", 8),) * 2, "triangle")
    space, *coarse = box.spaces(options.get("order", 1))
    u, v = fem.Function(space), ufl.TestFunction(space)
    x = ufl.SpatialCoordinate(space.mesh)
    exact = ufl.sin(x[0]) * ufl.exp(x[1])
    flux = ufl.dot(ufl.grad(exact), ufl.FacetNormal(space.mesh))
    size = fem.Constant(space.mesh, 1.0)
    residual = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx - size * flux * v * ufl.ds
    fixed = side(space.tabulate_dof_coordinates(), 0, 0.0)
    return PDEProblem(
        residual, u, {"size": size}, lambda draws: {"size": np.array(draws.normal())}, fixed, coarse=coarse
    )


def diffusion(options):
    """Diffusion with a random conductivity on a periodic square; one node is pinned."""
    box = Box((1.0, 1.0), (8, 8), "quadrilateral")
    space, *coarse = box.spaces(1)
    cells = fem.functionspace(space.mesh, ("DG", 0))
    u, v, conductivity = fem.Function(space), ufl.TestFunction(space), fem.Function(cells)
    points = space.tabulate_dof_coordinates()
    source = fem.Function(space)
    source.x.array[:] = np.sin(2.0 * np.pi * points[:, 0]) * np.cos(2.0 * np.pi * points[:, 1])
    residual = conductivity * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx - source * v * ufl.dx
    images = periodic_images(box, points, (0, 1))
    pinned = np.flatnonzero(images == images[side(points[:, :2], 0, 0.0)[0]])

    def sample(draws):
        return {"conductivity": np.exp(0.3 * draws.standard_normal(64))}

    return PDEProblem(residual, u, {"conductivity": conductivity}, sample, pinned, image_of=images, coarse=coarse)


def advection():
    """Diffusion with a flow along x, whose stiffness is not symmetric."""
    problem = diffusion({})
    (v,) = problem.residual.arguments()
    return replace(problem, residual=problem.residual + 5.0 * problem.solution.dx(0) * v * ufl.dx)


def wild(problem):
    """An operator with random weights, and samples for it."""
    solver = PDESolver(problem)
    samples = solver.encode(draw_inputs(problem, 3, 5))
    n_features, options = samples.features.shape[1], {**NETWORK, "passes": 2}
    scales = {"features": np.ones(n_features), "features_mean": np.zeros(n_features), "slope": np.ones(1)}
    reference = {name: values[0] for name, values in samples.inputs.items()}
    network = build_network(solver, reference, scales, SPONOptions.model_validate(options))
    parts = {"weights.": network.state_dict(), "scales.": scales, "reference.": reference}
    arrays = {prefix + name: np.asarray(one) for prefix, part in parts.items() for name, one in part.items()}
    arrays |= stored_samples(problem, solver.solve(draw_inputs(problem, 1, 5)), 5)
    return Operator(arrays, {"surrogate": options}, problem), samples


@pytest.mark.parametrize("cell", ["triangle", "quadrilateral"])
@pytest.mark.parametrize("order", [1, 2])
def test_coarse_functions_are_prolonged_exactly(cell, order):
    box = Box((2.0, 1.0), (8, 4), cell)
    spaces = box.spaces(order)
    for fine, coarse in itertools.pairwise(spaces):
        linear = [at_points(one, lambda x: 1.0 + 2.0 * x[:, 0] - 3.0 * x[:, 1]) for one in (fine, coarse)]
        onto = interpolation(coarse, fine.tabulate_dof_coordinates())
        assert np.allclose(onto @ linear[1], linear[0], atol=1e-12)


def test_coarse_cells_average_the_fine_ones():
    fine, coarse = Box((1.0, 1.0), (8, 8), "triangle").spaces(1, fewest=4)
    nobody = np.zeros(81, dtype=bool)
    levels = make_hierarchy(free_nodes(fine, nobody, np.arange(81)), [coarse])
    values = np.random.default_rng(0).random(levels[1].graph.n_nodes)
    seen = [
        np.einsum("cn,cn->c", one.graph.mean, field[one.graph.cells])
        for one, field in zip(levels, (levels[1].prolongation @ values, values), strict=True)
    ]
    assert np.allclose(levels[1].pooling @ seen[0], seen[1], atol=1e-13)


def test_an_unstructured_mesh_of_three_dimensions_has_levels_too():
    coarse = mesh.create_unit_cube(MPI.COMM_SELF, 2, 2, 2)
    coarse.topology.create_entities(1)
    fine = mesh.refine(coarse)[0]
    spaces = [fem.functionspace(one, ("Lagrange", 1)) for one in (fine, coarse)]
    n = spaces[0].dofmap.index_map.size_local
    levels = make_hierarchy(free_nodes(spaces[0], np.zeros(n, dtype=bool), np.arange(n)), spaces[1:])
    assert np.allclose(levels[1].prolongation @ np.ones(levels[1].graph.n_nodes), 1.0)


def test_spaces_that_are_no_subspaces_are_refused():
    spaces = [Box((1.0, 1.0), (n, n), "quadrilateral").spaces(1)[0] for n in (8, 3)]
    with pytest.raises(ValueError, match="expected a subspace of it"):
        make_hierarchy(free_nodes(spaces[0], np.zeros(81, dtype=bool), np.arange(81)), spaces[1:])


@pytest.mark.parametrize("order", [1, 2])
def test_the_solution_of_a_neumann_problem_converges_as_theory_says(order):
    errors = []
    for cells in (8, 16):
        problem = neumann({"cells": cells, "order": order})
        # sin(x) exp(y) vanishes at x = 0 and is harmonic.
        found = PDESolver(problem).solve({"size": np.ones(1)}).solution[0]
        exact = at_points(problem.space, lambda x: np.sin(x[:, 0]) * np.exp(x[:, 1]))
        wrong = found - exact
        errors.append(np.sqrt(wrong @ problem.norms["l2"] @ wrong))
    assert np.log2(errors[0] / errors[1]) > order + 0.9


def test_prescribed_nodes_are_in_no_level():
    levels = make_problem(problem_block(POISSON)).levels
    assert [one.graph.n_nodes for one in levels] == [49, 9, 1]


def test_features_are_the_means_over_each_cell():
    problem = diffusion({})
    conductivity = np.arange(1.0, 65.0)
    assert np.allclose(problem.features({"conductivity": conductivity}), conductivity[None])
    beam = make_problem(problem_block(BEAM))
    modulus = np.arange(1.0, 1.0 + beam.shape_of("modulus")[0])
    found = beam.features({"modulus": modulus, "shortening": np.array(0.25)})
    assert np.allclose(found[0], modulus)
    gradient = [-0.25, 0.0, 0.0, 0.0]  # of the lifting
    assert np.allclose(found[1:], np.array([0.25, *gradient])[:, None])


def test_the_stress_of_the_beam_is_the_neo_hookean_one():
    problem = make_problem(problem_block({**BEAM, "poisson_ratio": 0.25}))
    problem.set_inputs({"modulus": np.full(problem.shape_of("modulus"), 2.0), "shortening": np.array(0.0)})
    points, deformation = problem.space.tabulate_dof_coordinates()[:, :2], np.array([[0.9, 0.2], [-0.1, 1.2]])
    problem.solution.x.array[:] = (points @ (deformation - np.eye(2)).T).ravel()
    forces = fem.assemble_vector(fem.form(problem.residual)).array.reshape(-1, 2)
    inverse, shear, lame = np.linalg.inv(deformation).T, 0.8, 0.8  # of E = 2, ν = 1/4
    stress = shear * (deformation - inverse) + lame * np.log(np.linalg.det(deformation)) * inverse
    assert np.allclose(forces[side(points, 0, 5.0)].sum(axis=0), stress[:, 0], rtol=1e-12)  # the height is 1


def test_random_fields_have_the_covariance_that_they_state():
    rng, points = np.random.default_rng(0), np.array([[0.0, 0.0], [0.3, 0.0], [0.3, 0.4]])
    values = np.array([gaussian_field(rng, 2, 0.3)(points) for _ in range(4000)])
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    assert np.allclose(values.T @ values / len(values), np.exp(-0.5 * (distance / 0.3) ** 2), atol=0.06)


def test_newton_ends_in_equilibrium_with_the_ends_where_they_belong():
    problem = make_problem(problem_block({**BEAM, "load_steps": 7}))  # sevenths are not exact
    solver = PDESolver(problem)
    samples = solver.solve(draw_inputs(problem, 2, 1))
    problem.set_inputs({name: values[1] for name, values in samples.inputs.items()})
    assert np.abs(solver.load(samples.solution[1])).max() < 1e-9 * np.abs(samples.load[1]).max()
    assert np.array_equal(samples.solution[:, problem.fixed], samples.lifting[:, problem.fixed])


def test_a_larger_draw_begins_with_the_same_samples():
    problem = make_problem(problem_block(POISSON))
    few, many = draw_inputs(problem, 2, 3), draw_inputs(problem, 4, 3)
    assert all(np.array_equal(few[name], many[name][:2]) for name in few)


@pytest.mark.parametrize("block", [POISSON, BEAM], ids=["poisson", "beam"])
def test_dirichlet_values_are_exact_whatever_the_weights(block):
    problem = make_problem(problem_block(block))
    operator, samples = wild(problem)
    found = operator.predict(samples)
    assert np.array_equal(found[:, problem.fixed], samples.lifting[:, problem.fixed])
    assert np.abs(found - samples.lifting).max() > 0.0


def test_periodic_images_move_together_whatever_the_weights():
    problem = diffusion({})
    operator, samples = wild(problem)
    found = operator.predict(samples)
    assert np.array_equal(found, found[:, problem.image_of])
    assert found.std() > 0.0


def test_a_linear_operator_is_linear_in_its_load():
    problem = make_problem(problem_block(POISSON))
    operator, samples = wild(problem)
    load, features = network_inputs(samples, 1)
    mixed = 2.0 * load[:1] - 3.0 * load[1:2]
    with torch.no_grad():
        parts, together = operator.network(load, features), operator.network(mixed, features[:1])
    assert torch.allclose(2.0 * parts[:1] - 3.0 * parts[1:2], together, rtol=1e-4, atol=1e-5 * float(parts.std()))


@pytest.mark.parametrize(
    "make", [lambda: make_problem(problem_block(BEAM)), lambda: diffusion({}), lambda: advection()]
)
def test_the_residual_load_vanishes_at_the_solution_and_has_the_derivative_that_it_says(make):
    problem = make()
    solver = PDESolver(problem)
    samples = solver.solve(draw_inputs(problem, 2, 1))
    rows = np.array([1, 0])
    assert assembled_residual(solver, samples, rows) is not None
    residual = residual_load(solver, samples, rows)
    shape = (2, -1, problem.n_components)
    copies = np.maximum(problem.free.T @ np.ones(problem.n_dofs), 1.0)
    exact = ((samples.solution - samples.lifting)[rows] @ problem.free) / copies
    answer = torch.from_numpy(0.9 * exact).reshape(shape).requires_grad_(True)
    assert float(residual(torch.from_numpy(exact).reshape(shape)).abs().max()) < 1e-8 * np.abs(samples.load).max()
    draws = torch.Generator().manual_seed(0)
    seen, along = (torch.randn(answer.shape, generator=draws, dtype=torch.float64) for _ in range(2))
    along = along * float(answer.detach().abs().max())
    (gradient,) = torch.autograd.grad((seen * residual(answer)).sum(), answer)
    step = 1e-5
    ends = [float((seen * residual(answer.detach() + sign * step * along)).sum()) for sign in (1.0, -1.0)]
    assert float((gradient * along).sum()) == pytest.approx((ends[0] - ends[1]) / (2.0 * step), rel=1e-5)


def test_an_answer_that_turns_cells_inside_out_does_not_poison_the_training():
    problem = make_problem(problem_block(BEAM))
    solver = PDESolver(problem)
    samples = solver.encode(draw_inputs(problem, 1, 1))
    n = problem.free.shape[1]
    answer = torch.from_numpy(np.random.default_rng(0).standard_normal((1, n // 2, 2)) * 10.0).requires_grad_(True)
    residual = residual_load(solver, samples, np.array([0]))(answer)
    (gradient,) = torch.autograd.grad(residual.sum(), answer)
    assert bool(torch.isfinite(residual).all()) and bool(torch.isfinite(gradient).all())


def reaction(source, load_steps):
    """Reaction and diffusion in load steps, with a load factor that nobody has set."""
    box = Box((1.0, 1.0), (8, 8), "triangle")
    space, *coarse = box.spaces(1)
    u, v, f = fem.Function(space), ufl.TestFunction(space), fem.Constant(space.mesh, 0.0)
    factor = fem.Constant(space.mesh, 0.0)
    residual = (ufl.inner(ufl.grad(u), ufl.grad(v)) + u**3 * v - factor * f * v) * ufl.dx
    return PDEProblem(
        residual,
        u,
        {"source": f},
        lambda draws: {"source": np.array(source * draws.uniform(1.0, 2.0))},
        boundary(box, space.tabulate_dof_coordinates()),
        coarse=coarse,
        load_factor=factor,
        load_steps=load_steps,
    )


@pytest.mark.parametrize("source", [10.0, 1e-4])
def test_load_steps_end_where_one_step_does_and_are_encoded_under_the_whole_load(source):
    found = []
    for load_steps in (1, 3):
        problem = reaction(source, load_steps)
        solver = PDESolver(problem)
        encoded = solver.encode(draw_inputs(problem, 2, 1))
        assert np.abs(encoded.load).max() > 0.0
        assert np.array_equal(encoded.load, solver.solve(encoded.inputs).load)
        found.append(solver.solve(encoded.inputs).solution)
    assert np.allclose(*found, rtol=1e-8, atol=1e-12 * np.abs(found[0]).max())


def test_a_prescribed_image_holds_its_original():
    problem = diffusion({})
    images = problem.image_of
    image = int(np.flatnonzero(images != np.arange(len(images)))[0])
    held = replace(problem, fixed=np.array([image]))
    assert abs(held.free[[image, images[image]]]).sum() == 0.0


@pytest.mark.parametrize("block", [POISSON, BEAM], ids=["poisson", "beam"])
def test_training_lowers_the_loss_and_reports_errors(block):
    fit = fitted(block, steps=120)
    losses = fit.curves["loss"]["training"]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert fit.metrics["boundary_error"] == 0.0
    assert 0.0 < fit.metrics["error_l2_median"] < 1.0


def test_a_problem_whose_coefficient_varies_is_learned_from_outside_the_plugin():
    fit = fitted({"pde": f"{__name__}:diffusion"}, steps=120)
    assert fit.metrics["error_l2_median"] < 0.3


def test_same_seed_same_operator_and_stored_operators_answer_alike():
    fits = [fitted(POISSON, seed=3, steps=5) for _ in range(2)]
    assert all(np.array_equal(values, fits[1].arrays[name]) for name, values in fits[0].arrays.items())
    operators = [Operator(fit.arrays, fit.settings) for fit in fits]
    inputs = draw_inputs(operators[0].problem, 2, 9)
    assert np.array_equal(*(one.evaluate(inputs) for one in operators))


def written_study(folder, problem=POISSON, **changes):
    small = {**problem, "samples": {"train": 8, "test": 4}}
    (folder / "study.yaml").write_text(
        yaml.safe_dump({"problem": small, "surrogate": {"law": "spon", **NETWORK, **changes}})
    )
    return folder / "study.yaml"


@pytest.mark.parametrize("problem", [POISSON, BEAM], ids=["poisson", "beam"])
def test_an_operator_out_of_its_folder_has_the_errors_that_its_training_reported(tmp_path, problem):
    path = written_study(tmp_path, problem)
    report = train(load_study(path), path, tmp_path / "out", MPI.COMM_SELF)
    operator = load_operator(report.model)
    # The test samples of a study: other random numbers of the same seed.
    reference = operator.solver.solve(draw_inputs(operator.problem, 4, 2 * 1 + 1))
    found = operator.evaluate(reference.inputs)
    mass = operator.problem.norms["l2"]
    sizes = [np.einsum("ni,in->n", one, mass @ one.T) for one in (found - reference.solution, reference.solution)]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["fit"]
    assert np.sqrt(sizes[0] / sizes[1]).mean() == pytest.approx(metrics["error_l2_mean"], rel=1e-6)
    assert metrics["boundary_error"] == 0.0
    assert (tmp_path / "out" / "loss.png").exists()
    assert train(load_study(path), path, tmp_path / "out", MPI.COMM_SELF).found


def test_the_command_line_trains_and_tells_the_errors(tmp_path, capsys):
    path = written_study(tmp_path, steps=3)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", str(path), "--output", str(tmp_path / "out")])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "error l2 median" in said and "use it in a case" not in said
    with pytest.raises(CaseError, match="solves a problem of its own, expected the model of an RVE or a family"):
        load_law(tmp_path / "out" / "model")


def test_inputs_that_do_not_fit_are_told():
    operator, samples = wild(make_problem(problem_block(POISSON)))
    source, data = samples.inputs["source"], samples.inputs["boundary"]
    with pytest.raises(CaseError, match="inputs source given, expected source, boundary"):
        operator.evaluate({"source": source})
    with pytest.raises(CaseError, match=r"boundary: shape \(81,\) given, expected \(3, 81\)"):
        operator.evaluate({"source": source, "boundary": data[0]})
    with pytest.raises(CaseError, match="source: shape"):
        operator.evaluate({"source": source[:, :-1], "boundary": data})


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"smoothing": 3}, "surrogate.smoothing: given"), ({"device": "cuda"}, "surrogate.device: 'cuda' given")],
)
def test_options_that_only_families_have_are_refused_before_anything_is_solved(changes, message):
    kept = Kept()
    with pytest.raises(CaseError, match=message):
        fitted(POISSON, kept, **changes)
    assert not kept.kept


def test_the_studies_that_come_along_are_valid():
    folder = Path(__file__).parents[3] / "cases" / "studies"
    for name in ("poisson", "beam"):
        study = load_study(folder / f"{name}_spon.yaml")
        assert study.problem.root.pde == name


def test_an_interrupted_training_ends_with_the_same_operator():
    whole, kept = fitted(POISSON, steps=120), Kept(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        fitted(POISSON, kept, steps=120)
    kept.left = None
    resumed = fitted(POISSON, kept, steps=120)
    assert all(np.array_equal(values, resumed.arrays[name]) for name, values in whole.arrays.items())


@pytest.mark.parametrize(
    ("block", "key", "words"),
    [
        ({"cells": 8}, "pde", "missing"),
        ({"pde": "heat"}, "pde", "'heat' given, expected poisson, beam"),
        ({"pde": "poisson", "cell": "hexagon"}, "cell", "'triangle' or 'quadrilateral'"),
        ({"pde": "poisson", "sells": 8}, "sells", "unknown key"),
        ({"pde": "poisson", "samples": {"train": 0}}, "samples.train", "greater than 0"),
        ({"pde": "beam", "shortening": [0.3, 0.1]}, "", "0 < smallest <= largest < 0.5"),
    ],
)
def test_bad_blocks_are_told_in_one_line(block, key, words):
    with pytest.raises(CaseError) as raised:
        problem_block(block)
    assert raised.value.key == key and words in str(raised.value)


def test_a_block_survives_being_written_and_read():
    block = Problem.model_validate({**BEAM, "samples": {"train": 3}})
    assert Problem.model_validate(block.model_dump(mode="json")) == block
    assert "BeamBlock" in Problem.model_json_schema()["$defs"]


@pytest.mark.parametrize(
    ("pde", "words"),
    [("no.such:thing", "cannot be imported"), (f"{__name__}:silent", "PDEProblem"), ("math:none", "imported")],
)
def test_functions_that_make_no_problem_are_told(pde, words):
    with pytest.raises(CaseError, match=words):
        make_problem(OwnBlock(pde=pde))


def test_boundary_finds_all_sides():
    points = Box((2.0, 1.0), (4, 2), "triangle").spaces(1)[0].tabulate_dof_coordinates()
    assert len(boundary(Box((2.0, 1.0), (4, 2), "triangle"), points)) == 12
    assert [len(side(points, *one)) for one in ((0, 2.0), (1, 1.0))] == [3, 5]


def test_periodic_images_are_a_period_apart_along_every_axis():
    box = Box((2.0, 1.0), (4, 2), "triangle")
    points = box.spaces(1)[0].tabulate_dof_coordinates()
    images = periodic_images(box, points, (0, 1))
    assert len(np.unique(images)) == 4 * 2
    periods = (points - points[images])[:, :2] / box.size
    assert np.allclose(periods, np.rint(periods))
    assert len(np.unique(periodic_images(box, points, (0,)))) == 4 * 3
