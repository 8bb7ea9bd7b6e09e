"""Partial differential equations with inputs, whose solution operator is learned."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import ufl
from dolfinx import fem

from femops.notation import Array, Indices
from femops.pde.levels import free_nodes, make_hierarchy, measures, scalar_space
from femops.surrogate.graph import Hierarchy

Inputs = Mapping[str, Array]
"""Values of the inputs by name; for several samples, the sample is the leading axis."""


def no_lifting(inputs: Inputs) -> float:
    """Return zero: homogeneous Dirichlet conditions."""
    return 0.0


@dataclass(frozen=True)
class PDEProblem:
    """Find u in V with u = lifting at the fixed dofs and F(u; v) = 0 for all v in V that vanish there.

    V is a Lagrange space, scalar or blocked, on any mesh of one process (MPI.COMM_SELF). Neumann terms are part of F.
    The solution is u = lifting + T q with free values q, so that Dirichlet and periodic conditions hold for any
    predicted q.

    Attributes:
        residual: F, with a test function of V.
        solution: u in V.
        inputs: Functions and Constants in F, or on which the lifting depends, by name.
        draw: Draws a random sample of the inputs, as arrays like `Function.x.array` and `Constant.value`.
        fixed: Dofs with prescribed values; component c of node i is dof i · n_components + c.
        lifting: Maps a sample of the inputs to values at all dofs of V, with the prescribed values at the fixed dofs.
        image_of: Dof that each dof is a periodic image of, or itself; None without periodicity. Shape (n_dofs,).
        coarse: Subspaces of V on coarser meshes, from fine to coarse.
        load_factor: Constant in F that is raised from 0 to 1 in load steps, like the lifting.
        load_steps: Number of load steps.
    """

    residual: Any
    solution: Any
    inputs: Mapping[str, Any]
    draw: Callable[[np.random.Generator], dict[str, Array]]
    fixed: Indices
    lifting: Callable[[Inputs], Array | float] = no_lifting
    image_of: Indices | None = None
    coarse: Sequence[Any] = field(default_factory=tuple)
    load_factor: Any = None
    load_steps: int = 1

    @property
    def space(self) -> Any:
        """V."""
        return self.solution.function_space

    @property
    def n_components(self) -> int:
        """Number of components of the solution."""
        return int(self.space.dofmap.bs)

    @property
    def n_dofs(self) -> int:
        """Number of dofs of V."""
        return int(self.space.dofmap.index_map.size_local) * self.n_components

    @cached_property
    def jacobian(self) -> Any:
        """Derivative of F with respect to u."""
        return ufl.derivative(self.residual, self.solution)

    @cached_property
    def linear(self) -> bool:
        """Whether F is affine in u."""
        return self.solution not in ufl.algorithms.expand_derivatives(self.jacobian).coefficients()

    @cached_property
    def coefficients(self) -> tuple[str, ...]:
        """Names of the inputs that enter the Jacobian; all inputs if the problem is nonlinear."""
        if not self.linear:
            return tuple(self.inputs)
        jacobian = ufl.algorithms.expand_derivatives(self.jacobian)
        present = (*jacobian.coefficients(), *jacobian.constants())
        return tuple(name for name, one in self.inputs.items() if one in present)

    @cached_property
    def _nodes(self) -> tuple[Any, Indices, Indices]:
        """Nodes of the finest level, scalar node of each node of V, and original dof of each (periodic image) dof."""
        scalar, of = scalar_space(self.space)
        size, original = self.n_components, np.arange(self.n_dofs) if self.image_of is None else self.image_of
        prescribed = np.zeros(self.n_dofs, dtype=bool)
        prescribed[original[self.fixed]] = True
        prescribed = prescribed[original].reshape(-1, size).all(axis=1)
        node_of_node = original[::size] // size
        by_scalar = np.argsort(of)
        return free_nodes(scalar, prescribed[by_scalar], of[node_of_node[by_scalar]]), of, original

    @cached_property
    def levels(self) -> Hierarchy:
        """Graphs of the free nodes of V and of the coarse spaces, finest first."""
        return make_hierarchy(self._nodes[0], [scalar_space(one)[0] for one in self.coarse])

    @cached_property
    def free(self) -> sp.csr_array:
        """T, the map from values at the nodes of the finest level to the dofs of V; columns of fixed dofs are zero.

        Shape (n_dofs, n_nodes · n_components).
        """
        nodes, of, original = self._nodes
        size = self.n_components
        free = np.ones(self.n_dofs, dtype=bool)
        free[original[self.fixed]] = False
        rows = np.flatnonzero(free[original])
        columns = nodes.of[of[rows // size]] * size + rows % size
        return sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=(self.n_dofs, len(nodes.first) * size))

    def set_inputs(self, sample: Inputs) -> None:
        """Assign a sample to the inputs, at load factor 1."""
        if self.load_factor is not None:
            self.load_factor.value = 1.0
        for name, one in self.inputs.items():
            if hasattr(one, "x"):
                one.x.array[:] = sample[name]
            else:
                one.value = sample[name]

    def lifted(self, sample: Inputs) -> Array:
        """Return the lifting of a sample. Shape (n_dofs,)."""
        return np.broadcast_to(np.asarray(self.lifting(sample), dtype=np.float64), (self.n_dofs,))

    def features(self, sample: Inputs) -> Array:
        """Return the cell means of the coefficients and, for nonlinear problems, of the gradient of the lifting.

        Shape (n_features, n_cells).
        """
        self.set_inputs(sample)
        if not self.linear:
            self.solution.x.array[:] = self.lifted(sample)
        found = [fem.assemble_vector(form).array / self._measures for form in self._feature_forms]
        return np.array(found).reshape(len(found), len(self._measures))

    @cached_property
    def _measures(self) -> Array:
        return measures(self.space.mesh)

    @cached_property
    def _feature_forms(self) -> list[Any]:
        """Forms of the integrals over each cell."""
        found = [self.inputs[name] for name in self.coefficients]
        if not self.linear:
            found.append(ufl.grad(self.solution))
        parts = [one[index] if index else one for one in found for index in np.ndindex(one.ufl_shape)]
        test = ufl.TestFunction(fem.functionspace(self.space.mesh, ("DG", 0)))
        return [fem.form(part * test * ufl.dx) for part in parts]

    @property
    def n_features(self) -> int:
        """Number of features per cell."""
        return len(self._feature_forms)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of one sample of an input."""
        one = self.inputs[name]
        return tuple(np.shape(one.x.array if hasattr(one, "x") else one.value))

    @cached_property
    def norms(self) -> dict[str, sp.csr_array]:
        """Gram matrices of the L2 norm (`l2`) and the H1 seminorm (`h1`) on V. Shape (n_dofs, n_dofs) each."""
        u, v = ufl.TrialFunction(self.space), ufl.TestFunction(self.space)
        forms = {"l2": ufl.inner(u, v) * ufl.dx, "h1": ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx}
        return {name: sp.csr_array(fem.assemble_matrix(fem.form(one)).to_scipy()) for name, one in forms.items()}
