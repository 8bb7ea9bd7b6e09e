"""Laws of linear phases as C source: a constant tangent with its bound."""

import ctypes
import subprocess

import numpy as np
import pytest
from small_family import SOFT

from femops import CaseError, load_law
from femops.export.model import export_model

HARD = {"law": "elastic", "K": 120.0, "G": 60.0}
INCLUSION = {"voxels": {"cells": 8, "inclusions": [{"center": [0.3, 0.4], "radius": 0.3}]}}
STRAIN = np.random.default_rng(0).normal(size=(300, 3)) * 0.01  # of several chunks


def _law(model, matrix=SOFT):
    return {
        "law": "spon",
        "start": "network",
        "model": str(model),
        "rve": {**INCLUSION, "phases": {"matrix": matrix, "fibre": HARD}},
    }


def test_a_linear_law_has_its_tangent_and_bound_in_c(linear, tmp_path):
    export_model(_law(linear.model), "c", tmp_path / "laminate")
    made = subprocess.run(
        ["make", "-s", "CFLAGS=-O1 -Werror"], cwd=tmp_path / "laminate", capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    library, n = ctypes.CDLL(str(tmp_path / "laminate" / "liblaminate.so")), len(STRAIN)
    strain = np.concatenate([STRAIN[:-1], np.zeros((1, 3))])
    found = [np.empty(shape) for shape in ((n, 3), (n, 3, 3), (n,), (n, 3), (n,))]
    status = np.empty(n, np.int32)
    pointers = [one.ctypes.data_as(ctypes.c_void_p) for one in (*found, status)]
    arguments = (ctypes.c_size_t(n), strain.ctypes.data_as(ctypes.c_void_p), None, ctypes.c_double(1.0))
    assert library.laminate_evaluate(*arguments, *pointers) == 0 and (status == 0).all()
    expected = load_law(_law(linear.model), dim=2).evaluate(strain, np.zeros((n, 0)), 1.0)
    stress, tangent, stress_33, tangent_33, error = found
    for mine, theirs in ((stress, expected.stress), (tangent, expected.tangent), (stress_33, expected.stress_33)):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())
    np.testing.assert_allclose(stress_33, np.einsum("ni,ni->n", tangent_33, strain), rtol=0, atol=1e-12)
    assert expected.error[:-1].min() > 1e-7
    np.testing.assert_allclose(error, expected.error, rtol=1e-9, atol=0)


def test_a_law_of_nonlinear_phases_has_no_c_source(hyperelastic, tmp_path):
    matrix = {"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": 0.06}
    with pytest.raises(CaseError, match=r"model: cannot be exported.*phases that are not linear"):
        export_model(_law(hyperelastic.model, matrix), "c", tmp_path / "rve")
    assert not (tmp_path / "rve").exists()
