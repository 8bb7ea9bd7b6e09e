"""Batches of small nonlinear least-squares problems, which the experts of a field solve for its coefficients.

Each problem minimises ½ Σ_g f_g² + ½ λ |c|² over coefficients c, with residuals f_g = f(M_g c + o_g) at points g.
f is a function of few local values, such as a field and its derivatives, that are affine in c.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from femops.surrogate.torch_library import Tensor, torch

_LENGTHS = (1.0, 0.5, 0.25, 0.0625)  # of Gauss–Newton steps to choose from
_EQUAL = 1e-13  # relative difference of objectives within which the longer step is taken
_SMALLEST = 1e-30


class PointResidual(NamedTuple):
    """Residual at points and its derivatives by the s local values.

    Attributes:
        value: Shape (n, P).
        first: Shape (n, P, s).
        second: Shape (n, P, s, s).
    """

    value: Tensor
    first: Tensor
    second: Tensor


Residual = Callable[[Tensor], PointResidual]
"""Function from local values (n, P, s) to residuals."""


@dataclass(frozen=True)
class LeastSquares:
    """n least-squares problems of m coefficients, see `femops_moe.implicit.Problem`.

    Attributes:
        maps: M_g. Shape (n, P, s, m).
        offsets: o_g. Shape (n, P, s).
        residual: f.
        ridge: λ.
    """

    maps: Tensor
    offsets: Tensor
    residual: Residual
    ridge: float

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Maps and offsets."""
        return self.maps, self.offsets

    def at(self, parameters: tuple[Tensor, ...]) -> "LeastSquares":
        """Return the problems with other maps and offsets."""
        maps, offsets = parameters
        return replace(self, maps=maps, offsets=offsets)

    def local(self, coefficients: Tensor) -> Tensor:
        """Return the local values of coefficients (n, m). Shape (n, P, s)."""
        flat = (self.maps.flatten(1, 2) @ coefficients[..., None])[..., 0]
        return flat.unflatten(1, self.offsets.shape[1:]) + self.offsets

    def objective(self, coefficients: Tensor) -> Tensor:
        """Return ½ Σ_g f_g² + ½ λ |c|². Shape (n,)."""
        squares = self.residual(self.local(coefficients)).value.square().sum(1)
        return 0.5 * (squares + self.ridge * coefficients.square().sum(1))

    def step(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best of some lengths of the Gauss–Newton step, and its predicted reduction.

        The reduction is relative to the objective of c = 0, so that residuals that cannot vanish do converge.
        """
        at = self.residual(self.local(coefficients))
        rows = self._rows(at.first)
        gradient = self._gradient(rows, at, coefficients)
        factor = torch.linalg.cholesky_ex(rows.mT @ rows + self._damping(rows))[0]
        change = -torch.cholesky_solve(gradient[..., None], factor)[..., 0]
        tried = torch.stack([self.objective(coefficients + length * change) for length in _LENGTHS])
        lengths = change.new_tensor(_LENGTHS)
        best = tried <= tried.amin(0) * (1.0 + _EQUAL)
        length = torch.where(best, lengths[:, None], 0.0).amax(0)  # near the solution, all seem equally good
        none = self.objective(torch.zeros_like(coefficients))
        return length[:, None] * change, -(gradient * change).sum(1) / torch.clamp(none, min=_SMALLEST)

    def newton(self, coefficients: Tensor) -> Tensor:
        """Return a Newton step."""
        at = self.residual(self.local(coefficients))
        gradient = self._gradient(self._rows(at.first), at, coefficients)
        return -torch.linalg.solve_ex(self._hessian(at), gradient[..., None])[0][..., 0]

    def adjoint(self, coefficients: Tensor, grad: Tensor) -> Tensor:
        """Return −H⁻¹ v with the exact Hessian, which is symmetric but may be indefinite."""
        hessian = self._hessian(self.residual(self.local(coefficients)))
        return -torch.linalg.solve_ex(hessian, grad[..., None])[0][..., 0]

    def pull_back(self, coefficients: Tensor, adjoint: Tensor) -> tuple[Tensor, ...]:
        """Return the derivatives of μ · g by maps and offsets, g the gradient of the objective."""
        at = self.residual(self.local(coefficients))
        along = self.local(adjoint) - self.offsets
        of_offsets = (_curvature(at) @ along[..., None])[..., 0]
        force = (at.value[..., None] * at.first)[..., None]
        return force * adjoint[:, None, None] + of_offsets[..., None] * coefficients[:, None, None], of_offsets

    def _rows(self, first: Tensor) -> Tensor:
        """Return the Jacobian of the residuals by the coefficients. Shape (n, P, m)."""
        return (first[:, :, None] @ self.maps)[:, :, 0]

    def _gradient(self, rows: Tensor, at: PointResidual, coefficients: Tensor) -> Tensor:
        return (rows.mT @ at.value[..., None])[..., 0] + self.ridge * coefficients

    def _hessian(self, at: PointResidual) -> Tensor:
        flat = self.maps.flatten(1, 2)
        return flat.mT @ (_curvature(at) @ self.maps).flatten(1, 2) + self._damping(flat)

    def _damping(self, like: Tensor) -> Tensor:
        return self.ridge * torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def _curvature(at: PointResidual) -> Tensor:
    """Return the second derivatives of ½ f² by the local values. Shape (n, P, s, s)."""
    return at.first[..., None] * at.first[:, :, None] + at.value[..., None, None] * at.second
