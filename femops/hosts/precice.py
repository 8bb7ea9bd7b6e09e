"""Laws as micro simulations of the preCICE Micro Manager (written for micro-manager-precice 0.12).

The file that the Micro Manager loads:

    from micro_manager import MicroSimulationInterface
    from femops import load_law
    from femops.hosts.precice import LawSimulation

    class MicroSimulation(LawSimulation, MicroSimulationInterface):
        law = load_law("models/rve3")
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from femops.conversions import Convention
from femops.errors import CaseError
from femops.hosts.host_law import Failure, HostLaw, OutOfRange
from femops.law import CertificateKind, CertifiedLaw, LawResponse, MaterialLaw
from femops.notation import Array

_UPPER = np.triu_indices(6)


class LawSimulation:
    """One macroscale point with a law in 3D.

    Data have the names that solvers of the Micro Manager use for mechanics: `strains1to3` and `strains4to6` are read;
    `stresses1to3`, `stresses4to6` and `cmat1` to `cmat7`, the upper triangle of the tangent by rows, are written, and
    `error` (infinite where unknown) and `valid` (0 or 1) for the switching of models. Every `solve` advances the state;
    in implicit coupling the Micro Manager returns to the state of its checkpoint first.

    Attributes:
        law: The law; given by the subclass, one object for all points of a process.
        convention: Order and shear factors of the data; None: Mandel notation.
        out_of_range: See `HostLaw`; `extrapolate` where a switching function takes care.
        not_converged: See `HostLaw`. The Micro Manager takes an exception for a crash of the simulation.
        certificate: How the error of a law is computed that certifies it but does not state it.

    Raises:
        CaseError: The law is not one of 3D.
    """

    law: ClassVar[MaterialLaw]
    convention: ClassVar[Convention | None] = None
    out_of_range: ClassVar[OutOfRange] = "raise"
    not_converged: ClassVar[Failure] = "raise"
    certificate: ClassVar[CertificateKind] = "indicator"

    def __init__(self, sim_id: int) -> None:
        if self.law.dim != 3:
            raise CaseError(f"the law is {self.law.dim}D, expected 3D: the data of the coupling are those of 3D")
        self._id = sim_id
        self._host = HostLaw(self.law, self.out_of_range, self.not_converged)
        self._state = self._host.virgin_state(1)

    def initialize(self) -> dict[str, Any]:
        """Return the data at zero strain in the initial state."""
        return self._respond(np.zeros((1, 6)))[0]

    def solve(self, macro_data: Mapping[str, Any], dt: float) -> dict[str, Any]:
        """Evaluate the law, advance the state and return stress, tangent and error.

        Args:
            macro_data: `strains1to3` and `strains4to6`, shape (3,) each.
            dt: Length of the increment [time].
        """
        self._host.dt = dt
        strain = np.concatenate([macro_data["strains1to3"], macro_data["strains4to6"]]).astype(np.float64)[None]
        data, self._state = self._respond(
            strain if self.convention is None else self.convention.strain_to_mandel(strain)
        )
        return data

    def get_state(self) -> dict[str, Any]:
        """Return the identity and the state of the law, for checkpoints and for other ranks."""
        return {"global_id": self._id, "state": self._state.copy()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Return to a state of `get_state`."""
        self._id, self._state = state["global_id"], np.array(state["state"])

    def get_global_id(self) -> int:
        """Return the number of the simulation."""
        return self._id

    def set_global_id(self, global_id: int) -> None:
        """Set the number of the simulation."""
        self._id = global_id

    def _respond(self, strain: Array) -> tuple[dict[str, Any], Array]:
        response = self._host.evaluate(strain, self._state)
        stress, tangent = response.stress[0], response.tangent[0]
        if self.convention is not None:
            stress = self.convention.stress_from_mandel(stress)
            tangent = self.convention.tangent_from_mandel(tangent)
        data: dict[str, Any] = {"stresses1to3": stress[:3].copy(), "stresses4to6": stress[3:].copy()}
        data |= {f"cmat{row}": part for row, part in enumerate(tangent[_UPPER].reshape(7, 3), start=1)}
        valid = response.valid is None or bool(response.valid[0])
        return {**data, "error": self._error(strain, response), "valid": float(valid)}, response.state

    def _error(self, strain: Array, response: LawResponse) -> float:
        """Return the error that the law states or certifies; infinite if there is none."""
        if response.error is not None:
            return float(response.error[0])
        if isinstance(self.law, CertifiedLaw) and np.isfinite(response.stress).all():
            return float(self.law.certify(strain, response, self.certificate)[0])
        return np.inf


SwitchingFunction = Callable[[int, Any, float, Mapping[str, Any], Mapping[str, Any] | None], int]


def switching_function(tolerance: float) -> SwitchingFunction:
    """Return a function that switches points from the first model to the second, which is then kept.

    A point is switched where the first model declares its response invalid, or where its error exceeds the tolerance
    or is not known. The file that the Micro Manager loads has `switching_function = switching_function(1e-3)`. The
    second model starts from its initial state, so that both laws must be free of history.

    Args:
        tolerance: Largest accepted relative error [-].
    """

    def switch(
        resolution: int, location: Any, t: float, inputs: Mapping[str, Any], output: Mapping[str, Any] | None
    ) -> int:
        if resolution != 0 or output is None:
            return 0
        return 0 if output["valid"] and output["error"] <= tolerance else 1

    return switch
