"""Poisson's equation on the unit square with a random source and optional random boundary values."""

import numpy as np
import ufl
from dolfinx import fem

from femops.notation import Array
from femops.pde.meshes import Box, at_points, boundary
from femops.pde.options import PoissonBlock
from femops.pde.problem import Inputs, PDEProblem, no_lifting
from femops.pde.random_fields import gaussian_field


def poisson(block: PoissonBlock) -> PDEProblem:
    """Return the problem −Δu = f, u = g on the boundary, with inputs `source` (f) and, if random, `boundary` (g)."""
    box = Box((1.0, 1.0), (block.cells, block.cells), block.cell)
    space, *coarse = box.spaces(block.order)
    solution, test = fem.Function(space), ufl.TestFunction(space)
    source, data = fem.Function(space), fem.Function(space)
    fixed = boundary(box, space.tabulate_dof_coordinates())
    random_data = block.boundary == "random"

    def draw(draws: np.random.Generator) -> dict[str, Array]:
        sample = {"source": at_points(space, gaussian_field(draws, 2, block.length))}
        if random_data:
            sample["boundary"] = on_boundary(at_points(space, gaussian_field(draws, 2, block.length)))
        return sample

    def on_boundary(values: Array) -> Array:
        found = np.zeros_like(values)
        found[fixed] = block.amplitude * values[fixed]
        return found

    def lifting(inputs: Inputs) -> Array:
        return inputs["boundary"]

    return PDEProblem(
        residual=ufl.inner(ufl.grad(solution), ufl.grad(test)) * ufl.dx - source * test * ufl.dx,
        solution=solution,
        inputs={"source": source} | ({"boundary": data} if random_data else {}),
        draw=draw,
        fixed=fixed,
        lifting=lifting if random_data else no_lifting,
        coarse=coarse,
    )
