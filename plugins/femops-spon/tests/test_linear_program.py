"""Laws of linear phases as programs of torch and ONNX: a constant tangent with its bound."""

import io

import numpy as np
import onnxruntime
import pytest
from test_linear_source import STRAIN, _law

from femops import CaseError, load_law
from femops.devices.torch_library import torch
from femops.export.linear import LinearLaw, linear_program
from femops.export.model import export_model


def _response(kind, files, strain):
    """Return the response of a program at strains, by name."""
    if kind == "torch":
        program = torch.export.load(io.BytesIO(files["law.pt2"])).module()
        return {name: one.numpy() for name, one in program(torch.tensor(strain)).items()}
    session = onnxruntime.InferenceSession(files["law.onnx"])
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, {"strain": strain}), strict=True))


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_linear_law_has_its_tangent_and_bound_in_a_program(kind, linear, tmp_path):
    export_model(_law(linear.model), kind, tmp_path / "law")
    assert "error" in (tmp_path / "law" / "README.txt").read_text()
    files = {file.name: file.read_bytes() for file in (tmp_path / "law").iterdir()}
    strain = np.concatenate([STRAIN, np.zeros((1, 3)), np.full((1, 3), np.nan)])
    found = _response(kind, files, strain)
    expected = load_law(_law(linear.model), dim=2).evaluate(strain, np.zeros((len(strain), 0)), 1.0)
    assert set(found) == {"stress", "tangent", "stress_33", "tangent_33", "valid", "error"}
    for name in ("stress", "tangent", "stress_33"):
        mine, theirs = found[name][:-1], getattr(expected, name)[:-1]
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())
    along = np.einsum("ni,ni->n", found["tangent_33"][:-1], strain[:-1])
    np.testing.assert_allclose(found["stress_33"][:-1], along, rtol=0, atol=1e-12)
    assert expected.error[:-2].min() > 1e-7
    np.testing.assert_allclose(found["error"][:-1], expected.error[:-1], rtol=1e-9, atol=0)
    assert found["valid"][:-1].all() and not found["valid"][-1]


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_linear_law_of_three_dimensions_has_no_part_normal_to_a_plane(kind):
    tangent = np.random.default_rng(0).normal(size=(6, 6))
    tangent += tangent.T
    strain = np.random.default_rng(1).normal(size=(5, 6))
    found = _response(kind, linear_program(LinearLaw(tangent, None, None), kind), strain)
    assert set(found) == {"stress", "tangent", "valid"}
    np.testing.assert_allclose(found["stress"], strain @ tangent, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(found["tangent"], np.tile(tangent, (5, 1, 1)))


def test_a_law_of_nonlinear_phases_has_no_program(hyperelastic, tmp_path):
    matrix = {"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": 0.06}
    with pytest.raises(CaseError, match=r"'spon' gives no program of onnx, and its RVE has phases that are not linear"):
        export_model(_law(hyperelastic.model, matrix), "onnx", tmp_path / "rve")
    assert not (tmp_path / "rve").exists()
