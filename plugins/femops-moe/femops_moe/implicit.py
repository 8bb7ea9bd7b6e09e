"""Solutions of equations as a layer of a network: derivatives from the implicit function theorem.

The unknowns q solve g(q, θ) = 0. For a loss with derivative v by q, the adjoint μ = −(∂g/∂q)⁻ᵀ v gives the derivatives
by all parameters θ: they are those of μ · g at fixed q and μ. One more linear solve therefore differentiates any number
of Newton steps, none of which is recorded.

Two equations are in use: the equilibrium of coupled experts (`Equations` here) and nonlinear least squares
(`femops_moe.least_squares`).
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, Self

from femops.devices.torch_library import Tensor, torch
from femops.surrogate import chunks
from femops_moe.experts import Experts
from femops_moe.galerkin import SchurComplement, derivatives, hessian, local_strain, point_values

_SMALLEST = 1e-30


class Problem(Protocol):
    """Equations g(q, θ) = 0 of a batch of unknowns q (n, N), and how they are solved."""

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The parameters θ that derivatives are wanted by."""
        ...

    def at(self, parameters: tuple[Tensor, ...]) -> Self:
        """Return the problem with other parameters."""
        ...

    def step(self, unknowns: Tensor) -> tuple[Tensor, Tensor]:
        """Return the change (n, N) in a step of the iteration, and a measure (n,) that is small at convergence."""
        ...

    def newton(self, unknowns: Tensor) -> Tensor:
        """Return the change (n, N) in a Newton step, as an operation that torch can differentiate."""
        ...

    def pull_back(self, unknowns: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        """Return the derivatives of μ · g by each of the parameters, with the adjoint μ of derivatives v (n, N)."""
        ...


class Solution(NamedTuple):
    """Solution of a batch of equations.

    Attributes:
        unknowns: Shape (n, N).
        converged: Whether the measure of the last step was within the tolerance. Shape (n,).
    """

    unknowns: Tensor
    converged: Tensor


def solve(problem: Problem, start: Tensor, steps: int, tolerance: float) -> Solution:
    """Solve the equations; the unknowns are differentiable once by the parameters.

    The work depends on no value, so that an accelerator is never waited for: every item takes all steps, and one that
    has converged keeps its unknowns.

    Args:
        problem: The equations.
        start: Initial unknowns. Shape (n, N).
        steps: Number of steps.
        tolerance: Measure at convergence, see `Problem.step`.
    """
    return Solution(*_Solve.apply(problem, start.detach(), steps, tolerance, *problem.parameters))


def solve_twice_differentiable(problem: Problem, start: Tensor, steps: int, tolerance: float) -> Solution:
    """Solve the equations; the unknowns are differentiable twice. Arguments as in `solve`.

    Two more Newton steps are recorded: each makes one more order of derivatives exact.
    """
    with torch.no_grad():
        unknowns, converged = _iterate(problem, start, steps, tolerance)
    for _ in range(2):
        unknowns = unknowns + problem.newton(unknowns)
    return Solution(unknowns, converged)


def _iterate(problem: Problem, start: Tensor, steps: int, tolerance: float) -> tuple[Tensor, Tensor]:
    unknowns, converged = start, start.new_zeros(len(start), dtype=torch.bool)
    for _ in range(steps):
        change, measure = problem.step(unknowns)
        converged = measure <= tolerance
        unknowns = torch.where(converged[:, None], unknowns, unknowns + change)
    return unknowns, converged


class _Solve(torch.autograd.Function):
    """The unknowns as a function of the parameters."""

    @staticmethod
    def forward(
        ctx: Any, problem: Problem, start: Tensor, steps: int, tolerance: float, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        unknowns, converged = _iterate(problem.at(parameters), start, steps, tolerance)
        ctx.problem = problem
        ctx.save_for_backward(unknowns, *parameters)
        ctx.mark_non_differentiable(converged)
        return unknowns, converged

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        unknowns, *parameters = ctx.saved_tensors
        problem = ctx.problem.at(tuple(parameters))
        return None, None, None, None, *problem.pull_back(unknowns, grad)


@dataclass(frozen=True)
class Equations:
    """Equilibrium of coupled experts at strains (n, n_s); parameters are strains, `maps` and `quadratic`."""

    experts: Experts
    strain: Tensor

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Strains, `Experts.maps` and `Experts.quadratic`."""
        return self.strain, self.experts.maps, self.experts.quadratic

    def at(self, parameters: tuple[Tensor, ...]) -> "Equations":
        """Return the equations with other parameters."""
        strain, maps, quadratic = parameters
        return Equations(replace(self.experts, maps=maps, quadratic=quadratic), strain)

    def step(self, unknowns: Tensor) -> tuple[Tensor, Tensor]:
        """Return a Newton step and its decrement relative to S : E; NaN where a factorisation failed."""
        (change, stress, work), failed = self._solved(unknowns)
        decrement = work / torch.clamp((stress * self.strain).sum(1), min=_SMALLEST)
        return change, decrement.masked_fill(failed, torch.nan)

    def newton(self, unknowns: Tensor) -> Tensor:
        """Return a Newton step."""
        return self._solved(unknowns)[0][0]

    def _solved(self, unknowns: Tensor) -> tuple[list[Tensor], Tensor]:
        at = derivatives(self.experts, self.experts.local(self.strain, unknowns))
        schur = SchurComplement(self.experts, at.hessian)
        return [one[..., 0] for one in schur.solve(at.gradient[..., None])], schur.failed

    def pull_back(self, unknowns: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        """Return the derivatives by strains, maps and quadratic forms; the stiffness is symmetric."""
        experts, z = self.experts, self.experts.local(self.strain, unknowns)
        at = point_values(experts, z)
        schur = SchurComplement(experts, hessian(experts, at.tangent))
        adjoint = schur.solve(_as_force(experts, grad))[0][..., 0]
        mu = experts.local(torch.zeros_like(self.strain), adjoint)
        along_mu = torch.einsum("stknp,tknp->sknp", at.tangent, local_strain(experts, mu))
        of_maps = torch.einsum("sknp,kni->kpsi", at.stress, mu) + torch.einsum("sknp,kni->kpsi", along_mu, z)
        of_quadratic = torch.einsum("kni,knj->kij", mu, z)
        of_z = torch.einsum("sknp,kpsi->ni", along_mu, experts.maps[..., : experts.n_s])
        of_strain = of_z + torch.einsum("kni,kis->ns", mu, experts.quadratic[..., : experts.n_s])
        return of_strain, of_maps, 0.5 * (of_quadratic + of_quadratic.mT)


def unknowns_in_equilibrium(
    experts: Experts, strain: Tensor, start: Tensor, evaluations: int, tolerance: float
) -> Tensor:
    """Return the unknowns in equilibrium, differentiable once by strain, `experts.maps` and `experts.quadratic`.

    Arguments as in `galerkin.equilibrium`. Shape (n, n_unknowns).
    """
    return _in_chunks(solve, experts, strain, start, evaluations - 1, tolerance)


def twice_differentiable(experts: Experts, strain: Tensor, start: Tensor, evaluations: int, tolerance: float) -> Tensor:
    """Return the unknowns in equilibrium, differentiable twice; arguments as in `unknowns_in_equilibrium`."""
    return _in_chunks(solve_twice_differentiable, experts, strain, start, evaluations - 1, tolerance)


def _in_chunks(solver: Any, experts: Experts, strain: Tensor, start: Tensor, steps: int, tolerance: float) -> Tensor:
    parts = list(chunks(len(strain), experts.bytes_of_one)) or [slice(0, 0)]
    found = [solver(Equations(experts, strain[part]), start[part], steps, tolerance) for part in parts]
    return torch.cat([one.unknowns for one in found])


def _as_force(experts: Experts, grad: Tensor) -> Tensor:
    """Return derivatives by the unknowns (n, n_unknowns) as those by z, of ports in the first expert. (K, n, m, 1)."""
    force = experts.local(grad.new_zeros(len(grad), experts.n_s), grad).clone()
    force[1:, :, : experts.n_shared] = 0.0
    return force[..., None]
