"""Laws at the quadrature points of scikit-fem (tested with scikit-fem 12.0)."""

from typing import Any

import numpy as np
from skfem import Basis, BilinearForm, LinearForm
from skfem.helpers import sym_grad

from femops import notation
from femops.errors import CaseError
from femops.hosts.host_law import Failure, HostLaw, OutOfRange
from femops.law import MaterialLaw
from femops.notation import Array


@LinearForm
def internal_force(v: Any, w: Any) -> Any:
    """∫ σ : ε(v) with the stress `w.stress`, Mandel, shape (n_s, n_elements, n_points)."""
    return np.einsum("i...,i...->...", _mandel(sym_grad(v)), w.stress)


@BilinearForm
def stiffness(u: Any, v: Any, w: Any) -> Any:
    """∫ ε(v) : D : ε(u) with the tangent `w.tangent`, Mandel, shape (n_s, n_s, n_elements, n_points)."""
    return np.einsum("i...,ij...,j...->...", _mandel(sym_grad(v)), w.tangent, _mandel(sym_grad(u)))


class Solid(HostLaw):
    """A body, or the elements of a body that a basis has, with a law at its quadrature points.

    Args:
        law: The law.
        basis: Basis of the displacement, a vector element of the dimension of the law.
        out_of_range: See `HostLaw`.
        not_converged: See `HostLaw`.

    Attributes:
        state: Committed state. Shape (n_elements · n_points, n_state).

    Raises:
        CaseError: The dimensions of law and mesh differ.
    """

    def __init__(
        self, law: MaterialLaw, basis: Basis, *, out_of_range: OutOfRange = "raise", not_converged: Failure = "raise"
    ) -> None:
        super().__init__(law, out_of_range, not_converged)
        if law.dim != basis.mesh.dim():
            raise CaseError(f"the law is {law.dim}D, expected {basis.mesh.dim()}D as the mesh")
        self.basis = basis
        self.state = self.virgin_state(basis.dx.size)

    def assemble(self, displacement: Array) -> tuple[Any, Array]:
        """Evaluate the law and return the tangent stiffness, sparse, and the internal force.

        Args:
            displacement: Degrees of freedom of the displacement [length]. Shape (basis.N,).
        """
        strain = _mandel(sym_grad(self.basis.interpolate(displacement)))
        points = strain.shape[1:]
        response = self.evaluate(strain.reshape(len(strain), -1).T, self.state)
        stress = np.moveaxis(response.stress, 0, -1).reshape(-1, *points)
        tangent = np.moveaxis(response.tangent, 0, -1).reshape(len(stress), len(stress), *points)
        return stiffness.assemble(self.basis, tangent=tangent), internal_force.assemble(self.basis, stress=stress)

    def commit(self) -> None:
        """Make the state of the last evaluation the committed one, at the end of a step."""
        if self.response is not None:
            self.state = self.response.state


def _mandel(strain: Any) -> Array:
    """Return the Mandel components of a symmetric tensor with components first. Shape (n_s, ...)."""
    pairs = notation.PAIRS[len(strain)]
    return np.stack([strain[i, j] * (1.0 if i == j else notation.SQRT2) for i, j in pairs])
