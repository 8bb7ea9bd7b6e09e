"""RVEs that are small enough for tests."""

RANGE = 0.03
PHASES = {
    "matrix": {"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": 0.06},
    "fibre": {"law": "elastic", "K": 43452.381, "G": 29918.033},
}
CIRCLES = [
    {"center": [-0.25, 0.25], "radius": 0.10},
    {"center": [0.25, 0.15], "radius": 0.15},
    {"center": [0.0, -0.25], "radius": 0.10},
]
RVE = {"circles": {"circles": CIRCLES, "mesh_size": 0.12, "cell": "quad8"}, "phases": PHASES}
SPHERE = {"spheres": [{"center": [0.1, 0.0, 0.05], "radius": 0.3}], "mesh_size": 0.4, "cell": "tetra"}

# Without symmetries, so that exchanged shears show.
ELLIPSE = {"center": [0.1, 0.05], "semi_axes": [0.35, 0.15], "angle": 25.0}
SPHERES = [{"center": [0.1, 0.0, 0.05], "radius": 0.3}, {"center": [-0.3, -0.3, -0.2], "radius": 0.15}]
ANISOTROPIC = {
    2: {"ellipses": {"ellipses": [ELLIPSE], "mesh_size": 0.18, "cell": "quad8"}, "phases": PHASES},
    3: {"spheres": {"spheres": SPHERES, "mesh_size": 0.5, "cell": "tetra"}, "phases": PHASES},
}
HOSTILE = 'hostile */ ??/ "\\ ü'
