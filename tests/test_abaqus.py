"""Reading of Abaqus input files: instances, sets and surfaces of assemblies, reference points, unsupported content."""

from pathlib import Path

import numpy as np
import pytest
from helpers import box_problem

from femops.errors import CaseError
from femops.meshing import TaggedMesh
from femops.meshing.building import measures
from femops.meshing.reading import read_mesh

CUBE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1.0]])
EDGES = [(1, 2), (2, 3), (3, 1), (1, 4), (2, 4), (3, 4)]
# A bar of length 2 and height 1, and its sets as an assembly names them.
BAR = """*Part, name=Bar
*Node
1, 0., 0.
2, 2.
3, 2., 1.
4, , 1.
*Element, type=CPE4
1, 1, 2, 3, 4
*Elset, elset=Steel
1
*Solid Section, elset=Steel, material=Mat
,
*End Part
*Assembly, name=Assembly
*Instance, name=Bar-1, part=Bar
{placed}*End Instance
{assembly}*Nset, nset=LeftEnd, instance=Bar-1
1, 4
*Nset, nset=RightEnd, instance=Bar-1
2, 3
*Nset, nset=Floor
Bar-1.1, Bar-1.2
*End Assembly
"""
STRETCHED = {"material": {"law": "elastic", "E": 1000.0, "nu": 0.0}, "mesh": {"file": "m.inp"}}
UPRIGHT = {
    "supports": {"LeftEnd": {"uy": 0.0}, "Floor": {"ux": 0.0}},
    "loads": {"RightEnd": {"displacement": {"uy": 0.02}}},
}


def read(folder: Path, text: str) -> TaggedMesh:
    (folder / "m.inp").write_text(text)
    return read_mesh(folder / "m.inp")


def nodes(points: np.ndarray, first: int = 1) -> str:
    return "*Node\n" + "".join(f"{first + i}, {', '.join(map(str, x))}\n" for i, x in enumerate(points))


def part(name: str, points: np.ndarray, element: str, more: str = "") -> str:
    numbers = ", ".join(str(i + 1) for i in range(len(points)))
    section = "*Elset, elset=Bulk\n1\n*Solid Section, elset=Bulk, material=m\n,\n"
    return f"*Part, name={name}\n{nodes(points)}*Element, type={element}\n1, {numbers}\n{section}{more}*End Part\n"


def corners(mesh: TaggedMesh, name: str) -> np.ndarray:
    return mesh.points[np.unique(mesh.boundaries[name])]


def test_a_rotated_instance_is_solved_where_it_lies(tmp_path: Path) -> None:
    text = BAR.format(placed="0., 0., 0.\n0., 0., 0., 0., 0., 1., 90.\n", assembly="")
    mesh = read(tmp_path, text)
    np.testing.assert_allclose(mesh.bounds, [[-1, 0], [0, 2]], atol=1e-12)
    problem = box_problem("quadrilateral", tmp_path, **STRETCHED, **UPRIGHT)
    problem.solve(1.0, 1.0)
    assert problem.reaction_on("RightEnd")[1] == pytest.approx(1000.0 * 0.02 / 2.0, rel=1e-10)


def test_three_instances_of_two_parts_are_translated_first_and_rotated_then(tmp_path: Path) -> None:
    tip = "*Nset, nset=Tip\n2, 3, 6, 7\n"
    slab = CUBE * [2, 1, 1]
    mesh = read(
        tmp_path,
        part("Cube", CUBE, "C3D8", tip)
        + part("Slab", slab, "C3D8R")
        + "*Assembly, name=A\n"
        + "*Instance, name=One, part=cube\n*End Instance\n"
        + "*Instance, name=Long, part=Slab\n1., 0., 0.\n*End Instance\n"
        # A third of a turn about the diagonal through the origin: (x, y, z) -> (z, x, y).
        + "*Instance, name=Two, part=Cube\n0., 0., 5.\n0., 0., 0., 2., 2., 2., 120.\n*End Instance\n"
        + "*Nset, nset=Far, instance=Two\nTip\n*End Assembly\n",
    )
    assert measures(mesh).tolist() == pytest.approx([1.0, 2.0, 1.0])
    moved = (CUBE + np.array([0, 0, 5]))[:, [2, 0, 1]]
    expected = np.vstack([CUBE, slab + np.array([1, 0, 0]), moved])
    np.testing.assert_allclose(mesh.points, expected, atol=1e-14)
    assert {name: len(cells) for name, cells in mesh.regions.items()} == {"Cube.Bulk": 2, "Slab.Bulk": 1}
    end = moved[[1, 2, 5, 6]]
    np.testing.assert_allclose(corners(mesh, "Far"), end, atol=1e-14)
    np.testing.assert_allclose(corners(mesh, "One.Tip")[:, 0], 1.0)
    assert len(mesh.boundaries["Tip"]) == 2
    assert mesh.notes[0] == (
        "sets of the same name in several instances are merged: Tip; those of one instance: One.Tip, Two.Tip"
    )
    assert "the mesh consists of 3 disconnected parts (instance One: 1 cell of Cube.Bulk" in mesh.notes[1]


def test_one_name_for_sets_of_cells_and_of_facets_is_a_region_and_a_boundary(tmp_path: Path) -> None:
    skin = "*Element, type=M3D4, elset=Skin\n2, 5, 6, 7, 8\n*Elset, elset=Bulk\n2\n*Membrane Section, elset=Bulk\n1.\n"
    lower = part("Low", CUBE, "C3D8").replace("elset=Bulk", "elset=_PickedSet2")
    upper = f"*Part, name=Up\n{nodes(CUBE)}*Element, type=C3D8, elset=Core\n1, 1, 2, 3, 4, 5, 6, 7, 8\n"
    upper += f"*Solid Section, elset=Core, material=m\n,\n{skin}*End Part\n"
    placed = "*Assembly, name=A\n*Instance, name=L, part=Low\n*End Instance\n"
    placed += "*Instance, name=U, part=Up\n0., 0., 1.\n*End Instance\n*End Assembly\n"
    mesh = read(tmp_path, lower + upper + placed)
    # A section of Abaqus/CAE names a set of its own making: a region all the same.
    assert {name: len(cells) for name, cells in mesh.regions.items()} == {"_PickedSet2": 1, "Core": 1}
    np.testing.assert_allclose(corners(mesh, "Bulk")[:, 2], 2.0)
    mesh = read(tmp_path, lower.replace("_PickedSet2", "Bulk") + upper + placed)
    assert {name: len(cells) for name, cells in mesh.regions.items()} == {"Bulk": 1, "Core": 1}
    np.testing.assert_allclose(corners(mesh, "Bulk")[:, 2], 2.0)


def test_an_instance_may_hold_its_own_mesh(tmp_path: Path) -> None:
    own = nodes(CUBE[:4]) + "*Element, type=CPE4\n1, 1, 2, 3, 4\n*Nset, nset=Base\n1, 2\n"
    text = "*Part, name=P\n*End Part\n*Assembly, name=A\n*Instance, name=I, part=P\n3., 4., 0.\n"
    mesh = read(tmp_path, text + own + "*End Instance\n*End Assembly\n")
    np.testing.assert_allclose(mesh.points, CUBE[:4, :2] + [3, 4])
    np.testing.assert_allclose(corners(mesh, "Base")[:, 1], 4.0)


def test_sets_of_one_part_in_two_instances_are_merged_and_those_of_the_assembly_keep_their_names(
    tmp_path: Path,
) -> None:
    more = "*Instance, name=Bar-2, part=Bar\n5., 0.\n*End Instance\n"
    mesh = read(tmp_path, BAR.format(placed="", assembly=more))
    assert {name: len(cells) for name, cells in mesh.regions.items()} == {"Steel": 2}
    assert mesh.notes[0] == "sets of the same name in several instances are merged: Steel"
    assert np.ptp(corners(mesh, "LeftEnd")[:, 0]) == 0.0
    with pytest.raises(
        CaseError, match=r"2 disconnected parts, and one of them has a free rigid-body .*: instance Bar-2: 1 cell"
    ):
        box_problem(
            "quadrilateral", tmp_path, **STRETCHED,
            supports={"LeftEnd": {"ux": 0.0}, "Floor": {"uy": 0.0}}, loads={"RightEnd": {"displacement": {"ux": 0.02}}},
        )  # fmt: skip


@pytest.mark.parametrize("point", ["1, 5., 0.5, 0.", "9, 7., 7., 7."])
def test_reference_points_may_have_the_number_of_a_node(point: str, tmp_path: Path) -> None:
    more = f"*Node\n{point}\n*Nset, nset=RP\n{point.split(',')[0]},\n"
    more += "*Element, type=MASS, elset=M\n77, 1\n*Mass, elset=M\n1.\n"
    mesh = read(tmp_path, BAR.format(placed="", assembly=more))
    np.testing.assert_allclose(mesh.bounds, [[0, 0], [2, 1]])
    assert mesh.sets_without_facets == {"RP": "contains 1 node but no complete facet of the surface"}
    assert mesh.notes == ("elements without volume are ignored: 1 of type MASS",)
    problem = box_problem(
        "quadrilateral", tmp_path, **STRETCHED,
        supports={"LeftEnd": {"ux": 0.0}, "Floor": {"uy": 0.0}}, loads={"RightEnd": {"displacement": {"ux": 0.02}}},
    )  # fmt: skip
    problem.solve(1.0, 1.0)
    assert problem.reaction_on("RightEnd")[0] == pytest.approx(10.0, rel=1e-10)


def test_a_support_on_a_set_of_one_node_reports_that_it_contains_no_facet(tmp_path: Path) -> None:
    (tmp_path / "m.inp").write_text(BAR.format(placed="", assembly="*Nset, nset=Corner, instance=Bar-1\n1\n"))
    with pytest.raises(CaseError, match=r"supports.Corner: the set 'Corner' contains 1 node but no complete facet"):
        box_problem("quadrilateral", tmp_path, **STRETCHED, supports={"Corner": {"ux": 0.0, "uy": 0.0}})


# The plane, n · x = c, of each face of the unit square, triangle, cube and tetrahedron with nodes in Abaqus' order.
FACES = {
    "CPE4": {"S1": (0, 1, 0, 0), "S2": (1, 0, 0, 1), "S3": (0, 1, 0, 1), "S4": (1, 0, 0, 0)},
    "CPE6": {"S1": (0, 1, 0, 0), "S2": (1, 1, 0, 1), "S3": (1, 0, 0, 0)},
    "C3D8": {
        "S1": (0, 0, 1, 0), "S2": (0, 0, 1, 1), "S3": (0, 1, 0, 0),
        "S4": (1, 0, 0, 1), "S5": (0, 1, 0, 1), "S6": (1, 0, 0, 0),
    },
    "C3D10": {"S1": (0, 0, 1, 0), "S2": (0, 1, 0, 0), "S3": (1, 1, 1, 1), "S4": (1, 0, 0, 0)},
}  # fmt: skip


@pytest.mark.parametrize("element", FACES)
def test_surfaces_are_the_faces_that_abaqus_numbers(element: str, tmp_path: Path) -> None:
    if element in ("CPE4", "C3D8"):
        points = CUBE[:4] if element == "CPE4" else CUBE
    else:
        dim = 2 if element == "CPE6" else 3
        points = np.vstack([np.zeros(dim), np.eye(dim)])
        edges = [(a, b) for a, b in EDGES if max(a, b) <= dim + 1]
        points = np.vstack([points, [(points[a - 1] + points[b - 1]) / 2 for a, b in edges]])
    faces = FACES[element]
    surfaces = "".join(f"*Surface, type=ELEMENT, name=F{face}\nBulk, {face}\n" for face in faces)
    surfaces += "*Surface, name=Free\nBulk\n*Surface, name=Both, combine=union\nFS1, FS2\n"
    placed = (
        "*Assembly, name=A\n*Instance, name=I, part=P\n*End Instance\n*Surface, name=Again\nI.1, S2\n*End Assembly\n"
    )
    mesh = read(tmp_path, part("P", points, element, surfaces) + placed)
    for face, (*normal, distance) in faces.items():
        (facet,) = mesh.boundaries[f"F{face}"]
        assert len(set(facet)) == mesh.facet_kind.n_nodes
        np.testing.assert_allclose(mesh.points[facet] @ normal[: mesh.dim], distance, atol=1e-14)
    assert len(mesh.boundaries["Free"]) == len(faces)
    assert len(mesh.boundaries["Both"]) == 2
    np.testing.assert_array_equal(np.sort(mesh.boundaries["Again"]), np.sort(mesh.boundaries["FS2"]))


def test_a_surface_without_a_face_has_the_exterior_facets_of_its_elements_alone(tmp_path: Path) -> None:
    """Two squares behind a bar element: the surface of the right square has no shared edge and none of the left."""
    points = np.array([[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]])
    text = nodes(points) + "*Element, type=T2D2, elset=Bar\n1, 3, 6\n"
    text += "*Element, type=CPE4\n2, 1, 2, 5, 4\n3, 2, 3, 6, 5\n*Surface, name=Right\n3,\n"
    mesh = read(tmp_path, text)
    assert sorted(map(sorted, mesh.boundaries["Right"].tolist())) == [[1, 2], [2, 5], [4, 5]]


def test_a_pressure_on_a_surface_stretches_the_bar(tmp_path: Path) -> None:
    more = "*Elset, elset=_Press_S2, internal, instance=Bar-1\n1,\n*Surface, type=ELEMENT, name=Press\n_Press_S2, S2\n"
    (tmp_path / "m.inp").write_text(BAR.format(placed="", assembly=more))
    problem = box_problem(
        "quadrilateral", tmp_path, **STRETCHED,
        supports={"LeftEnd": {"ux": 0.0}, "Floor": {"uy": 0.0}}, loads={"Press": {"pressure": -10.0}},
    )  # fmt: skip
    problem.solve(1.0, 1.0)
    assert problem.displacement.x.array.max() == pytest.approx(10.0 / 1000.0 * 2.0, rel=1e-10)


def test_skins_and_node_surfaces_of_a_solid_are_boundaries(tmp_path: Path) -> None:
    skin = "*Element, type=M3D4, elset=Skin\n2, 5, 6, 7, 8\n*Membrane Section, elset=Skin, material=m\n1.\n"
    skin += (
        "*Nset, nset=_picked, internal\n1, 2, 3, 4\n*Surface, name=Top\nSkin, SPOS\n*Nset, nset=Low, generate\n1, 4\n"
    )
    skin += "*Surface, type=NODE, name=Bottom\nLow, 1.\n*Surface, type=REVOLUTION, name=Tool\nSTART, 0., 0.\n"
    mesh = read(tmp_path, part("P", CUBE, "C3D8", skin))
    for name, height in (("Skin", 1.0), ("Top", 1.0), ("Bottom", 0.0), ("Low", 0.0)):
        np.testing.assert_allclose(mesh.points[mesh.boundaries[name]][..., 2], height)
    assert set(mesh.boundaries) == {"Skin", "Top", "Bottom", "Low"}
    assert mesh.sets_without_facets == {"Tool": "is a surface of type REVOLUTION without a facet of the mesh"}
    assert mesh.notes == ("the elements of section set 'Skin' define a boundary only, without stiffness",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("*Assembly", "*Part, name=Bar\n*End Part\n*Assembly", "part 'Bar' is defined twice"),
        ("part=Bar\n", "part=Beam\n", "instance 'Bar-1' is of part 'Beam', which is not defined before it"),
        ("part=Bar\n", "part=Bar, instance=Old\n", "instance 'Bar-1' comes from an earlier analysis"),
        ("part=Bar\n", "part=Bar\n0., 0.\n1., 2.\n", "instance 'Bar-1' has the data lines '0., 0. / 1., 2.'; expected"),
        ("part=Bar\n", "part=Bar\n0.\n1., 0., 0., 1., 0., 0., 9.\n", "'Bar-1' is rotated about an axis of zero length"),
        ("instance=Bar-1\n1, 4", "instance=Bar-2\n1, 4", "instance 'Bar-2' is used but not defined"),
        ("instance=Bar-1\n1, 4", "instance=Bar-1\n1, 5", "node 5 is used but not defined"),
        ("Bar-1.1, Bar-1.2", "Bar-1.Base", "node set 'Base' is not defined before it is used"),
        ("*Node\n", "*System\n1., 0., 0.\n*Node\n", r"\*SYSTEM is not supported"),
        ("*Node\n", "*Node, system=C\n", r"\*NODE, SYSTEM=C is not supported; expected Cartesian coordinates"),
        ("*Elset, elset=Steel\n1", "*Elset, elset=Steel\n1, 2", "element 2 is used but not defined"),
        ("3, 2., 1.\n", "3, 2., 1.\n3, 2., 3.\n", "node 3 is defined twice, at different points of instance 'Bar-1'"),
        ("1, 1, 2, 3, 4\n", "1, 1, 2, 3, 4\n1, 1, 2, 3, 4\n", "element 1 is defined twice in instance 'Bar-1'"),
        ("*End Part", "*Surface, name=S\nSteel, S5\n*End Part", "refers to face S5, which CPE4 elements do not have"),
        ("*Assembly", "*Part, name=Other\n*End Part\n*Assembly", None),
        ("*End Assembly", "*Tie, name=T\na, b\n*End Assembly", None),
        ("*Heading", "*Include, input=m.inp\n", "the file m.inp includes itself"),
    ],
)  # fmt: skip
def test_what_shapes_the_mesh_and_cannot_be_read_is_named(
    old: str, new: str, message: str | None, tmp_path: Path
) -> None:
    text = "*Heading\n" + BAR.format(placed="", assembly="")
    assert old in text
    if message is not None:
        with pytest.raises(CaseError, match=message):
            read(tmp_path, text.replace(old, new, 1))
        return
    notes = read(tmp_path, text.replace(old, new, 1)).notes
    parts = "parts without an instance are ignored: Other"
    assert notes == ((parts,) if "Other" in new else ("*TIE ignored: parts are connected by shared nodes only",))


def test_parts_without_an_assembly_are_refused_if_there_are_several(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="the file has 2 parts and no instance of them; expected an assembly"):
        read(tmp_path, part("A", CUBE, "C3D8") + part("B", CUBE, "C3D8"))
