"""Conjugate gradients for many systems at once, which search in the residuals of all their columns together."""

from collections.abc import Callable

from femops.surrogate.torch_library import Tensor, torch

LinearMap = Callable[[Tensor], Tensor]
"""A map of fields (N, n_nodes, dim, k), the same for each of their k columns."""

_CUTOFF = 1e-12


def conjugate_gradients(
    product: LinearMap, precondition: LinearMap, rest: Tensor, start: tuple[Tensor, Tensor], steps: int
) -> Tensor:
    """Return approximate solutions of K x = f; each step takes one product and one application of the preconditioner.

    A step minimises the energy among the new search fields, which are the preconditioned residuals of all columns, and
    the last step's.

    Args:
        product: K, symmetric and positive semidefinite.
        precondition: About K⁻¹.
        rest: f. Shape (N, n_nodes, dim, k).
        start: Fields that the first step also searches along, and K times them. Shape (N, n_nodes, dim, m) each.
        steps: How many.

    Returns:
        x. Shape (N, n_nodes, dim, k).
    """
    directions, images = start
    found = torch.zeros_like(rest)
    for _ in range(steps):
        new = precondition(rest)
        search = torch.cat([directions, new], dim=3)
        images = torch.cat([images, product(new)], dim=3)
        amount = _minimiser(search, images, rest)[:, None]
        directions, images = search @ amount, images @ amount
        found, rest = found + directions, rest - images
    return found


def _minimiser(search: Tensor, images: Tensor, rest: Tensor) -> Tensor:
    """Return the combination of search fields (N, n_nodes, dim, m) with the least energy. Shape (N, m, k).

    A search field that adds nothing to the others gets no part of it.
    """
    gram = search.flatten(1, 2).transpose(1, 2) @ images.flatten(1, 2)
    right = search.flatten(1, 2).transpose(1, 2) @ rest.flatten(1, 2)
    size = gram.diagonal(dim1=1, dim2=2).clamp(min=0.0).sqrt()
    scale = torch.where(size > 0.0, 1.0 / size, torch.zeros_like(size))[..., None]
    unit = scale * gram * scale.transpose(1, 2)
    inverse = torch.linalg.pinv(0.5 * (unit + unit.transpose(1, 2)), rtol=_CUTOFF, hermitian=True)
    return scale * (inverse @ (scale * right))
