"""Families are reproducible and within their ranges, and their stores agree with the nested law."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import ELASTIC, SATURATING
from pydantic import ValidationError

from femops import CaseError, NotConverged, load_law
from femops.law import LawContext
from femops.offline import family_store
from femops.offline.family_store import FamilyProblem, is_linear, solve_family, solved_family
from femops.rve.family import Family, Microstructure, microstructure
from femops.rve.geometry.generators import GENERATORS, generate
from femops.rve.geometry.voxels import Voxels, phase_of_points, voxel_mesh
from femops.rve.solver import SolverOptions
from femops.rve.spec import build_rve
from femops.validation import first_error

SOFT = {"law": "elastic", "K": 4780.0, "G": 2200.0}
CIRCLES = {"shape": "circles", "number": [1, 6], "volume_fraction": [0.1, 0.5], "spread": 0.3}
ELLIPSES = {**CIRCLES, "shape": "ellipses", "aspect": [1.0, 3.0]}
POLYGONS = {
    **CIRCLES,
    "shape": "polygons",
    "volume_fraction": [0.1, 0.35],
    "corners": [3, 8],
    "irregularity": [0.0, 0.4],
}
SPHERES = {"shape": "spheres", "number": [1, 4], "volume_fraction": [0.1, 0.3], "spread": 0.3}
VOXELS, CONFORMING, BRICKS = {"cells": 16}, {"mesh_size": 0.15}, {"cells": 6}
FAMILY: dict[str, Any] = {
    "count": 5,
    "seed": 1,
    "mesh": VOXELS,
    "inclusions": CIRCLES,
    "phases": {"matrix": SOFT, "fibre": SOFT},
    "contrast": {"fibre": [10.0, 100.0]},
}
KINDS = {
    "circles": {},
    "ellipses": {"inclusions": ELLIPSES},
    "spheres": {"inclusions": SPHERES, "mesh": BRICKS},
    "conforming circles": {"mesh": CONFORMING},
    "conforming ellipses": {"inclusions": ELLIPSES, "mesh": CONFORMING},
    "polygons": {"inclusions": POLYGONS, "mesh": CONFORMING},
}
FINE = {"mesh_size": 0.2, "cell": "triangle6"}  # curved: the area of a circle to 1e-3
WITH_VOIDS: dict[str, Any] = {"inclusions": {**CIRCLES, "voids": [0.0, 1.0]}, "mesh": FINE}
POLYGONAL_VOIDS: dict[str, Any] = {
    "inclusions": {**POLYGONS, "number": [1, 2], "voids": [0.0, 1.0]},
    "mesh": CONFORMING,
}
kinds = pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)


def family(**changes: Any) -> Family:
    return Family.model_validate({**FAMILY, **changes})


def task(one: Family, strain: Any = None, **options: Any) -> FamilyProblem:
    return FamilyProblem(one, LawContext(one.dim), SolverOptions(rtol=1e-10, **options), strain)


def voxels(**keys: Any) -> Voxels:
    return Voxels.model_validate(keys)


def as_mapping(one: Microstructure) -> dict[str, Any]:
    """The microstructure as somebody would write it into a case."""
    return one.parameters.model_dump(mode="json", exclude_none=True)


def inclusions_of(one: Microstructure) -> list[dict[str, Any]]:
    """The inclusions in the order in which they were drawn."""
    generator = next(iter(as_mapping(one).values()))
    return next(value for value in generator.values() if isinstance(value, list))


def volume_of(inclusion: dict[str, Any]) -> float:
    if "points" in inclusion:
        x, y = np.array(inclusion["points"]).T
        return float(0.5 * (x * np.roll(y, -1) - np.roll(x, -1) * y).sum())
    semi_axes = inclusion.get("semi_axes") or [inclusion["radius"]] * len(inclusion["center"])
    return float(np.prod(semi_axes) * (np.pi if len(semi_axes) == 2 else 4 * np.pi / 3))


def is_hole(one: Microstructure) -> np.ndarray:
    return np.array([inclusion["phase"] == "void" for inclusion in inclusions_of(one)])


@pytest.mark.parametrize("changes", [*KINDS.values(), WITH_VOIDS], ids=[*KINDS, "circles with voids"])
def test_a_microstructure_depends_on_seed_and_index_only(changes: dict[str, Any]) -> None:
    few, many, other = family(**changes), family(**changes, count=500), family(**changes, seed=2)
    assert microstructure(few, 4) == microstructure(many, 4)
    assert len({str(as_mapping(microstructure(one, index))) for one in (many, other) for index in (0, 1, 499)}) == 6
    assert few.hash == many.hash != other.hash


@pytest.mark.parametrize(
    ("kind", "hashed", "study", "centre"),
    [
        ("circles", "d5da4cc3ade8c08f", "ab0930853dc002d7", [0.15098411001308665, 0.021344186344082527]),
        (
            "spheres",
            "04c05e979f11c387",
            "e99bb55f206e19a8",
            [-0.07139235999362403, -0.2395919921168116, 0.016674481607392377],
        ),
        ("conforming circles", "887a51e1fddf0f2e", "6b5add896b3deb63", [0.24376087777936828, -0.05124434105634612]),
        ("conforming ellipses", "04a1399f17564c38", "1a082037813257db", [-0.22984208041676601, 0.49302192545868084]),
    ],
)
def test_stores_and_models_of_earlier_versions_stay_valid(kind: str, hashed: str, study: str, centre: Any) -> None:
    block = family(**KINDS[kind])
    one = microstructure(block, 3)
    number, fraction = (4, 0.3204271368417785) if block.dim == 2 else (3, 0.21021356842088923)
    np.testing.assert_allclose(inclusions_of(one)[-1]["center"], centre, rtol=1e-12)
    assert one.contrast["fibre"] == pytest.approx(13.005428115651618, rel=1e-12)
    assert one.volume_fraction == pytest.approx(fraction, rel=1e-12)
    assert (one.number, one.void_fraction) == (number, 0.0)
    assert block.hash.startswith(hashed)
    in_a_study = json.dumps(block.model_dump(mode="json", exclude_none=True), sort_keys=True)
    assert hashlib.sha256(in_a_study.encode()).hexdigest().startswith(study)


@kinds
def test_numbers_volume_fractions_and_contrasts_fill_their_ranges(changes: dict[str, Any]) -> None:
    block = family(**changes)
    drawn = [microstructure(block, index) for index in range(100)]
    low, high = block.inclusions.number
    assert {one.number for one in drawn} == set(range(low, high + 1))
    fractions, factors = np.array([(one.volume_fraction, one.contrast["fibre"]) for one in drawn]).T
    low, high = block.inclusions.volume_fraction
    assert low <= fractions.min() < low + 0.1 * (high - low) and high - 0.1 * (high - low) < fractions.max() <= high
    assert 10.0 <= factors.min() < 12.0 and 85.0 < factors.max() <= 100.0
    assert 20.0 < np.median(factors) < 50.0  # log-uniform: 32, uniform: 55
    for one in drawn[:20]:
        assert pytest.approx(one.contrast["fibre"] * SOFT["K"]) == one.parameters.phases["fibre"].K
        assert pytest.approx(one.contrast["fibre"] * SOFT["G"]) == one.parameters.phases["fibre"].G
        assert SOFT["K"] == one.parameters.phases["matrix"].K


@pytest.mark.parametrize("inclusions", [CIRCLES, ELLIPSES, POLYGONS, SPHERES], ids=lambda one: one["shape"])
def test_voids_take_the_places_of_fibres(inclusions: dict[str, Any]) -> None:
    solid, holed = (family(inclusions={**inclusions, "voids": v}, mesh=CONFORMING) for v in ([0, 0], [0, 1]))
    assert solid.hash == family(inclusions=inclusions, mesh=CONFORMING).hash != holed.hash
    kinds_seen = set()
    for index in range(30):
        one, other = microstructure(holed, index), microstructure(solid, index)
        holes = is_hole(one)
        assert [{**inclusion, "phase": "fibre"} for inclusion in inclusions_of(one)] == inclusions_of(other)
        assert (one.volume_fraction, one.contrast) == (other.volume_fraction, other.contrast)
        assert set(one.parameters.phases) == ({"matrix"} if holes.all() else {"matrix", "fibre"})
        volumes = np.array([volume_of(inclusion) for inclusion in inclusions_of(one)])
        assert one.volume_fraction == pytest.approx(volumes.sum(), rel=1e-12)
        assert one.void_fraction == pytest.approx(volumes[holes].sum(), rel=1e-12)
        kinds_seen.add((bool(holes.any()), bool(holes.all())))
    assert kinds_seen == {(False, False), (True, False), (True, True)}


def test_the_share_of_voids_fills_its_range() -> None:
    five = {**CIRCLES, "number": [5, 5], "volume_fraction": [0.1, 0.2]}
    fixed, drawn = (
        np.array([is_hole(microstructure(family(inclusions={**five, "voids": v}, mesh=CONFORMING), index)).sum()
                  for index in range(100)])
        for v in ([0.2, 0.2], [0.0, 1.0])
    )  # fmt: skip
    assert fixed.mean() == pytest.approx(1.0, abs=0.25)  # standard deviation of the mean 0.09
    assert fixed.var() == pytest.approx(5 * 0.2 * 0.8, rel=0.3)  # binomial
    np.testing.assert_allclose(np.bincount(drawn, minlength=6), 100 / 6, atol=12)  # all numbers equally likely


@pytest.mark.parametrize(
    ("changes", "accuracy"), [(WITH_VOIDS, 2e-3), (POLYGONAL_VOIDS, 1e-12)], ids=["circles", "polygons"]
)
def test_members_with_voids_are_solved_and_stored(changes: dict[str, Any], accuracy: float, tmp_path: Path) -> None:
    found = {}
    for boundary in ("periodic", "kinematic"):
        block = family(**changes, boundary=boundary, count=6)
        solve_family(task(block), tmp_path / boundary)
        found[boundary] = solved_family(block, tmp_path / boundary)
        drawn = [microstructure(block, index) for index in range(6)]
        assert {len(one.parameters.phases) for one in drawn} == {1, 2}
        for name in ("volume_fraction", "void_fraction"):
            exact = [getattr(one, name) for one in drawn]
            np.testing.assert_allclose(found[boundary][name], exact, rtol=accuracy)
        for one, tangent in zip(drawn, found[boundary]["tangent"], strict=True):
            law = load_law({"law": "nested", "rve": as_mapping(one)})
            answer = law.evaluate(np.eye(3), np.zeros((3, law.n_state)), 1.0)
            np.testing.assert_allclose(tangent, answer.stress, rtol=1e-9, atol=1e-6)
    stiffer = found["kinematic"]["tangent"] - found["periodic"]["tangent"]
    assert np.linalg.eigvalsh(stiffer).min() > 0.0
    solid = family(**{**changes, "inclusions": {**changes["inclusions"], "voids": [0, 0]}}, count=6)
    solve_family(task(solid), tmp_path / "solid")
    softened = np.linalg.eigvalsh(solved_family(solid, tmp_path / "solid")["tangent"] - found["periodic"]["tangent"])
    np.testing.assert_array_equal(softened[:, 0] > 0.0, [one.void_fraction > 0.0 for one in drawn])


def test_regular_polygons_become_irregular() -> None:
    compactness, skew = {}, {}
    for irregularity in (0.0, 0.4):
        shape = {"number": [4, 4], "spread": 0.0, "irregularity": [irregularity] * 2}
        block = family(inclusions={**POLYGONS, **shape}, mesh=CONFORMING)
        drawn = [microstructure(block, index) for index in range(50)]
        polygons = [np.array(inclusion["points"]) for one in drawn for inclusion in inclusions_of(one)]
        numbers = np.array([len(points) for points in polygons])
        assert set(numbers) == {3, 4, 5, 6, 7, 8}
        edges = [np.roll(points, -1, axis=0) - points for points in polygons]
        perimeter = np.array([np.linalg.norm(one, axis=1).sum() for one in edges])
        areas = np.array([volume_of({"points": points}) for points in polygons])
        compactness[irregularity] = 4 * np.pi * areas / perimeter**2 / (np.pi / numbers / np.tan(np.pi / numbers))
        diagonals = np.array([points[2:] - points[:2] for points in polygons if len(points) == 4])
        diagonals /= np.linalg.norm(diagonals, axis=2, keepdims=True)
        skew[irregularity] = (diagonals[:, 0] * diagonals[:, 1]).sum(axis=1)
        turned = np.array([np.arctan2(*one[0][::-1]) for one in edges])
        assert np.histogram(turned, 4, (-np.pi, np.pi))[0].min() > 30
    np.testing.assert_allclose(compactness[0.0], 1.0, rtol=1e-12)  # that of the regular polygon
    assert 0.7 < compactness[0.4].mean() < 0.95
    np.testing.assert_allclose(skew[0.0], 0.0, atol=1e-12)
    assert skew[0.4].std() > 0.05  # the angles between corners vary, not only their distances from the centre


@pytest.mark.parametrize("changes", [{"corners": [3, 4], "number": [1, 2]}, {"irregularity": [0.9, 0.99]}])
def test_rough_polygons_and_few_corners_are_meshed_exactly(changes: dict[str, Any]) -> None:
    shape = {**POLYGONS, "volume_fraction": [0.1, 0.2], **changes}
    block = family(inclusions=shape, mesh={"mesh_size": 0.1, "cell": "quad"})
    for index in range(20):
        one = microstructure(block, index)
        rve = build_rve(one.parameters, LawContext(2)).discretisation
        assert rve.volume_fraction(rve.phases.index("fibre")) == pytest.approx(one.volume_fraction, rel=1e-12)


def test_a_family_of_holes_needs_no_fibre() -> None:
    block = family(
        inclusions={**CIRCLES, "voids": [1, 1]}, mesh=FINE, phases={"matrix": SOFT}, contrast={"matrix": [2, 3]}
    )
    one = microstructure(block, 0)
    assert one.void_fraction == one.volume_fraction
    rve = build_rve(one.parameters, LawContext(2)).discretisation
    assert rve.phases == ("matrix",)
    assert 1.0 - rve.volume_fraction(0) == pytest.approx(one.void_fraction, rel=2e-3)


@pytest.mark.parametrize("inclusions", [CIRCLES, ELLIPSES, SPHERES], ids=lambda one: one["shape"])
def test_inclusions_do_not_overlap_and_fill_the_volume_fraction(inclusions: dict[str, Any]) -> None:
    block = family(inclusions=inclusions)
    line = (np.arange(n := 300 if block.dim == 2 else 40) + 0.5) / n - 0.5
    points = np.stack(np.meshgrid(*[line] * block.dim), axis=-1).reshape(-1, block.dim)
    for index in range(5):
        one = microstructure(block, index)
        covered = phase_of_points(one.parameters.voxels, points).mean()
        assert covered == pytest.approx(one.volume_fraction, abs=5e-4 if block.dim == 2 else 3e-3)


def test_dense_and_many_inclusions_are_packed_apart() -> None:
    block = family(inclusions={**CIRCLES, "number": [12, 12], "volume_fraction": [0.65, 0.66], "min_gap": 0.005})
    spec = microstructure(block, 0).parameters.voxels
    centres, radii = (
        np.array([one.center for one in spec.inclusions]),
        np.array([one.radius for one in spec.inclusions]),
    )
    apart = centres[:, None] - centres
    distance = np.linalg.norm(apart - np.rint(apart), axis=-1) - radii - radii[:, None]
    assert distance[~np.eye(12, dtype=bool)].min() >= 0.005 - 1e-12


@kinds
def test_every_microstructure_can_be_built(changes: dict[str, Any]) -> None:
    block = family(**changes)
    for index in range(4):
        one = microstructure(block, index)
        rve = build_rve(one.parameters, LawContext(block.dim)).discretisation
        meshed = rve.volume_fraction(rve.phases.index("fibre"))
        assert meshed == pytest.approx(one.volume_fraction, abs=0.05 if block.mesh.cells else 0.02)


@kinds
def test_a_solved_family_holds_the_tangents_of_the_nested_law(changes: dict[str, Any], tmp_path: Path) -> None:
    block = family(**changes, count=2)
    report = solve_family(task(block), tmp_path)
    found = solved_family(block, tmp_path)
    assert (report.found, report.solved, len(found["tangent"])) == (0, 2, 2)
    for index in range(2):
        one = microstructure(block, index)
        law = load_law({"law": "nested", "rve": as_mapping(one)}, dim=block.dim)
        unit = np.eye(found["tangent"].shape[1])
        answer = law.evaluate(unit, np.zeros((len(unit), law.n_state)), 1.0)
        np.testing.assert_allclose(found["tangent"][index], answer.stress, rtol=1e-9, atol=1e-6)
        assert ("stress_33" in found) == (block.dim == 2)
        if block.dim == 2:
            np.testing.assert_allclose(found["stress_33"][index], answer.stress_33, rtol=1e-9, atol=1e-6)
        assert found["number"][index] == one.number
        assert found["contrast/fibre"][index] == one.contrast["fibre"]
        assert found["volume_fraction"][index] == pytest.approx(one.volume_fraction, abs=0.05)


def test_phases_that_are_not_linear_are_solved_at_strains_of_each_microstructure(tmp_path: Path) -> None:
    block = family(phases={"matrix": SATURATING, "fibre": ELASTIC}, contrast={}, count=2)
    assert not is_linear(block) and is_linear(family())
    with pytest.raises(CaseError, match="sampling: missing, expected with phases that are not linear"):
        solve_family(task(block), tmp_path)
    strain = np.random.default_rng(0).uniform(-0.03, 0.03, (2, 3, 3))
    solve_family(task(block, strain), tmp_path)
    found = solved_family(block, tmp_path)
    np.testing.assert_array_equal(found["strain"], strain)
    for index in range(2):
        law = load_law({"law": "nested", "rve": as_mapping(microstructure(block, index)), "solver": {"rtol": 1e-12}})
        answer = law.evaluate(strain[index], np.zeros((3, law.n_state)), 1.0)
        for name in ("stress", "tangent", "stress_33"):
            values = getattr(answer, name)
            np.testing.assert_allclose(found[name][index], values, atol=1e-7 * np.abs(values).max())
    with pytest.raises(CaseError, match="2 microstructures solved at other strains are there"):
        solve_family(task(block, 2.0 * strain), tmp_path)
    with pytest.raises(NotConverged, match=r"microstructure 1: .* did not converge in 1 iterations"):
        solve_family(task(block, strain * [[[1e-9]], [[1.0]]], max_iter=1), tmp_path / "few")


def test_a_microstructure_that_was_never_written_is_refused_and_solved_anew(tmp_path: Path) -> None:
    report = solve_family(task(family()), tmp_path)
    whole = solved_family(family(), tmp_path)
    with h5py.File(report.file, "r+") as store:
        for name in whole:
            store[name][2] = 0
    with pytest.raises(CaseError, match="2 microstructures are there, expected 5"):
        solved_family(family(), tmp_path)
    again = solve_family(task(family()), tmp_path)
    assert (again.found, again.solved) == (2, 3)
    for name, values in solved_family(family(), tmp_path).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-12, atol=1e-8)


def test_a_stopped_run_goes_on_and_a_larger_count_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved: list[int] = []
    solve = family_store._solve
    monkeypatch.setattr(family_store, "_solve", lambda one, index: solved.append(index) or solve(one, index))

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve_family(task(family()), tmp_path, stop)
    (tmp_path / ".partial-microstructures-000000003.h5").write_bytes(b"cut")
    with pytest.raises(CaseError, match="3 microstructures are there, expected 5"):
        solved_family(family(), tmp_path)
    report = solve_family(task(family()), tmp_path)
    assert (report.found, report.solved) == (3, 2)
    assert [file.name for file in tmp_path.iterdir()] == ["microstructures.h5"]
    five = solved_family(family(), tmp_path)
    report = solve_family(task(family(count=6)), tmp_path)
    assert (report.found, report.solved, solved) == (5, 1, [0, 1, 2, 3, 4, 5])
    for name, values in solved_family(family(), tmp_path).items():
        np.testing.assert_array_equal(values, five[name])
    solve_family(task(family(count=6)), tmp_path / "at once")
    for name, values in solved_family(family(count=6), tmp_path / "at once").items():
        np.testing.assert_allclose(solved_family(family(count=6), tmp_path)[name], values, rtol=1e-12, atol=1e-8)
    with pytest.raises(CaseError, match="holds microstructures of another family"):
        solve_family(task(family(seed=2)), tmp_path)


RANKS = """
import sys
from pathlib import Path
from mpi4py import MPI
from femops.law import LawContext
from femops.rve.family import Family
from femops.offline.family_store import FamilyProblem, solve_family
from femops.rve.solver import SolverOptions
family = Family.model_validate(eval(sys.argv[1]))
context = LawContext(family.dim, comm=MPI.COMM_WORLD)
solve_family(FamilyProblem(family, context, SolverOptions(rtol=1e-10)), Path(sys.argv[2]))
"""


@pytest.mark.mpi
def test_two_ranks_store_what_one_stores(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "mpirun"), "-n", "2", sys.executable, "-c", RANKS, repr(FAMILY)]
    done = subprocess.run([*command, str(tmp_path / "two")], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    solve_family(task(family()), tmp_path / "one")
    one, two = (solved_family(family(), tmp_path / name) for name in ("one", "two"))
    assert set(one) == set(two)
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=1e-12, atol=1e-8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mesh": {}}, "mesh: expected exactly one of cells (a grid) and mesh_size"),
        ({"mesh": {"cells": 8, "cell": "tetra"}}, "mesh.cell: 'tetra' given with circles, expected a 2D cell"),
        ({"inclusions": SPHERES, "mesh": {"mesh_size": 0.2, "cell": "hexahedron"}},
         "mesh.cell: 'hexahedron' given with spheres, expected a tetrahedron"),
        ({"inclusions": {**CIRCLES, "number": [3, 1]}},
         "inclusions.number: [3, 1] given, expected [lowest, highest], 1 or more"),
        ({"inclusions": {**CIRCLES, "volume_fraction": [0.0, 0.5]}},
         "inclusions.volume_fraction: [0.0, 0.5] given, expected [lowest, highest], above 0 and below 1"),
        ({"inclusions": {**CIRCLES, "aspect": [1, 2]}},
         "inclusions.aspect: expected with shape ellipses, and only there"),
        ({"inclusions": {**CIRCLES, "min_gap": 0.0}, "mesh": CONFORMING},
         "inclusions.min_gap: 0 given, expected a positive number, since these meshes follow the inclusions"),
        ({"phases": {"matrix": SOFT}}, "phases: matrix given, expected matrix and fibre"),
        ({**WITH_VOIDS, "phases": {"matrix": SOFT}}, "phases: matrix given, expected matrix and fibre"),
        ({"inclusions": {**CIRCLES, "voids": [0.0, 0.5]}},
         "inclusions.voids: [0.0, 0.5] given with mesh.cells, but a grid has no holes; expected mesh.mesh_size"),
        ({"inclusions": {**CIRCLES, "voids": [0.5, 1.1]}},
         "inclusions.voids: [0.5, 1.1] given, expected [lowest, highest], from 0 to 1"),
        ({"inclusions": {**CIRCLES, "voids": [0.5, 0.4]}},
         "inclusions.voids: [0.5, 0.4] given, expected [lowest, highest], from 0 to 1"),
        ({"inclusions": POLYGONS}, "inclusions.shape: 'polygons' given with mesh.cells, expected mesh.mesh_size"),
        ({"inclusions": {**POLYGONS, "corners": None}},
         "inclusions.corners: expected with shape polygons, and only there"),
        ({"inclusions": {**CIRCLES, "irregularity": [0, 0.1]}},
         "inclusions.irregularity: expected with shape polygons, and only there"),
        ({"inclusions": {**POLYGONS, "corners": [2, 5]}},
         "inclusions.corners: [2, 5] given, expected [lowest, highest], 3 or more"),
        ({"inclusions": {**POLYGONS, "irregularity": [0.5, 1.0]}},
         "inclusions.irregularity: [0.5, 1.0] given, expected [lowest, highest], from 0 to below 1"),
        ({**WITH_VOIDS, "boundary": "static"}, "boundary: 'static' given, but voids may reach the faces of the RVE"),
        ({"phases": {"matrix": SOFT, "fibre": {**SOFT, "nu": 0.3}}}, "phases.fibre: expected K and G, or E and nu"),
        ({"phases": {"matrix": SATURATING, "fibre": SOFT}, "contrast": {"matrix": [1, 2]}},
         "contrast.matrix: expected the name of an elastic phase"),
        ({"contrast": {"fibre": [0.0, 2.0]}}, "contrast.fibre: [0.0, 2.0] given, expected [lowest, highest], above 0"),
        ({"size": [1.0, 1.0, 1.0]}, "size: 3 lengths for a 2D cell"),
    ],
)  # fmt: skip
def test_families_that_make_no_sense_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        family(**changes)
    assert str(first_error(error.value)).startswith(said)


def test_families_that_cannot_be_packed_or_resolved_say_so(tmp_path: Path) -> None:
    long = family(inclusions={**ELLIPSES, "number": [1, 1], "aspect": [30.0, 40.0]})
    for hopeless in (long, family(inclusions={**CIRCLES, "number": [80, 90]}, mesh={"cells": 4})):
        with pytest.raises(CaseError, match=r"family.inclusions: 100 draws gave no .* expected a smaller volume_frac"):
            solve_family(task(hopeless), tmp_path)


def test_voxels_take_the_phase_of_periodic_images_and_the_last_inclusion_wins() -> None:
    spec = voxels(cells=[8, 4], size=[2.0, 1.0], inclusions=[{"center": [0.9, 0.4], "radius": 0.4}])
    mesh = voxel_mesh(spec)
    inside = np.zeros((4, 8), dtype=bool)
    inside.flat[mesh.regions["fibre"]] = True
    x, y = np.meshgrid((np.arange(8) + 0.5) / 4 - 1.0, (np.arange(4) + 0.5) / 4 - 0.5)
    dx, dy = x - 0.9, y - 0.4
    expected = np.hypot(dx - 2 * np.rint(dx / 2), dy - np.rint(dy)) < 0.4
    np.testing.assert_array_equal(inside, expected)
    assert expected[:, 0].any() and expected[0].any() and expected.sum() < 16
    large, small = {"center": [0.0, 0.0], "radius": 0.4}, {"center": [0.0, 0.0], "radius": 0.2, "phase": "core"}
    assert set(generate(voxels(cells=16, inclusions=[large, small])).regions) == {"matrix", "fibre", "core"}
    with pytest.raises(CaseError, match="phase 'core' has no volume"):
        generate(voxels(cells=16, inclusions=[small, large]))


def test_a_shift_by_whole_voxels_moves_the_phases_and_keeps_the_tangent() -> None:
    first = {"center": [0.1, 0.2], "semi_axes": [0.35, 0.15], "angle": 35.0}
    tangents, maps = [], []
    for shift in (0.0, 0.25):
        spec = {"cells": 8, "inclusions": [{**first, "center": [0.1 + 3 * shift, 0.2 - shift]}]}
        phase = np.zeros(64, dtype=int)
        phase[voxel_mesh(voxels(**spec)).regions["fibre"]] = 1
        maps.append(phase.reshape(8, 8))
        tangents.append(tangent_of(2, voxels=spec))
    np.testing.assert_array_equal(np.roll(maps[0], (-2, 6), axis=(0, 1)), maps[1])
    np.testing.assert_allclose(tangents[1], tangents[0], rtol=1e-10, atol=1e-6)


def tangent_of(dim: int, **source: Any) -> Any:
    law = load_law({"law": "nested", "rve": {**source, "phases": {"matrix": SOFT, "fibre": ELASTIC}}}, dim=dim)
    return law.evaluate(np.zeros((1, 3 * dim - 3)), np.zeros((1, law.n_state)), 1.0).tangent[0]


def test_voxels_that_make_layers_are_the_laminate() -> None:
    flat = [{"center": [0.0, 0.0], "semi_axes": [10.0, 0.25]}]
    layers = {"phases": [["matrix", 0.25], ["fibre", 0.5], ["matrix", 0.25]], "axis": 1, "mesh_size": 0.125}
    found = tangent_of(2, voxels={"cells": 8, "inclusions": flat})
    np.testing.assert_allclose(found, tangent_of(2, laminate={**layers, "cell": "quad"}), rtol=1e-10, atol=1e-6)
    spheres = [{"center": [x, 0.25, z], "radius": 0.2} for x in (-0.25, 0.25) for z in (-0.25, 0.25)]
    layers = {"phases": [["matrix", 0.5], ["fibre", 0.5]], "axis": 1, "mesh_size": 0.5, "cell": "hexahedron"}
    found = tangent_of(3, voxels={"cells": 2, "inclusions": spheres})
    np.testing.assert_allclose(found, tangent_of(3, laminate=layers), rtol=1e-10, atol=1e-6)


@pytest.mark.parametrize("centre", [(0.0, 0.0), (0.5, 0.48)], ids=["inside", "cut by the faces"])
def test_a_polygon_of_many_corners_acts_like_a_circle(centre: tuple[float, float]) -> None:
    turns = np.arange(48) * np.pi / 24 + 0.1
    radius = 0.3 * np.sqrt(np.pi / 24 / np.sin(np.pi / 24))  # of equal area
    points = (centre + radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)).tolist()
    mesh = {"mesh_size": 0.05, "cell": "quad8"}
    circle = tangent_of(2, circles={**mesh, "circles": [{"center": [0.0, 0.0], "radius": 0.3}]})
    found = tangent_of(2, polygons={**mesh, "polygons": [{"points": points}]})
    np.testing.assert_allclose(found, circle, atol=2e-4 * circle.max())


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"inclusions": [{"center": [0, 0]}]}, "expected exactly one of radius"),
        ({"inclusions": [{"center": [0, 0], "radius": 0.1, "semi_axes": [1, 1]}]}, "expected exactly one of radius"),
        ({"inclusions": [{"center": [0, 0, 0], "semi_axes": [1, 1]}]}, "expected two, or a radius"),
        ({"inclusions": [{"center": [0, 0], "radius": 0.1, "phase": "void"}]}, "voxels make no holes"),
        ({"matrix": "void"}, "voxels make no holes"),
        ({"inclusions": [{"center": [0, 0], "radius": 0.01}]}, "phase 'fibre' has no volume; the cell has matrix"),
        ({"inclusions": [{"center": [0, 0], "radius": 0.8}]}, "phase 'matrix' has no volume; the cell has fibre"),
        ({"inclusions": [{"center": [0, 0], "radius": 0.2}, {"center": [0, 0, 0], "radius": 0.2}]}, "are mixed"),
        ({"cell": "hexahedron"}, "cell 'hexahedron' with 2D inclusions; expected a 2D cell"),
        ({"cells": [4, 4, 4]}, "3 cell counts; expected 2"),
        ({"size": [1.0]}, "1 lengths for a 2D cell"),
    ],
)
def test_voxels_that_make_no_sense_are_refused(keys: dict[str, Any], said: str) -> None:
    sound = {"cells": 8, "inclusions": [{"center": [0, 0], "radius": 0.3}]}
    with pytest.raises((CaseError, ValidationError), match=said):
        generate(GENERATORS["voxels"].model_validate({**sound, **keys}))
