"""The batched RVE solver agrees with the same RVE assembled and solved by DOLFINx."""

from typing import Any

import numpy as np
import pytest
from benchmarks.reference_dolfinx import ReferenceRVE

import femops

PHASES = {
    "matrix": {"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": 0.06},
    "fibre": {"law": "elastic", "K": 43452.381, "G": 29918.033},
}
STRAINS = {
    2: [[0.04, -0.03, 0.02], [1e-3, 4e-3, -0.03], [-0.02, 0.0, 0.0]],
    3: [[0.03, -0.02, 0.01, 0.02, -0.015, 0.01], [1e-3, 0.0, -4e-3, -0.02, 0.003, 0.03]],
}


def nested(cell: str) -> Any:
    """Return the nested law of a coarse RVE with one off-centre fibre, or one sphere."""
    if cell == "tetra":
        spheres = [{"center": [0, 0, 0], "radius": 0.3}]
        rve = {"spheres": {"spheres": spheres, "mesh_size": 0.25, "cell": cell}}
    else:
        circles = [{"center": [0.31, 0.17], "radius": 0.25}]  # cut by the right face
        rve = {"circles": {"circles": circles, "mesh_size": 0.125, "cell": cell}}
    law = {"law": "nested", "rve": {**rve, "boundary": "periodic", "phases": PHASES}}
    return femops.load_law(law, dim=3 if cell == "tetra" else 2)


@pytest.mark.parametrize("cell", ["triangle", "triangle6", "quad", "quad9", "tetra"])
def test_stress_and_tangent_agree_with_dolfinx(cell: str) -> None:
    law = nested(cell)
    reference = ReferenceRVE(law.rve.discretisation.mesh, PHASES, rtol=1e-12)
    strains = np.array(STRAINS[law.dim])
    response = law.evaluate(strains, np.zeros((len(strains), law.n_state)), 1.0)
    for strain, stress, tangent in zip(strains, response.stress, response.tangent, strict=True):
        expected = reference.solve(strain)
        assert np.linalg.norm(stress - expected.stress) < 1e-9 * np.linalg.norm(expected.stress)
        assert np.linalg.norm(tangent - expected.tangent) < 1e-6 * np.linalg.norm(expected.tangent)
