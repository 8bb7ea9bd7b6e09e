"""Generated RVE meshes are valid and periodic, with the requested phases and volume fractions."""

from itertools import combinations
from math import pi

import numpy as np
import pytest
from pydantic import ValidationError

from femops.errors import CaseError
from femops.meshing import TaggedMesh
from femops.meshing.building import jacobians, measures
from femops.rve.geometry.generators import GENERATORS, generate
from femops.rve.geometry.packing import pack
from femops.validation import first_error

PLANAR = ("triangle", "triangle6", "quad", "quad8", "quad9")
SOLID = ("tetra", "tetra10", "hexahedron")


def made(name: str, **keys) -> TaggedMesh:
    return generate(GENERATORS[name].model_validate(keys))


def circle(*center_and_radius: float, **more) -> dict:
    *center, radius = center_and_radius
    return {"center": center, "radius": radius, **more}


def square(x: float, y: float, half: float) -> list:
    return [[x - half, y - half], [x + half, y - half], [x + half, y + half], [x - half, y + half]]


def points(*several: list) -> dict:
    return {"polygons": [{"points": corners} for corners in several]}


RVE1 = {"circles": [circle(0, 0, 0.2959), circle(0.5, 0.5, 0.2959)]}
RVE2 = {"ellipses": [{"center": [0, 0], "semi_axes": [0.35, 0.175], "angle": 30}]}
RVE3 = {"circles": [circle(-0.25, 0.25, 0.1), circle(0.25, 0.15, 0.15), circle(0, -0.25, 0.1)]}

TURNS = 0.3 + np.arange(10) * pi / 5
STAR = ([0.45, 0.45] + np.tile([[0.08], [0.25]], (5, 1)) * np.stack([np.cos(TURNS), np.sin(TURNS)], 1)).tolist()
ELL = [[-0.35, -0.35], [0.25, -0.35], [0.25, -0.15], [-0.15, -0.15], [-0.15, 0.15], [-0.35, 0.15]]
BAR = [[-0.3, -0.1], [0.3, -0.1], [0.3, 0.1], [-0.3, 0.1]]
CROSSING = {"circles": [circle(0.4, 0.1, 0.2), circle(-0.05, -0.45, 0.2, phase="void")], "size": [1.0, 1.2]}
SPECS = [
    *(("circles", CROSSING | {"mesh_size": 0.1, "cell": cell}) for cell in PLANAR),
    *(("ellipses", {"ellipses": [RVE2["ellipses"][0] | {"center": [0.4, 0.3]}], "mesh_size": 0.1, "cell": cell})
      for cell in PLANAR),
    *(("polygons", {"polygons": [{"points": STAR}, {"points": ELL, "phase": "void"}], "mesh_size": 0.1, "cell": cell})
      for cell in PLANAR),
    *(("random_circles", {"count": 6, "volume_fraction": 0.5, "seed": 1, "mesh_size": 0.1, "cell": cell})
      for cell in PLANAR),
    *(("laminate", {"phases": [["a", 0.3], ["b", 0.7]], "axis": 1, "mesh_size": 0.3, "cell": cell})
      for cell in (*PLANAR, *SOLID)),
    *(("homogeneous", {"dim": 2 if cell in PLANAR else 3, "cells": 3, "cell": cell}) for cell in (*PLANAR, *SOLID)),
    *(("voxels", {"inclusions": [circle(*[0.4] * (2 if cell in PLANAR else 3), 0.3)], "cells": 4, "cell": cell})
      for cell in (*PLANAR, *SOLID)),
    *(("spheres", {"spheres": [{"center": [0.45, 0.45, 0.1], "radius": 0.3}], "mesh_size": 0.25, "cell": cell})
      for cell in SOLID[:2]),
    *(("random_spheres", {"count": 4, "volume_fraction": 0.25, "mesh_size": 0.25, "cell": cell})
      for cell in SOLID[:2]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "keys"), SPECS, ids=lambda value: value if isinstance(value, str) else value["cell"])
def test_opposite_faces_match_and_cells_are_positive(name: str, keys: dict) -> None:
    mesh = made(name, **keys)
    assert mesh.kind.name == keys["cell"]
    low, high = mesh.bounds
    np.testing.assert_allclose(high, 0.5 * np.broadcast_to(keys.get("size", 1.0), mesh.dim), atol=1e-12)
    np.testing.assert_allclose(low, -high, atol=1e-12)
    for axis in range(mesh.dim):
        shift = (high - low) * (np.arange(mesh.dim) == axis)
        left = mesh.points[np.abs(mesh.points[:, axis] - low[axis]) < 1e-9] + shift
        right = mesh.points[np.abs(mesh.points[:, axis] - high[axis]) < 1e-9]
        assert len(left) == len(right) > 0
        assert np.abs(left[:, None, :] - right[None, :, :]).max(-1).min(0).max() < 1e-9
    assert jacobians(mesh.points, mesh.cells, mesh.kind).min() > 0
    assert (mesh.region_of_cell() >= 0).all()


@pytest.mark.parametrize(
    ("name", "keys", "mesh_size", "fraction", "n_cells"),
    [("circles", RVE1, 0.0201, 0.550, 3456), ("ellipses", RVE2, 0.0244, 0.193, 2112),
     ("circles", RVE3, 0.0263, 0.134, 1872)],
)  # fmt: skip
def test_benchmark_rves_have_published_fractions_and_sizes(name, keys, mesh_size, fraction, n_cells) -> None:
    mesh = made(name, mesh_size=mesh_size, **keys)
    assert mesh.kind.name == "quad8"
    assert measures(mesh).sum() == pytest.approx(1.0, rel=1e-12)
    assert measures(mesh)[mesh.regions["fibre"]].sum() == pytest.approx(fraction, rel=0.01)
    assert len(mesh.cells) == pytest.approx(n_cells, rel=0.08)


def test_second_order_interfaces_are_curved() -> None:
    area = {}
    for cell in ("triangle", "triangle6"):
        mesh = made("circles", circles=[circle(0, 0, 0.3)], mesh_size=0.1, cell=cell)
        area[cell] = measures(mesh)[mesh.regions["fibre"]].sum() / (0.09 * pi) - 1.0
    assert abs(area["triangle6"]) < 1e-3 < abs(area["triangle"])


def test_void_leaves_a_hole_cut_at_the_faces() -> None:
    mesh = made("circles", **CROSSING, mesh_size=0.05)
    assert set(mesh.regions) == {"matrix", "fibre"}
    assert measures(mesh).sum() == pytest.approx(1.2 - 0.04 * pi, rel=1e-4)
    assert measures(mesh)[mesh.regions["fibre"]].sum() == pytest.approx(0.04 * pi, rel=1e-4)
    assert np.linalg.norm(mesh.points - [-0.05, -0.45], axis=1).min() == pytest.approx(0.2, rel=1e-3)


def polygons(*several: list, **more) -> TaggedMesh:
    return made("polygons", **points(*several), **{"mesh_size": 0.1, **more})


@pytest.mark.parametrize("cell", PLANAR)
def test_polygons_have_their_area_in_either_direction_and_across_faces(cell: str) -> None:
    x, y = np.array(STAR).T
    area = 0.5 * (x * np.roll(y, -1) - np.roll(x, -1) * y).sum()
    mesh = polygons(STAR, ELL, cell=cell)
    assert measures(mesh)[mesh.regions["fibre"]].sum() == pytest.approx(area + 0.18, rel=1e-12)
    backwards = polygons(STAR[::-1], ELL[::-1], cell=cell)
    assert measures(backwards)[backwards.regions["fibre"]].sum() == pytest.approx(area + 0.18, rel=1e-12)
    shifted = polygons((np.array(STAR) - [1.0, 0.0]).tolist(), ELL, cell=cell)
    np.testing.assert_allclose(shifted.points, mesh.points, atol=1e-12)


def test_a_polygon_with_corners_on_faces_is_cut_there() -> None:
    diamond = [[0.5, -0.2], [0.7, 0.0], [0.5, 0.2], [0.3, 0.0]]
    mesh = polygons(diamond)
    assert measures(mesh)[mesh.regions["fibre"]].sum() == pytest.approx(0.08, rel=1e-12)
    right = mesh.points[np.abs(mesh.points[:, 0] - 0.5) < 1e-9, 1]
    assert np.abs(right - 0.2).min() < 1e-9
    whole = polygons([[x - 0.5, y] for x, y in diamond])
    assert len(mesh.cells) < 1.5 * len(whole.cells)  # not refined where a corner lies on a face


@pytest.mark.parametrize("gap", [0.01, 0.03])
def test_narrow_gaps_between_polygons_are_resolved(gap: float) -> None:
    left, right = (square(side * (0.15 + 0.5 * gap), 0.0, 0.15) for side in (-1, 1))
    mesh = polygons(left, right, cell="triangle", mesh_size=0.1)
    corners = mesh.points[mesh.cells]
    middle = corners.mean(axis=1)
    in_gap = corners[(np.abs(middle[:, 0]) < 0.5 * gap) & (np.abs(middle[:, 1]) < 0.15)]
    assert np.linalg.norm(in_gap - np.roll(in_gap, 1, axis=1), axis=2).max() < 2.5 * gap
    assert len(mesh.cells) < 3000


def test_spheres_at_the_corner_have_their_volume() -> None:
    mesh = made("spheres", spheres=[{"center": [0.5, 0.5, 0.5], "radius": 0.3}], mesh_size=0.2, cell="tetra10")
    assert measures(mesh)[mesh.regions["fibre"]].sum() == pytest.approx(4 / 3 * pi * 0.027, rel=5e-3)


def test_laminate_layers_lie_where_they_are_listed() -> None:
    mesh = made("laminate", phases=[["a", 0.25], ["b", 0.5], ["a", 0.25]], axis=2, mesh_size=0.3, cell="hexahedron")
    assert measures(mesh)[mesh.regions["b"]].sum() == pytest.approx(0.5, rel=1e-12)
    assert np.abs(mesh.points[mesh.cells[mesh.regions["b"]]][..., 2]).max() == pytest.approx(0.25)


def test_same_input_gives_the_same_mesh() -> None:
    keys = {"count": 8, "volume_fraction": 0.5, "seed": 4, "mesh_size": 0.08}
    first = made("random_circles", **keys)
    other = made("random_circles", **(keys | {"seed": 5}))
    again = made("random_circles", **keys)
    np.testing.assert_array_equal(first.points, again.points)
    np.testing.assert_array_equal(first.cells, again.cells)
    assert first.points.shape != other.points.shape or np.abs(first.points - other.points).max() > 1e-3


@pytest.mark.parametrize(
    ("extent", "count", "fraction"), [((1.0, 1.0), 20, 0.4), ((1.0, 2.0), 30, 0.68), ((1.0, 1.0, 1.0), 12, 0.45)]
)
def test_random_packing_keeps_gaps_fraction_and_distance_from_faces(extent, count, fraction) -> None:
    size = np.array(extent)
    centres, radius = pack(size, count, fraction, 0.01, seed=2)
    volume = pi * radius**2 if len(extent) == 2 else 4 / 3 * pi * radius**3
    assert count * volume / size.prod() == pytest.approx(fraction)
    assert (np.abs(centres) <= 0.5 * size).all()
    for one, other in combinations(centres, 2):
        apart = one - other - size * np.rint((one - other) / size)
        assert np.linalg.norm(apart) >= 2 * radius + 0.01 - 1e-12
    touching = np.concatenate([centres - radius, centres + radius]) / size + 0.5
    assert np.abs(touching - np.rint(touching)).min() >= 0.5 / (2 * count) - 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_narrow_gaps_are_meshed_with_valid_cells(seed: int) -> None:
    mesh = made("random_circles", count=20, volume_fraction=0.65, seed=seed, mesh_size=0.1)
    assert measures(mesh)[mesh.regions["fibre"]].sum() == pytest.approx(0.65, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("circles", {"circles": [circle(0, 0, 0.3), circle(0.3, 0, 0.1)]}, r"inclusion 0 at .* and inclusion 1 at"),
        ("circles", {"circles": [circle(0.4, 0, 0.15), circle(-0.4, 0, 0.15)]}, "inclusion 1 .* overlap"),
        ("circles", {"circles": [circle(0, 0, 0.51)]}, "inclusion 0 at .* and its periodic image overlap"),
        ("circles", {"circles": [circle(0.25, 0, 0.25)]}, "touches a face x = const"),
        (
            "ellipses",
            {"ellipses": [{"center": [x, x], "semi_axes": [0.3, 0.05], "angle": a} for x, a in ((0, 0), (0.1, 90))]},
            "inclusion 0 .* and inclusion 1 .* overlap",
        ),
        ("random_circles", {"count": 5, "volume_fraction": 0.92}, "cannot fit into the cell"),
        ("random_circles", {"count": 40, "volume_fraction": 0.88, "min_gap": 0}, "no packing of 40 inclusions"),
        ("laminate", {"phases": [["a", 0.5], ["b", 0.4]]}, "add up to 0.9; expected 1"),
        ("laminate", {"phases": [["a", 1.0]], "axis": 2}, "axis 2 with the 2D cell"),
        ("circles", {"circles": [circle(0, 0, 0.1)], "size": [1, 1, 1]}, "3 lengths for a 2D cell"),
        ("spheres", {"spheres": [{"center": [0, 0, 0], "radius": 0.1}], "matrix": "void"}, "the matrix is void"),
        ("polygons", points(ELL, square(0.2, -0.2, 0.1)), "inclusion 0 at .* and inclusion 1 at .* overlap"),
        ("polygons", points(ELL, square(0.0, 0.4, 0.3)), "inclusion 0 at .* and inclusion 1 at .* overlap"),
        ("polygons", points(square(0, 0, 0.3), square(0, 0, 0.1)), "overlap"),
        ("polygons", points(square(0, 0, 0.1), square(0, 0, 0.3)), "overlap"),
        ("polygons", points(BAR, [[y, x] for x, y in BAR]), "overlap"),
        ("polygons", points(square(-0.2, 0, 0.1), square(0, 0, 0.1)), "overlap"),
        ("polygons", points(square(-0.2, 0, 0.1), [[-0.1, 0], [0, -0.1], [0.1, 0], [0, 0.1]]), "overlap"),
        ("polygons", points([[-0.1, 0], [0, -0.1], [0.1, 0], [0, 0.1]], square(-0.2, 0, 0.1)), "overlap"),
        ("polygons", points(square(0.4, 0, 0.15), square(-0.4, 0, 0.15)), "inclusion 1 .* overlap"),
        ("polygons", points(square(0, 0, 0.55)), "and its periodic image overlap"),
        ("polygons", points(square(0.3, 0, 0.2)), "touches a face x = const"),
        ("polygons", points([[0.1, 0.2], [0.3, 0.3], [0.1, 0.7], [0.0, 0.5], [-0.1, 0.7], [-0.1, 0.3]]), "a face y = "),
        ("polygons", points([[0.3, 0.7], [0.7, 0.3], [0.8, 0.8]]), "touches a corner of the cell"),
        (
            "polygons",
            points(square(0.7, 0, 0.1)),
            "inclusion 0 lies outside the cell, 1 × 1 around the origin; expected at least a part inside",
        ),
    ],
)
def test_impossible_cells_are_refused(name: str, keys: dict, message: str) -> None:
    with pytest.raises(CaseError, match=message):
        made(name, mesh_size=0.1, **keys)


def test_nested_polygons_that_do_not_touch_are_accepted() -> None:
    mesh = polygons(ELL, square(0.1, 0.1, 0.2), mesh_size=0.05)  # their bounding boxes overlap
    assert measures(mesh)[mesh.regions["fibre"]].sum() == pytest.approx(0.18 + 0.16, rel=1e-12)


@pytest.mark.parametrize(
    ("corners", "message"),
    [
        ([[0, 0], [1, 0]], "expected 3 or more entries"),
        ([[0, 0], [0.3, 0.3], [0.3, 0], [0, 0.3]],
         "the edges from corner 0 to 1 and from corner 2 to 3 cross; expected the corners in order around the polygon"),
        ([[0, 0], [0.3, 0], [0.3, 0.3], [0.3, 0.3], [0, 0.3]], "corner 2 lies on the edge from corner 3 to 4"),
        ([[0, 0], [0.1, 0.1], [0.3, 0.3]], "corner 1 lies on the edge from corner 2 to 0; expected corners and edges"),
        ([[0, 0], [0.4, 0], [0.2, 0], [0.2, 0.3]], "corner 2 lies on the edge from corner 0 to 1"),
        ([[0, 0], [0, 0], [0, 0]], "corner 0 lies on the edge from corner 1 to 2"),
    ],
)  # fmt: skip
def test_polygons_that_are_not_simple_are_refused(corners: list, message: str) -> None:
    with pytest.raises(ValidationError) as error:
        made("polygons", **points(ELL, corners), mesh_size=0.1)
    said = str(first_error(error.value))
    assert said.startswith("polygons.1.points: ") and message in said


def test_near_ellipses_that_do_not_touch_are_accepted() -> None:
    ellipses = [{"center": [0, y], "semi_axes": [0.4, 0.05], "angle": 20} for y in (-0.1, 0.1)]
    mesh = made("ellipses", ellipses=ellipses, mesh_size=0.08, cell="triangle6")
    assert measures(mesh)[mesh.regions["fibre"]].sum() == pytest.approx(0.04 * pi, rel=1e-3)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="radius_of"):
        made("circles", circles=[circle(0, 0, 0.1, radius_of=1)], mesh_size=0.1)
