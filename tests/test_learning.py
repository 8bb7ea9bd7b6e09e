"""Training utilities shared by all surrogates."""

import numpy as np

from femops.surrogate.learning.adam import TrainingState
from femops.surrogate.torch_library import torch


def test_adam_goes_the_steps_of_torch() -> None:
    """With ε far below the gradients, where it does not matter how it is scaled."""
    draws = torch.Generator().manual_seed(0)
    start = torch.randn(20, generator=draws, dtype=torch.float64)
    matrix = torch.diag(torch.linspace(0.5, 3.0, 20, dtype=torch.float64))
    ours = TrainingState.restored(start.clone(), 0, None)
    theirs = torch.nn.Parameter(start.clone())
    optimiser = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.99), eps=1e-14)
    for _ in range(30):
        ours.adam_step(0.0, matrix @ ours.weights, 0.01, 1e-14)
        theirs.grad = matrix @ theirs.detach()
        optimiser.step()
        np.testing.assert_allclose(ours.weights, theirs.detach(), rtol=0, atol=1e-10)
    assert torch.linalg.norm(ours.weights - start) > 0.5
