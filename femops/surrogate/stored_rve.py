"""The RVE of a stored surrogate: its mesh among the arrays, its phases in the manifest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from femops.errors import CaseError
from femops.law import LawParameters
from femops.meshing import CELLS, TaggedMesh
from femops.output.atomic import present
from femops.phases import Phase
from femops.plugins import get_phase, law_parameters
from femops.rve.conditions import Boundary
from femops.rve.discretisation import discretise
from femops.rve.snapshots import content_hash
from femops.rve.spec import RVE, RVEParameters
from femops.surrogate.arrays import CheckedArrays
from femops.surrogate.spec import Arrays
from femops.surrogate.store import MANIFEST, Manifest, StoredRVE, of_arrays, read_manifest, read_model

_BOUNDARY, _POINTS, _CELLS = "rve/boundary/", "rve/points", "rve/cells"
_PERIODS = "rve/periods"  # only if nodes and cells do not determine them


def described(rve: RVE, phases: Mapping[str, LawParameters]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the RVE as it is stored: its entry in the manifest (see `StoredRVE`), and the arrays of its mesh.

    Args:
        rve: The RVE.
        phases: Parameters of its phases, by name.
    """
    d = rve.discretisation
    mesh = {
        _POINTS: d.mesh.points,
        _CELLS: d.mesh.cells,
        **{_BOUNDARY + name: facets for name, facets in d.mesh.boundaries.items()},
    }
    if (periods := d.outline.given_periods) is not None:
        mesh[_PERIODS] = periods
    stored = {
        "hash": content_hash(rve, _rve_parameters(rve.boundary, phases)),
        "boundary": rve.boundary,
        "cell": d.mesh.kind.name,
        "phases": {name: phases[name].model_dump(mode="json") for name in d.phases},
        "cells_of_phase": {
            name: (part.start, part.stop) for name, part in zip(d.phases, d.cells_of_phase, strict=True)
        },
    }
    return stored, mesh


def model_rve(folder: Path) -> RVE:
    """Return the RVE that the model in a folder was trained for.

    Raises:
        CaseError: The model is missing or damaged.
    """
    return read_model(folder, read_manifest(folder)).rve


def stored_rve(folder: Path, whole: Manifest, arrays: Arrays) -> RVE:
    """Build the RVE of a model.

    Args:
        folder: The model folder.
        whole: Its manifest.
        arrays: Its arrays.

    Raises:
        CaseError: The arrays or the manifest describe no RVE, or one of another content hash.
    """
    manifest, stored = present(folder) / MANIFEST, whole.rve
    assert stored is not None
    phases: dict[str, tuple[LawParameters, Phase]] = {}
    for name, mapping in stored.phases.items():
        try:
            parameters = law_parameters(mapping)
            phases[name] = parameters, get_phase(parameters)
        except CaseError as error:
            raise error.within(file=manifest, key=f"rve.phases.{name}") from error
    try:
        with of_arrays(folder):
            mesh = _stored_mesh(CheckedArrays(arrays, dim=whole.dim), stored, list(phases))
        laws = tuple(phase for _, phase in phases.values())
        rve = RVE(discretise(mesh, tuple(phases)), laws, stored.boundary)
    except (KeyError, IndexError, ValueError, CaseError) as error:
        if isinstance(error, CaseError) and error.file is not None:
            raise
        raise CaseError("describes no RVE; train the model again", file=manifest, key="rve") from error
    found = content_hash(rve, _rve_parameters(stored.boundary, {name: one for name, (one, _) in phases.items()}))
    if found != stored.hash:
        problem = f"the RVE is another one ({found[:12]}) than the model was trained for ({stored.hash[:12]})"
        raise CaseError(f"{problem}; train the model again", file=manifest, key="rve.hash")
    return rve


def _stored_mesh(arrays: CheckedArrays, stored: StoredRVE, phases: list[str]) -> TaggedMesh:
    """Return the mesh of an RVE.

    Raises:
        StoredArrayError: An array of the mesh is missing or invalid.
        CaseError: The cells of the phases are not consecutive ranges.
    """
    kind = CELLS[stored.cell]
    points = arrays.take(_POINTS, "n_points", "dim")
    cells = arrays.indices(_CELLS, "n_cells", len(kind.nodes), below=len(points))
    ranges = [stored.cells_of_phase[name] for name in phases]
    ends = [0, *(stop for _, stop in ranges)]
    if ends != sorted(ends) or ends[-1] != len(cells) or any(a != b for (a, _), b in zip(ranges, ends, strict=False)):
        raise CaseError(f"{ranges} are no ranges of {len(cells)} cells, one after the other")
    n_facet = len(CELLS[kind.facet].nodes)
    boundaries = arrays.part(_BOUNDARY)
    facets = {
        name: boundaries.indices(name, f"facets of {name}", n_facet, below=len(points)) for name in boundaries.names()
    }
    regions = {name: np.arange(*one) for name, one in zip(phases, ranges, strict=True)}
    periods = arrays.take(_PERIODS, "dim", "dim") if _PERIODS in arrays.names() else None
    return TaggedMesh(points, cells, kind, regions, facets, periods=periods)


def _rve_parameters(boundary: Boundary, phases: Mapping[str, LawParameters]) -> RVEParameters:
    """Return the parameters that enter the content hash; the source of the mesh does not."""
    return RVEParameters.model_construct(boundary=boundary, phases=dict(phases))
