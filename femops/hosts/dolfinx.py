"""Laws as external operators of DOLFINx (tested with dolfinx-external-operator 0.11)."""

from collections.abc import Callable
from typing import Any

import femops.stack  # noqa: F401  # isort: skip - before DOLFINx
import basix.ufl
import ufl
from dolfinx import fem
from dolfinx_external_operator import FEMExternalOperator

from femops.errors import CaseError
from femops.hosts.host_law import Failure, HostLaw, OutOfRange
from femops.law import LawResponse, MaterialLaw
from femops.notation import Array, n_strain, ufl_strain
from femops.parallel import on_every_rank


class Stress(HostLaw):
    """The stress of a law as an external operator of the displacement; evaluations are collective.

    Args:
        law: The law.
        displacement: The displacement, a vector function of the dimension of the law.
        degree: Degree of the quadrature.
        out_of_range: See `HostLaw`.
        not_converged: See `HostLaw`.

    Attributes:
        operator: Stress, Mandel: an external operator of the strain of the displacement. Shape (n_s,).
        measure: Integration over the cells with the quadrature of the operator.
        state: Committed state at the points of the cells of this rank, with ghosts. Shape (n_qp, n_state).

    Raises:
        CaseError: The dimensions of law and mesh differ.
    """

    def __init__(
        self,
        law: MaterialLaw,
        displacement: fem.Function,
        degree: int,
        *,
        out_of_range: OutOfRange = "raise",
        not_converged: Failure = "raise",
    ) -> None:
        super().__init__(law, out_of_range, not_converged)
        mesh = displacement.function_space.mesh
        if law.dim != mesh.geometry.dim:
            raise CaseError(f"the law is {law.dim}D, expected {mesh.geometry.dim}D as the mesh")
        n_s = n_strain(law.dim)
        element = basix.ufl.quadrature_element(mesh.basix_cell(), degree=degree, value_shape=(n_s,))
        self.measure = ufl.Measure("dx", mesh, metadata={"quadrature_degree": degree, "quadrature_scheme": "default"})
        self.operator = FEMExternalOperator(
            ufl_strain(displacement, law.dim),
            function_space=fem.functionspace(mesh, element),
            external_function=self._external,
        )
        self.state = self.virgin_state(len(self.operator.ref_coefficient.x.array) // n_s)
        self._comm = mesh.comm

    def commit(self) -> None:
        """Make the state of the last evaluation the committed one, at the end of a step."""
        if self.response is not None:
            self.state = self.response.state

    def _external(self, derivatives: tuple[int, ...]) -> Callable[[Array], Any]:
        if derivatives == (0,):
            return lambda strain: self._respond(strain).stress.reshape(-1)
        if derivatives == (1,):
            return self._tangent_and_stress
        raise NotImplementedError(f"derivative {derivatives} of the stress, expected (0,) or (1,)")

    def _tangent_and_stress(self, strain: Array) -> tuple[Array, Array]:
        response = self._respond(strain)
        return response.tangent.reshape(-1), response.stress.reshape(-1)

    def _respond(self, strain: Array) -> LawResponse:
        flat = strain.reshape(-1, n_strain(self.law.dim))
        return on_every_rank(self._comm, lambda: self.evaluate(flat, self.state))
