"""A hyperelastic beam under compression, a nonlinear problem near buckling."""

import numpy as np
import ufl
from dolfinx import fem

from femops.notation import Array
from femops.pde.meshes import Box, side
from femops.pde.options import BeamBlock
from femops.pde.problem import Inputs, PDEProblem
from femops.pde.random_fields import gaussian_field


def beam(block: BeamBlock) -> PDEProblem:
    """Return the problem of a beam in plane strain with clamped ends under prescribed end shortening.

    Neo-Hookean, ψ = μ/2 (tr FᵀF − 2 − 2 ln J) + λ/2 (ln J)², with Young's modulus exp(s), s a Gaussian random field.
    Inputs: `modulus`, constant on cells [force/length²], and `shortening`, relative to the length [-]. The lifting is
    uniform compression.
    """
    box = Box(block.size, block.cells, block.cell)
    space, *coarse = box.spaces(block.order, (2,))
    cells = fem.functionspace(space.mesh, ("DG", 0))
    solution, modulus = fem.Function(space), fem.Function(cells)
    shortening = fem.Constant(space.mesh, 0.0)
    modulus.x.array[:] = 1.0
    points, length = space.tabulate_dof_coordinates(), block.size[0]
    ends = np.concatenate([side(points, 0, 0.0), side(points, 0, length)])

    def draw(draws: np.random.Generator) -> dict[str, Array]:
        part = np.array(draws.uniform(*block.shortening))
        field = gaussian_field(draws, 2, block.length)
        return {"modulus": np.exp(block.spread * field(cells.tabulate_dof_coordinates())), "shortening": part}

    def lifting(inputs: Inputs) -> Array:
        values = np.zeros((len(points), 2))
        values[:, 0] = -inputs["shortening"] * points[:, 0]
        return values.ravel()

    return PDEProblem(
        residual=ufl.derivative(_energy(solution, modulus, block.poisson_ratio), solution, ufl.TestFunction(space)),
        solution=solution,
        inputs={"modulus": modulus, "shortening": shortening},
        draw=draw,
        fixed=(ends[:, None] * 2 + np.arange(2)).ravel(),
        lifting=lifting,
        coarse=coarse,
        load_steps=block.load_steps,
    )


def _energy(u: ufl.core.expr.Expr, young: ufl.core.expr.Expr, ratio: float) -> ufl.Form:
    shear = young / (2.0 * (1.0 + ratio))
    lame = young * ratio / ((1.0 + ratio) * (1.0 - 2.0 * ratio))
    deformation = ufl.Identity(2) + ufl.grad(u)
    volume_change = ufl.ln(ufl.det(deformation))
    isochoric = ufl.inner(deformation, deformation) - 2.0 - 2.0 * volume_change
    return (0.5 * shear * isochoric + 0.5 * lame * volume_change**2) * ufl.dx
