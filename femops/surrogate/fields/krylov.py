"""Block conjugate gradients for batches of systems; all right-hand sides share one search space."""

from collections.abc import Callable

from femops.devices.torch_library import Tensor, torch

LinearMap = Callable[[Tensor], Tensor]
"""A linear map of fields (N, n_nodes, dim, k), applied to each of their k columns."""

_CUTOFF = 1e-12


def conjugate_gradients(
    product: LinearMap, precondition: LinearMap, load: Tensor, start: tuple[Tensor, Tensor], steps: int
) -> Tensor:
    """Return approximate solutions of K x = f; each step takes one product and one application of the preconditioner.

    Each step minimises the energy over the preconditioned residuals of all columns and the previous search directions.

    Args:
        product: K, symmetric and positive semidefinite.
        precondition: Approximation of K⁻¹.
        load: f. Shape (N, n_nodes, dim, k).
        start: Additional search directions of the first step, and K times them. Shape (N, n_nodes, dim, m) each.
        steps: Number of steps.

    Returns:
        x. Shape (N, n_nodes, dim, k).
    """
    directions, images = start
    residual, found = load, torch.zeros_like(load)
    for _ in range(steps):
        new = precondition(residual)
        search = torch.cat([directions, new], dim=3)
        images = torch.cat([images, product(new)], dim=3)
        amount = _minimiser(search, images, residual)[:, None]
        directions, images = search @ amount, images @ amount
        found, residual = found + directions, residual - images
    return found


def _minimiser(search: Tensor, images: Tensor, residual: Tensor) -> Tensor:
    """Return the coefficients of the search directions (N, n_nodes, dim, m) of least energy. Shape (N, m, k).

    The pseudo-inverse drops linearly dependent directions.
    """
    gram = search.flatten(1, 2).transpose(1, 2) @ images.flatten(1, 2)
    right = search.flatten(1, 2).transpose(1, 2) @ residual.flatten(1, 2)
    size = gram.diagonal(dim1=1, dim2=2).clamp(min=0.0).sqrt()
    scale = torch.where(size > 0.0, 1.0 / size, torch.zeros_like(size))[..., None]
    unit = scale * gram * scale.transpose(1, 2)
    inverse = torch.linalg.pinv(0.5 * (unit + unit.transpose(1, 2)), rtol=_CUTOFF, hermitian=True)
    return scale * (inverse @ (scale * right))
