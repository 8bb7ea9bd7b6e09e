"""Structures in OpenGeoSys, with the law as a behaviour of MFront."""

import re
import sys
from pathlib import Path
from string import Template

import meshio
import numpy as np
import pyvista
from codes.answer import Answer, Points, ran
from host_structures import AXES, Structure

from femops.notation import SQRT2

PROJECT = Path(__file__).with_name("opengeosys.prj")
# The parameters of a behaviour belong to the process, and project files have no word for them.
EXTRAPOLATING = """
import ctypes, sys
from ogs.OGSSimulator import OGSSimulation
assert ctypes.CDLL(sys.argv[1]).rve_setUnsignedShortParameter(b"out_of_range", 1) == 1
sys.exit(OGSSimulation(["ogs", "structure.prj"]).execute_simulation())
"""


def solve(
    structure: Structure, library: Path, folder: Path, factor: float = 1.0, *, extrapolate: bool = False
) -> Answer:
    """Solve a structure with the library of `femops export --to mgis --output rve`.

    Args:
        structure: The structure.
        library: The library.
        folder: Where the files of the project go.
        factor: Factor of the prescribed displacements.
        extrapolate: Set the parameter `out_of_range`, in one Python process with OpenGeoSys.
    """
    _write(structure, library, folder, factor)
    answer = folder / "out_1.vtu"
    answer.unlink(missing_ok=True)
    program = [sys.executable, "-c", EXTRAPOLATING, str(library)]
    command = program if extrapolate else [str(Path(sys.executable).with_name("ogs")), "structure.prj"]
    text, status = ran(command, folder)
    norms = [float(value) for value in re.findall(r"\|r\|=(\S+)", text)]
    seconds = sum(float(value) for value in re.findall(r"Solving process #0 took (\S+) s", text))
    if not answer.exists():
        return Answer(text, status, norms, seconds, None, None)
    found = pyvista.read(answer)
    displacement = found.point_data["displacement"].reshape(-1, structure.dim)
    return Answer(text, status, norms, seconds, displacement, _points(found, structure.dim))


def _points(found: pyvista.DataSet, dim: int) -> Points:
    """Return the integration points of a result, whose strains are 11, 22, 33, 12, 23, 13 of the tensor."""
    values = {name: np.asarray(found.field_data[name]) for name in found.field_data}
    strain = values["epsilon_ip"]
    places, weights = {
        2: ([0, 1, 3], [1.0, 1.0, SQRT2]),
        3: ([0, 1, 2, 4, 5, 3], [1.0] * 3 + [SQRT2] * 3),
    }[dim]
    state = [values[f"material_state_variable_{name}_ip"] for name in ("Error", "OutOfRange")]
    return Points(strain[:, places] * weights, *state)


def _write(structure: Structure, library: Path, folder: Path, factor: float) -> None:
    """Write the project: the mesh, and its nodes with displacements and with forces as meshes of their own."""
    dim, points = structure.dim, np.pad(structure.points, ((0, 0), (0, 3 - structure.dim)))
    kind = "quad" if dim == 2 else "hexahedron"
    meshio.write(folder / "bulk.vtu", meshio.Mesh(points, [(kind, structure.cells)]))
    values = {"held": structure.prescribed(factor), "loaded": structure.nodal_force[structure.right]}
    for name, nodes in (("held", structure.held), ("loaded", structure.right)):
        data = {"bulk_node_ids": nodes.astype(np.uint64)}
        data |= {f"{name}_{axis}": value for axis, value in zip(AXES, values[name].T, strict=False)}
        own = meshio.Mesh(points[nodes], [("vertex", np.arange(len(nodes))[:, None])], point_data=data)
        meshio.write(folder / f"{name}.vtu", own)
    parameters, conditions, forces = "", "", ""
    for component, axis in enumerate(AXES[:dim]):
        for name in values:
            parameters += _ramped(name, axis)
        conditions += _condition("boundary_condition", "Dirichlet", "held", axis, component)
        forces += _condition("source_term", "Nodal", "loaded", axis, component)
    project = Template(PROJECT.read_text()).substitute(
        library=library, behaviour="rve", dim=dim, zeros=" ".join("0" * dim), parameters=parameters,
        conditions=conditions, forces=forces,
    )  # fmt: skip
    (folder / "structure.prj").write_text(project)


def _ramped(mesh: str, axis: str) -> str:
    """Return the parameters of nodal values that grow with time."""
    name = f"{mesh}_{axis}"
    return (
        f"<parameter><name>{name}</name><type>MeshNode</type><mesh>{mesh}</mesh><field_name>{name}</field_name>"
        f"</parameter><parameter><name>ramped_{name}</name><type>CurveScaled</type><curve>ramp</curve>"
        f"<parameter>{name}</parameter></parameter>"
    )


def _condition(tag: str, kind: str, mesh: str, axis: str, component: int) -> str:
    return (
        f"<{tag}><mesh>{mesh}</mesh><type>{kind}</type><component>{component}</component>"
        f"<parameter>ramped_{mesh}_{axis}</parameter></{tag}>"
    )
