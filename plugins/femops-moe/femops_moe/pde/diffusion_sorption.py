"""Diffusion and sorption in a column: ∂_t m(u) = D ∂_xx u with m(u) = u + a uⁿ (Freundlich's isotherm).

R = m' is the retardation, R = 1 + (1 − φ)/φ ρ_s k n uⁿ⁻¹. The parameters are those of PDEBench (Takamoto et al.,
NeurIPS 2022, arXiv 2210.07182): u(x, 0) is constant and uniformly distributed in [0, 0.2], u(0, t) = 1,
u(1, t) = −D ∂_x u, and 0 < t ≤ 500.

The unknowns are means over cells; the equation is integrated over cells and time steps, by the trapezoidal rule in
time. The boundary layer grows like √t: the time levels are t_i = 500 (i / n_t)².
"""

import numpy as np
from scipy.linalg import solve_banded

from femops.devices.torch_library import Tensor, torch
from femops.errors import NotConverged
from femops.notation import Array
from femops_moe.least_squares import PointResidual

DIFFUSION, POROSITY, DENSITY, FREUNDLICH, EXPONENT = 5e-4, 0.29, 2880.0, 3.5e-4, 0.874
SORPTION = (1.0 - POROSITY) / POROSITY * DENSITY * FREUNDLICH
END, LARGEST_INITIAL = 500.0, 0.2
_TYPICAL = 0.3
_SHIFT = 1e-6  # of u in uⁿ, whose derivative is infinite at zero; as in PDEBench
_FINER_CELLS, _FINER_STEPS = 4, 16  # of the reference solution
_NEWTON_STEPS, _TOLERANCE = 30, 1e-11


class HeatInverse:
    """Solution of the heat equation with the retardation of u = 0.3, for given residuals: B of the least squares.

    Args:
        steps: Number of time steps.
        cells: Number of cells, with u = 0 at both ends.
        h: Size of a cell.
    """

    def __init__(self, steps: int, cells: int, h: float) -> None:
        laplacian = np.diag(np.full(cells, -2.0)) + np.diag(np.ones(cells - 1), 1) + np.diag(np.ones(cells - 1), -1)
        laplacian[[0, -1], [0, -1]] = -3.0
        values, vectors = np.linalg.eigh(laplacian / h**2)
        retardation = float(_content(torch.tensor(_TYPICAL))[1])
        half = 0.5 * DIFFUSION * np.diff(time_levels(steps)) * values[:, None]
        advance, step = np.zeros((cells, steps, steps)), np.arange(steps)
        advance[:, step, step] = retardation - half
        advance[:, step[1:], step[:-1]] = -retardation - half[:, 1:]
        self._vectors, self._inverse = torch.from_numpy(vectors), torch.from_numpy(np.linalg.inv(advance))

    def apply(self, values: Tensor) -> Tensor:
        """Return B x of values (n, steps · cells, c)."""
        return self._applied(values, self._inverse)

    def transposed(self, values: Tensor) -> Tensor:
        """Return Bᵀ x of values (n, steps · cells, c)."""
        return self._applied(values, self._inverse.mT)

    def _applied(self, values: Tensor, inverse: Tensor) -> Tensor:
        n, _, c = values.shape
        cells, steps, _ = inverse.shape
        modes = self._vectors.mT @ values.reshape(n * steps, cells, c)
        modes = inverse @ modes.reshape(n, steps, cells, c).permute(2, 1, 0, 3).reshape(cells, steps, n * c)
        back = modes.reshape(cells, steps, n, c).permute(2, 1, 0, 3).reshape(n * steps, cells, c)
        return (self._vectors @ back).reshape(n, steps * cells, c)


class DiffusionSorption:
    """See `femops_moe.pde.equation.Equation`; initial values are (n,).

    Args:
        cells: Number of cells.
        steps: Number of time steps.
    """

    n_inputs, n_outputs = 3, 1
    experts: tuple[int, ...] = (1, 4)
    strides: tuple[int, ...] = (1, 1)

    def __init__(self, cells: int, steps: int) -> None:
        self.grid: tuple[int, ...] = (steps, cells)
        self._h = 1.0 / cells
        self._dt = torch.as_tensor(np.diff(time_levels(steps)))[:, None]

    def draw(self, random: np.random.Generator, n: int) -> Array:
        """Return random initial values. Shape (n,)."""
        return random.uniform(0.0, LARGEST_INITIAL, n)

    def solve(self, initial: Array) -> Array:
        """Return means over the cells of a solution on a finer grid, with finer steps. Shape (n, *grid)."""
        steps, cells = self.grid
        fine = finite_volumes(initial, _FINER_CELLS * cells, _FINER_STEPS * steps)[:, _FINER_STEPS - 1 :: _FINER_STEPS]
        return np.asarray(fine.reshape(len(initial), steps, cells, _FINER_CELLS).mean(axis=3))

    def inputs(self, initial: Tensor) -> Tensor:
        """Return √t, x and the initial value on the grid."""
        steps, cells = self.grid
        t = (torch.arange(steps).to(initial) + 1.0)[:, None].expand(self.grid) / steps
        x = (torch.arange(cells).to(initial) + 0.5).expand(self.grid) / cells
        values = initial[:, None, None] / LARGEST_INITIAL
        return torch.stack([one.expand(len(initial), *self.grid) for one in (t, x, values)], 1)

    def fields(self, outputs: Tensor) -> Tensor:
        """Return the output itself."""
        return outputs

    def base(self, initial: Tensor) -> Tensor:
        """Return the initial values at all times."""
        return initial[:, None, None].expand(-1, *self.grid)

    def local(self, fields: Tensor) -> Tensor:
        """Return u after and before each step, and D ∂_xx u · Δt."""
        before = torch.cat([torch.zeros_like(fields[..., :1, :]), fields[..., :-1, :]], -2)
        return self._local(fields, before, 0.0).permute(0, 2, 3, 4, 1)

    def offsets(self, initial: Tensor) -> Tensor:
        """Return the same of the base."""
        base = self.base(initial)
        return self._local(base, base, 1.0)

    def _local(self, after: Tensor, before: Tensor, left: float) -> Tensor:
        mean = 0.5 * (self._laplacian(after, left) + self._laplacian(before, left))
        return torch.stack([after, before, DIFFUSION * self._dt.to(after) * mean], -1)

    def _laplacian(self, u: Tensor, left: float) -> Tensor:
        """Return ∂_xx u as the difference of the gradients at both faces of the cells."""
        right = _at_right_face(self._h) * u[..., -1:]
        ends = 2.0 * (u[..., :1] - left) / self._h, 2.0 * (right - u[..., -1:]) / self._h
        gradient = torch.cat([ends[0], u.diff(dim=-1) / self._h, ends[1]], -1)
        return gradient.diff(dim=-1) / self._h

    def metric(self, boxes: tuple[int, ...]) -> HeatInverse:
        """Return B, which makes the residual about as large as the error."""
        return HeatInverse(self.grid[0] // boxes[0], self.grid[1] // boxes[1], self._h)

    def residual(self, values: Tensor) -> PointResidual:
        """Return m(u) after a step minus m(u) before it minus D ∂_xx u · Δt."""
        (after, d_after, dd_after), (before, d_before, dd_before) = (_content(values[..., i]) for i in (0, 1))
        first = torch.stack([d_after, -d_before, -torch.ones_like(after)], -1)
        second = torch.diag_embed(torch.stack([dd_after, -dd_before, torch.zeros_like(after)], -1))
        return PointResidual(after - before - values[..., 2], first, second)


def time_levels(steps: int) -> Array:
    """Return the beginning and the ends of the steps. Shape (steps + 1,)."""
    return END * np.linspace(0.0, 1.0, steps + 1) ** 2


def finite_volumes(initial: Array, cells: int, steps: int) -> Array:
    """Solve by the trapezoidal rule and Newton's method.

    Args:
        initial: Initial values. Shape (n,).
        cells: Number of cells.
        steps: Number of time steps.

    Returns:
        Means over the cells after each step. Shape (n, steps, cells).

    Raises:
        NotConverged: Newton's method failed in a step.
    """
    h, u = 1.0 / cells, np.repeat(initial[:, None], cells, axis=1)
    found = np.empty((len(initial), steps, cells))
    diagonal, beside = np.full(cells, -2.0), np.ones(cells)
    diagonal[0], diagonal[-1] = -3.0, -3.0 + 2.0 * _at_right_face(h)
    source = np.zeros(cells)
    source[0] = 2.0

    def laplacian(u: Array) -> Array:
        beyond = np.pad(u, ((0, 0), (1, 1)))
        return np.asarray((diagonal * u + beyond[:, :-2] + beyond[:, 2:] + source) / h**2)

    many, beside = len(initial) * cells, np.tile(beside, len(initial))
    beside[::cells] = 0.0  # the first cell of a sample has no neighbour in the sample before
    for step, dt in enumerate(np.diff(time_levels(steps))):
        half = 0.5 * dt * DIFFUSION
        known = _content(torch.from_numpy(u))[0].numpy() + half * laplacian(u)
        for _ in range(_NEWTON_STEPS):
            content, slope, _ = (one.numpy() for one in _content(torch.from_numpy(u)))
            wrong = content - half * laplacian(u) - known
            bands = np.zeros((3, many))
            bands[0, 1:] = -half / h**2 * beside[1:]
            bands[1] = (slope - half / h**2 * diagonal).ravel()
            bands[2, :-1] = -half / h**2 * beside[1:]
            u = u - solve_banded((1, 1), bands, wrong.ravel()).reshape(u.shape)
            if np.abs(wrong).max() < _TOLERANCE:
                break
        else:
            raise NotConverged(f"diffusion and sorption, step {step} of {steps}", (float(np.abs(wrong).max()),))
        found[:, step] = u
    return found


def _at_right_face(h: float) -> float:
    """Return u(1) relative to u half a cell before it, from u(1) = −D ∂_x u."""
    ratio = 2.0 * DIFFUSION / h
    return ratio / (1.0 + ratio)


def _content(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return m and its first two derivatives; below zero, m continues linearly."""
    shifted = u.clamp(min=0.0) + _SHIFT
    power = SORPTION * shifted**EXPONENT
    slope = EXPONENT * power / shifted
    below = u.clamp(max=0.0)
    curvature = torch.where(u > 0.0, (EXPONENT - 1.0) * slope / shifted, 0.0)
    return u + power - SORPTION * _SHIFT**EXPONENT + slope * below, 1.0 + slope, curvature
