"""Laws as materials of FElupe (tested with felupe 11.3)."""

from typing import Any

import numpy as np

from femops import notation
from femops.conversions import tangent_to_tensor, tangent_with_33, with_33
from femops.hosts.host_law import HostLaw
from femops.law import LawResponse
from femops.notation import Array


class Material(HostLaw):
    """Small-strain material of a `felupe.SolidBody`; arguments as of `HostLaw`.

    A plane-strain law belongs to a `felupe.FieldPlaneStrain`, a law in 3D to a `felupe.Field` of three dimensions. The
    state of the law is the state of the solid body, which FElupe commits when a step has converged.
    """

    @property
    def x(self) -> list[Array]:
        """Arrays with the shapes of the deformation gradient and the state of a point, as FElupe asks for them."""
        return [np.eye(3), np.zeros(self.law.n_state)]

    def gradient(self, x: list[Array]) -> list[Array]:
        """Return stress [stress], shape (3, 3, q, c), and trial state, shape (n_state, q, c).

        Args:
            x: Deformation gradient, shape (3, 3, q, c), and committed state, shape (n_state, q, c).
        """
        response = self._respond(x)
        vector = response.stress if response.stress_33 is None else with_33(response.stress, response.stress_33)
        return [_trailing(notation.to_tensor(vector), x), _trailing(response.state, x)]

    def hessian(self, x: list[Array]) -> list[Array]:
        """Return the tangent [stress], shape (3, 3, 3, 3, q, c); arguments as of `gradient`."""
        response = self._respond(x)
        tangent = response.tangent
        if self.law.dim == 2:
            # the row of stress_33 is not assembled in plane strain
            row = np.zeros_like(response.stress) if response.tangent_33 is None else response.tangent_33
            tangent = tangent_with_33(tangent, row)
        return [_trailing(tangent_to_tensor(tangent), x)]

    def _respond(self, x: list[Array]) -> LawResponse:
        gradient, state = x
        displacement_gradient = np.moveaxis(gradient, (0, 1), (-2, -1)).reshape(-1, *gradient.shape[:2]) - np.eye(3)
        if self.law.dim == 2:
            if displacement_gradient[:, 2].any() or displacement_gradient[:, :, 2].any():
                raise ValueError(
                    "the field has strains out of the plane, expected felupe.FieldPlaneStrain for a 2D law"
                )
            displacement_gradient = displacement_gradient[:, :2, :2]
        strain = notation.from_tensor(displacement_gradient)
        return self.evaluate(strain, np.moveaxis(state, 0, -1).reshape(len(strain), self.law.n_state))


def _trailing(values: Array, x: list[Any]) -> Array:
    """Return arrays with points first as FElupe has them: points last, shape (..., q, c)."""
    return np.ascontiguousarray(np.moveaxis(values, 0, -1)).reshape(*values.shape[1:], *x[0].shape[2:])
