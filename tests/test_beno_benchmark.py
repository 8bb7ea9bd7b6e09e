"""The benchmark of networks on varying shapes: its baselines, its data, its driver, and runs that are interrupted."""

import json

import numpy as np
import pytest
from benchmarks import beno_poisson, harness
from benchmarks.beno_baselines import FNO, DeepONet, GraphNetwork, Raster
from benchmarks.beno_data import CORNERS, UNSEEN, problems
from benchmarks.beno_poisson import Candidate, Sizes, multigrid, network, relative_error
from rich.console import Console

from femops.devices.torch_library import torch
from femops_beno.contour import Contours

# Network, cells along a side, learning rate, steps.
BASELINES = {
    "graph_network": (GraphNetwork, 8, 5e-4, 80),
    "fno": (FNO, 32, 3e-3, 40),
    "deeponet": (DeepONet, 32, 1e-3, 30),
}


def prepared(name, count):
    make, cells, *_ = BASELINES[name]
    torch.manual_seed(0)
    model = make()
    systems = [problems(shape, cells, count, 0) for shape in (*CORNERS, UNSEEN)]
    systems = [one for group in zip(*systems, strict=True) for one in group]
    encoded = [model.encode(one) for one in systems]
    model.standardise(encoded)
    return model, systems, encoded


@pytest.mark.parametrize("name", BASELINES)
def test_a_batch_equals_single_problems(name):
    model, _, encoded = prepared(name, 1)
    with torch.no_grad():
        single = torch.cat([model(model.join([one])) for one in encoded])
        torch.testing.assert_close(model(model.join(encoded)), single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_learns_sixteen_problems_and_has_their_boundary_values(name):
    model, systems, encoded = prepared(name, 3)
    systems = systems[:16]
    batch = model.join(encoded[:16])
    *_, rate, steps = BASELINES[name]
    optimiser = torch.optim.Adam(model.parameters(), rate)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        values = model(batch)
        loss = model.loss(batch, values)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    nothing = torch.from_numpy(np.concatenate([one.lifting for one in systems])).float()
    assert losses[-1] < 0.7 * model.loss(batch, nothing)
    parts = np.split(values.detach().numpy(), np.cumsum([len(one.source) for one in systems])[:-1])
    direct = []
    for one, part in zip(systems, parts, strict=True):
        np.testing.assert_allclose(part[one.prescribed], one.lifting[one.prescribed], rtol=1e-5)
        direct.append(np.linalg.norm(part - one.solution) / np.linalg.norm(one.solution))
    assert losses[-1] == pytest.approx(np.mean(direct), rel=1e-4)


def test_a_grid_with_cut_corners_is_rasterised_exactly():
    system = problems("corners_3", 32, 1, 0)[0]
    raster = Raster.of(system.mesh, 32)
    assert raster.inside.sum() == len(system.source)
    np.testing.assert_array_equal(raster.nearest[raster.cell], np.arange(len(system.source)))
    fine = problems("corners_3", 64, 1, 0)[0]
    assert np.allclose(32 * fine.mesh.points[Raster.of(fine.mesh, 32).nearest] % 1.0, 0.0, atol=0.51)
    assert FNO().encode(fine).raster.points == 65


def test_the_fourier_operator_sees_the_same_boundary_on_finer_grids():
    seen = []
    torch.manual_seed(0)
    model = FNO()
    model.network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    for cells in (32, 64):
        encoded = model.encode(problems("corners_0", cells, 1, 0)[0])
        with torch.no_grad():
            assert model(model.join([encoded])).isfinite().all()
    marks = [channels[0, 2].sum() / (channels.shape[-1] - 1) ** 2 for channels in seen]
    assert marks[0] == marks[1] == 4 / 32


def test_problems_are_solved_and_differ_in_shape():
    for shape, loops in [*((name, (1,)) for name in CORNERS), (UNSEEN, (2, 3))]:
        one, other = problems(shape, 16, 2, 5)
        assert len(Contours.of(one.mesh).loops) in loops
        residual = one.source_load - np.where(one.prescribed, 0.0, one.stiffness @ one.solution)
        assert np.linalg.norm(residual) < 1e-10 * np.linalg.norm(one.source)
        np.testing.assert_array_equal(one.solution[one.prescribed], one.lifting[one.prescribed])
        assert relative_error(one, 1.1 * one.solution) == pytest.approx(0.1)
        larger = one.scaled(10)
        np.testing.assert_allclose(larger.solved().solution, larger.solution, rtol=1e-9)
        assert shape == "corners_0" or not np.array_equal(one.mesh.points, other.mesh.points)


def test_multigrid_reaches_its_tolerances():
    found = multigrid({}, Sizes(0, 1, 1, 1, 1))
    for kind in ("", f"{UNSEEN}_", "fine_"):
        errors = [found[f"error_{kind}{tolerance}"] for tolerance in ("1e-02", "1e-04", "1e-08")]
        assert errors[0] < 1e-2 and errors[1] < 1e-4 and errors[2] < 1e-7
        assert found[f"seconds_{kind}setup"] > 0.0


def test_a_network_is_trained_for_the_time_and_judged():
    found = network(Candidate(DeepONet, 4, 1e-3), {"seconds": "2"}, Sizes(8, 2, 1, 1, 1))
    assert found["error_after_100"] < 1.0 and 0.0 < found["error_mean"] < 1.0
    classes = [*CORNERS, UNSEEN, *(f"fine_{name}" for name in CORNERS), "scaled_1", "scaled_10", "scaled_1000"]
    assert all(np.isfinite(found[f"error_{name}"]) for name in classes)
    assert found["error_mean"] == pytest.approx(np.mean([found[f"error_{name}"] for name in CORNERS]))
    assert found["seconds_sample_1"] > 0.0 and found["seconds_sample_64"] > 0.0 and found["steps"] > 5
    assert set(beno_poisson.PROBLEMS) == {"multigrid", *beno_poisson.MODELS}


def test_an_interrupted_run_continues(tmp_path, monkeypatch):
    ran = []

    def child(name, problem, options):
        if problem == "second" and not ran.count("second") and "retry" not in ran:
            raise KeyboardInterrupt
        ran.append(problem)
        return {"value": 1.0}

    monkeypatch.setattr(harness, "HERE", tmp_path)
    monkeypatch.setattr(harness, "_problem_names", lambda name: ["first", "second"])
    monkeypatch.setattr(harness, "_run_child", child)
    with pytest.raises(KeyboardInterrupt):
        harness.run_benchmark("toy", [], {"seconds": "1"}, Console(quiet=True))
    ran.append("retry")
    harness.run_benchmark("toy", [], {"seconds": "1"}, Console(quiet=True))
    assert ran == ["first", "retry", "second"]
    assert list(json.loads((tmp_path / "results" / "toy.json").read_text())["problems"]) == ["first", "second"]
    assert [file.name for file in (tmp_path / "results").iterdir()] == ["toy.json"]
    harness._write(tmp_path / "results" / "toy.part.json", {"origin": {"options": {}}, "problems": {"first": {}}})
    harness.run_benchmark("toy", [], {"seconds": "2"}, Console(quiet=True))
    assert ran[-2:] == ["first", "second"]
