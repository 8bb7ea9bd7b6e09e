"""RVEs with voids and fibres under kinematic conditions, and a small study of a family of them."""

from femops.law import LawContext
from femops.rve.spec import RVE, RVEParameters, build_rve

SOFT = {"law": "elastic", "K": 4.0, "G": 2.0}
HARD = {"law": "elastic", "K": 60.0, "G": 40.0}
CIRCLES = [{"center": [0.1, 0.05], "radius": 0.2, "phase": "void"}, {"center": [-0.3, -0.25], "radius": 0.15}]
BLOCK = {
    "circles": {"circles": CIRCLES, "mesh_size": 0.12, "cell": "triangle"},
    "boundary": "kinematic",
    "phases": {"matrix": SOFT, "fibre": HARD},
}
BALLS = [{"center": [0.2, 0.2, 0.2], "radius": 0.25}, {"center": [-0.2, -0.2, -0.1], "radius": 0.2, "phase": "void"}]
SOLID = {**BLOCK, "spheres": {"spheres": BALLS, "mesh_size": 0.3, "cell": "tetra"}}
del SOLID["circles"]
STUDY = {
    "kinematics": "plane_strain",
    "family": {
        "count": 10,
        "validation": 6,
        "seed": 3,
        "mesh": {"mesh_size": 0.15},
        "inclusions": {"shape": "circles", "number": [1, 2], "volume_fraction": [0.1, 0.3], "voids": [0.2, 0.8]},
        "boundary": "kinematic",
        "phases": {"matrix": SOFT, "fibre": SOFT},
        "contrast": {"fibre": [5, 20]},
    },
    "surrogate": {"law": "beno", "widths": [8, 8], "boundary_width": 8, "boundary_layers": 1, "steps": 60, "batch": 5},
}


def rve(**changes) -> RVE:
    """Return the RVE of `BLOCK` with some entries changed."""
    block = {**BLOCK, **changes}
    return build_rve(RVEParameters.model_validate(block), LawContext(3 if "spheres" in block else 2))


def solid() -> RVE:
    """Return a cube with a void and a hard ball."""
    return build_rve(RVEParameters.model_validate(SOLID), LawContext(3))
