"""Batches of small nonlinear least-squares problems, which the experts of a field solve for its coefficients.

Each problem minimises ½ |B f|² + ½ λ |c|² over coefficients c, with residuals f_g = f(M_g c + o_g) at points g. f is
a function of few local values, such as a field and its derivatives, that are affine in c. B is a linear map of the
residuals at all points: the solution of a similar, linear equation for them says more about the error than they do.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from femops.devices.torch_library import Tensor, torch

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


class Metric(Protocol):
    """The linear map B of values at the points of each of n problems."""

    def apply(self, values: Tensor) -> Tensor:
        """Return B x of values (n, P, c)."""
        ...

    def transposed(self, values: Tensor) -> Tensor:
        """Return Bᵀ x of values (n, P, c)."""
        ...


class Identity:
    """B of plain least squares."""

    def apply(self, values: Tensor) -> Tensor:
        """Return B x of values (n, P, c)."""
        return values

    def transposed(self, values: Tensor) -> Tensor:
        """Return Bᵀ x of values (n, P, c)."""
        return values


@dataclass(frozen=True)
class LeastSquares:
    """n least-squares problems of m coefficients, see `femops_moe.implicit.Problem`.

    Attributes:
        maps: M_g. Shape (n, P, s, m).
        offsets: o_g. Shape (n, P, s).
        residual: f.
        ridge: λ.
        metric: B.
    """

    maps: Tensor
    offsets: Tensor
    residual: Residual
    ridge: float
    metric: Metric

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
        """Return ½ |B f|² + ½ λ |c|². Shape (n,)."""
        return self._objective(self.local(coefficients), coefficients)

    def step(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best of some lengths of the Gauss–Newton step, and its predicted reduction.

        The reduction is relative to the objective of c = 0, so that residuals that cannot vanish do converge.
        """
        values = self.local(coefficients)
        at = self.residual(values)
        rows = self.metric.apply(self._rows(at.first))
        gradient = (rows.mT @ self._weighted(at.value))[..., 0] + self.ridge * coefficients
        factor = torch.linalg.cholesky_ex(rows.mT @ rows + self._damping())[0]
        change = -torch.cholesky_solve(gradient[..., None], factor)[..., 0]
        along, lengths = self.local(change) - self.offsets, change.new_tensor(_LENGTHS)
        tried = torch.stack([self._objective(values + a * along, coefficients + a * change) for a in _LENGTHS])
        best = tried <= tried.amin(0) * (1.0 + _EQUAL)
        length = torch.where(best, lengths[:, None], 0.0).amax(0)  # near the solution, all seem equally good
        none = self._objective(self.offsets, torch.zeros_like(coefficients))
        return length[:, None] * change, -(gradient * change).sum(1) / torch.clamp(none, min=_SMALLEST)

    def newton(self, coefficients: Tensor) -> Tensor:
        """Return a Newton step."""
        at = self.residual(self.local(coefficients))
        gradient = (self._rows(at.first).mT @ self._force(at)[..., None])[..., 0] + self.ridge * coefficients
        return -torch.linalg.solve_ex(self._hessian(at), gradient[..., None])[0][..., 0]

    def pull_back(self, coefficients: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        """Return the derivatives by maps and offsets; the Hessian is exact, symmetric, but may be indefinite."""
        at = self.residual(self.local(coefficients))
        adjoint = -torch.linalg.solve_ex(self._hessian(at), grad[..., None])[0][..., 0]
        along, force = self.local(adjoint) - self.offsets, self._force(at)[..., None]
        change = self.metric.transposed(self._weighted((at.first * along).sum(2)))
        of_offsets = at.first * change + force * (at.second @ along[..., None])[..., 0]
        of_local = (force * at.first)[..., None]
        return of_local * adjoint[:, None, None] + of_offsets[..., None] * coefficients[:, None, None], of_offsets

    def _objective(self, values: Tensor, coefficients: Tensor) -> Tensor:
        squares = self._weighted(self.residual(values).value).square().sum((1, 2))
        return 0.5 * (squares + self.ridge * coefficients.square().sum(1))

    def _weighted(self, values: Tensor) -> Tensor:
        """Return B x of values (n, P). Shape (n, P, 1)."""
        return self.metric.apply(values[..., None])

    def _force(self, at: PointResidual) -> Tensor:
        """Return Bᵀ B f. Shape (n, P)."""
        return self.metric.transposed(self._weighted(at.value))[..., 0]

    def _rows(self, first: Tensor) -> Tensor:
        """Return the Jacobian of the residuals by the coefficients. Shape (n, P, m)."""
        return (first[..., None] * self.maps).sum(2)

    def _hessian(self, at: PointResidual) -> Tensor:
        rows, flat = self.metric.apply(self._rows(at.first)), self.maps.flatten(1, 2)
        curved = self._force(at)[..., None, None] * at.second @ self.maps
        return rows.mT @ rows + flat.mT @ curved.flatten(1, 2) + self._damping()

    def _damping(self) -> Tensor:
        return self.ridge * torch.eye(self.maps.shape[-1]).to(self.maps)
