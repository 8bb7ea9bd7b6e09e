"""A small family of RVEs and the study of it."""

SOFT = {"law": "elastic", "K": 4.0, "G": 2.0}
STUDY = {
    "kinematics": "plane_strain",
    "family": {
        "count": 12,
        "validation": 6,
        "seed": 3,
        "mesh": {"cells": 8},
        "inclusions": {"shape": "circles", "number": [1, 2], "volume_fraction": [0.2, 0.4]},
        "phases": {"matrix": SOFT, "fibre": SOFT},
        "contrast": {"fibre": [10, 100]},
    },
    "surrogate": {"law": "spon", "widths": [6, 8], "layers": [1, 1], "steps": 40, "batch": 6, "learning_rate": 1e-2},
}
