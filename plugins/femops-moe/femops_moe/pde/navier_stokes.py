"""Decaying flow in a periodic unit square: ∂_t ω + v · ∇ω = ν Δω, v = (∂_y ψ, −∂_x ψ), −Δψ = ω.

As in the paper, the viscosity is 1e-4 and the initial vorticity is a Gaussian random field with mean zero and the
covariance 7³ (−Δ + 49)^(−5/2) of Li et al. (ICLR 2021, arXiv 2010.08895).

Basis fields are polynomials in time without constant term, whose coefficients, fields over the square, are the output
of a network. Derivatives are by finite differences of sixth order in space and exact in time.
"""

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.notation import Array
from femops_moe.least_squares import Identity, PointResidual

VISCOSITY, _SCALE, _SQUARED_WAVENUMBER, _POWER = 1e-4, 7.0**1.5, 49.0, -1.25
_GRADIENT = (0.75, -0.15, 1.0 / 60.0)  # at distances of 1, 2 and 3 cells
_LAPLACIAN = (-49.0 / 18.0, 1.5, -0.15, 1.0 / 90.0)
_FINER, _COURANT = 4, 0.5  # cells of the reference solution per cell of the grid; its time step


class NavierStokes:
    """See `femops_moe.pde.equation.Equation`; initial values are (n, cells, cells), means over finer cells.

    Args:
        cells: Number of cells along each side.
        steps: Number of time levels after the first.
        end: Time [side / velocity].
        degree: Degree of the polynomials.
    """

    n_inputs = 2
    experts: tuple[int, ...] = (1, 2, 2)
    strides: tuple[int, ...] = (1, 2, 2)

    def __init__(self, cells: int, steps: int, end: float, degree: int) -> None:
        self.grid: tuple[int, ...] = (steps + 1, cells, cells)
        self.n_outputs, self._h, self._end = degree, 1.0 / cells, end
        tau = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)
        self._powers = tau[:, None] ** torch.arange(1, degree + 1)
        every = tau[:, None] ** torch.arange(steps + 1)
        slopes = torch.arange(steps + 1) * tau[:, None] ** torch.arange(-1, steps).clamp(min=0)
        self._rate = slopes @ torch.linalg.inv(every) / end  # derivative of the polynomial through all levels
        self._inverse_laplacian = _inverse_laplacian(cells)

    def draw(self, random: np.random.Generator, n: int) -> Array:
        """Return random initial values. Shape (n, cells, cells)."""
        return random_vorticity(random, n, self.grid[1])

    def solve(self, initial: Array) -> Array:
        """Return the vorticity of a solution on a finer grid, extrapolated from two grids. Shape (n, *grid)."""
        coarse, fine = (self.solved(initial, factor) for factor in (_FINER // 2, _FINER))
        return (4.0 * fine - coarse) / 3.0

    def solved(self, initial: Array, factor: int) -> Array:
        """Return the vorticity of a solution with as many times more cells along each side. Shape (n, *grid)."""
        levels = finite_volumes(refined(initial, factor), self._end, self.grid[0] - 1)
        return sampled(levels, self.grid[1])

    def inputs(self, initial: Tensor) -> Tensor:
        """Return the initial vorticity, and its first rate of change."""
        values = self.offsets(initial)[:, 0]
        rate = -self.residual(values.flatten(1, 2)).value.unflatten(1, self.grid[1:])
        return torch.stack([initial, rate * self._end], 1)

    def fields(self, outputs: Tensor) -> Tensor:
        """Return polynomials in time."""
        return torch.einsum("nmjxy,tj->nmtxy", outputs.unflatten(1, (-1, self.n_outputs)), self._powers.to(outputs))

    def base(self, initial: Tensor) -> Tensor:
        """Return the initial values at all times."""
        return initial[:, None].expand(-1, *self.grid)

    def local(self, fields: Tensor) -> Tensor:
        """Return ∂_t ω − ν Δω, v and ∇ω."""
        return self._local(fields).movedim(1, -1)

    def offsets(self, initial: Tensor) -> Tensor:
        """Return the same of the base."""
        return self._local(self.base(initial))

    def _local(self, omega: Tensor) -> Tensor:
        rate = torch.einsum("ti,...ixy->...txy", self._rate.to(omega), omega)
        gradient, laplacian = [], 2.0 * _LAPLACIAN[0] * omega
        for axis in (-2, -1):
            slope = torch.zeros_like(omega)
            for k in (1, 2, 3):
                ahead, behind = omega.roll(-k, axis), omega.roll(k, axis)
                slope = slope + _GRADIENT[k - 1] / self._h * (ahead - behind)
                laplacian = laplacian + _LAPLACIAN[k] * (ahead + behind)
            gradient.append(slope)
        return torch.stack([rate - VISCOSITY / self._h**2 * laplacian, *self._velocity(omega), *gradient], -1)

    def _velocity(self, omega: Tensor) -> tuple[Tensor, Tensor]:
        stream = torch.fft.rfft2(omega) * self._inverse_laplacian.to(omega)
        x, y = _wavenumbers(omega.shape[-1])
        components = torch.stack([1j * y * stream, -1j * x * stream])
        u, v = torch.fft.irfft2(components, omega.shape[-2:])
        return u, v

    def metric(self, boxes: tuple[int, ...]) -> Identity:
        """Return the identity: the error is about the integral of the residual over time."""
        return Identity()

    def residual(self, values: Tensor) -> PointResidual:
        """Return ∂_t ω − ν Δω + v · ∇ω."""
        linear, u, v, x, y = values.unbind(-1)
        first = torch.stack([torch.ones_like(u), x, y, u, v], -1)
        second = values.new_zeros(5, 5)
        second[[1, 2, 3, 4], [3, 4, 1, 2]] = 1.0
        return PointResidual(linear + u * x + v * y, first, second.expand(*u.shape, 5, 5))


def random_vorticity(random: np.random.Generator, n: int, cells: int) -> Array:
    """Return Gaussian random fields at the centres of cells; the same at centres of finer grids. (n, cells, cells)."""
    x, y = (one.numpy() for one in _wavenumbers(cells))
    size = _SCALE * np.sqrt(2.0) * (x**2 + y**2 + _SQUARED_WAVENUMBER) ** _POWER
    size[0, 0] = size[cells // 2] = size[:, -1] = 0.0
    noise = random.standard_normal((n, cells, cells))
    return np.asarray(np.fft.irfft2(size * np.fft.rfft2(noise) * cells, (cells, cells)))


def refined(values: Array, factor: int) -> Array:
    """Return trigonometric interpolation of values (n, c, c) at as many times more points along each side."""
    n, cells, _ = values.shape
    given, half = np.fft.rfft2(values), cells // 2
    wide = np.zeros((n, factor * cells, factor * cells // 2 + 1), dtype=complex)
    wide[:, :half, :half], wide[:, -half:, :half] = given[:, :half, :half], given[:, -half:, :half]
    return np.asarray(np.fft.irfft2(wide * factor**2, (factor * cells, factor * cells)))


def sampled(values: Array, cells: int) -> Array:
    """Return the values (..., c, c) at every (c / cells)-th point along each side."""
    factor = values.shape[-1] // cells
    return values[..., ::factor, ::factor]


def finite_volumes(initial: Array, end: float, levels: int) -> Array:
    """Solve by conservative central fluxes of second order, and the Runge–Kutta method of fourth order.

    The velocities at the faces are differences of the stream function between their ends, hence free of divergence.

    Args:
        initial: Vorticity at the centres of the cells. Shape (n, cells, cells).
        end: Time.
        levels: Number of time levels to return after the first.

    Returns:
        Shape (n, levels + 1, cells, cells).
    """
    omega = torch.from_numpy(np.ascontiguousarray(initial))
    h, factors = 1.0 / omega.shape[-1], _five_point_inverse(omega.shape[-1])
    largest = max(float(_face_velocities(omega, factors, h)[0].abs().max()) * 2.0, 1e-12)
    steps = int(np.ceil(end / levels * max(largest / (_COURANT * h), 4.0 * VISCOSITY / h**2)))
    dt, found = end / levels / steps, [omega]

    def rate(omega: Tensor) -> Tensor:
        total = torch.zeros_like(omega)
        for axis, velocity in zip((-2, -1), _face_velocities(omega, factors, h), strict=True):
            ahead = omega.roll(-1, axis)  # the face lies between the cell and the next one
            flux = 0.5 * velocity * (omega + ahead) - VISCOSITY / h * (ahead - omega)
            total = total - (flux - flux.roll(1, axis)) / h
        return total

    for _ in range(levels):
        for _ in range(steps):
            a = rate(omega)
            b = rate(omega + 0.5 * dt * a)
            c = rate(omega + 0.5 * dt * b)
            omega = omega + dt / 6.0 * (a + 2.0 * b + 2.0 * c + rate(omega + dt * c))
        found.append(omega)
    return np.asarray(torch.stack(found, 1).numpy())


def _face_velocities(omega: Tensor, factors: Tensor, h: float) -> tuple[Tensor, Tensor]:
    """Return the velocities through the faces ahead in x and in y."""
    stream = torch.fft.irfft2(torch.fft.rfft2(omega) * factors, omega.shape[-2:])
    corner = 0.25 * sum(stream.roll(shift, (-2, -1)) for shift in ((0, 0), (-1, 0), (0, -1), (-1, -1)))
    return (corner - corner.roll(1, -1)) / h, -(corner - corner.roll(1, -2)) / h


def _wavenumbers(cells: int) -> tuple[Tensor, Tensor]:
    """Return the wave numbers of `rfft2` along x and y; the shortest waves have no derivative."""
    x = 2.0 * np.pi * torch.fft.fftfreq(cells, 1.0 / cells, dtype=torch.float64)[:, None]
    y = 2.0 * np.pi * torch.fft.rfftfreq(cells, 1.0 / cells, dtype=torch.float64)
    x[cells // 2] = y[-1] = 0.0
    return x, y


def _inverse_laplacian(cells: int) -> Tensor:
    x, y = _wavenumbers(cells)
    squared = x**2 + y**2
    return torch.where(squared > 0.0, 1.0 / squared.clamp(min=1.0), 0.0)


def _five_point_inverse(cells: int) -> Tensor:
    """Return the inverse of the negative five-point Laplacian by wave number; zero for the mean."""
    x = 2.0 * np.pi * torch.fft.fftfreq(cells, dtype=torch.float64)[:, None]
    y = 2.0 * np.pi * torch.fft.rfftfreq(cells, dtype=torch.float64)
    symbol = (4.0 - 2.0 * torch.cos(x) - 2.0 * torch.cos(y)) * cells**2
    return torch.where(symbol > 1e-9, 1.0 / symbol.clamp(min=1e-9), 0.0)
