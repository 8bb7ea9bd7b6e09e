"""SPON on an accelerator answers as on the processor."""

import numpy as np
import pytest
import test_hyperelastic
import test_linear_law

from femops import load_law
from femops.devices.torch_library import torch

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("corrections", [0, 2])
@pytest.mark.parametrize("kind", ["linear", "hyperelastic"])
def test_an_accelerator_answers_as_the_processor(request, kind, corrections):
    if not torch.cuda.is_available():
        pytest.skip("no accelerator")
    model, module = (
        request.getfixturevalue(kind).model,
        {"linear": test_linear_law, "hyperelastic": test_hyperelastic}[kind],
    )
    given = {"law": "spon", "model": str(model), "rve": module.RVE, "start": "network", "corrections": corrections}
    answers = []
    for device in ("cpu", "cuda"):
        law = load_law({**given, "device": device}, dim=2)
        answers.append(law.evaluate(module.STRAIN, np.zeros((len(module.STRAIN), 0)), 1.0))
    for name in ("stress", "tangent", "stress_33"):
        expected, found = (getattr(answer, name) for answer in answers)
        assert np.allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max()), name
