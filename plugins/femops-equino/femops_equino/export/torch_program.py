"""The law of a trained EquiNO as an exported program of torch, which needs torch alone."""

from collections.abc import Callable, Mapping

import numpy as np

from femops.devices.torch_library import Tensor, torch
from femops.errors import CaseError
from femops.law import CertifiedLaw
from femops.surrogate import within
from femops.surrogate.programs import saved_program
from femops_equino.export.tables import starts_from_network
from femops_equino.kernels.torch_adjoint import TorchAdjoint
from femops_equino.kernels.torch_newton import Step, TorchNewton
from femops_equino.law import MOST_CORRECTIONS, EquiNOLaw
from femops_equino.networks import torch_networks
from femops_equino.networks.evaluation import Expansion
from femops_equino.networks.stored import stored_weights

Response = dict[str, Tensor]


class Program(torch.nn.Module):
    """A law as a module of torch.

    Args:
        law: The law, for its range.
        response: The response at strains (n, n_s); its `valid` is without the range.
    """

    def __init__(self, law: EquiNOLaw, response: Callable[[Tensor], Response]) -> None:
        super().__init__()
        self._low, self._high = torch.as_tensor(law.low), torch.as_tensor(law.high)
        self._response = response

    def forward(self, strain: Tensor) -> Response:
        """Return the response, with the range in `valid`."""
        response = self._response(strain)
        inside = within(strain, self._low, self._high)
        return {**response, "valid": response["valid"] & inside if "valid" in response else inside}


def torch_program(law: CertifiedLaw) -> Mapping[str, bytes]:
    """Return the saved program of a law, by the name of its file.

    It maps strains (n, n_s), n any number, to a dictionary: stress (n, n_s), tangent (n, n_s, n_s), valid (n,), with
    corrections decrement (n,), and in plane strain stress_33 (n,) and tangent_33 (n, n_s); all but `valid` in double
    precision.

    Raises:
        CaseError: The law is that of a model trained in `mode: original`, or it uses a spline.
    """
    law = certified(law, "torch")
    path = {0: uncorrected, "adjoint": _adjoint}.get(law.parameters.corrections, _corrected)
    return saved_program(Program(law, path(law)), len(law.low))


def certified(law: CertifiedLaw, target: str) -> EquiNOLaw:
    """Return a law that can be a program.

    Raises:
        CaseError: The law is that of a model trained in `mode: original`, or it uses a spline.
    """
    if not isinstance(law, EquiNOLaw):
        raise CaseError("trained in mode original, expected a model of mode certified")
    if law.parameters.potential == "spline":
        raise CaseError(f"spline given, expected network for {target}", key="potential")
    return law


def uncorrected(law: EquiNOLaw) -> Callable[[Tensor], Response]:
    """Return the response of the potential as a function of the strain."""
    potential = _network(law, "potential")
    normal = _normal(law)

    def response(strain: Tensor) -> Response:
        _, stress, tangent = torch_networks.potential(potential[0], strain, potential[1])
        return {"stress": stress, "tangent": tangent, **normal(strain)}

    return response


def _normal(law: EquiNOLaw) -> Callable[[Tensor], Response]:
    """Return stress and tangent row normal to the plane, in plane strain, as a function of the strain."""
    if law.dim == 3:
        return lambda strain: {}
    weights, at_zero = _network(law, "normal")

    def response(strain: Tensor) -> Response:
        stress_33, tangent_33 = torch_networks.coefficients(weights, strain, at_zero)
        return {"stress_33": stress_33[:, 0], "tangent_33": tangent_33[:, 0]}

    return response


def _adjoint(law: EquiNOLaw) -> Callable[[Tensor], Response]:
    potential = _network(law, "potential")
    normal = _normal(law)
    adjoint = TorchAdjoint(stored_weights(law.trained.arrays, "coefficients"), law.model, "cpu")
    low, high = torch.as_tensor(law.low), torch.as_tensor(law.high)

    def response(strain: Tensor) -> Response:
        stress, decrement = adjoint.response(strain, torch.clip(strain, low, high))
        tangent = torch_networks.potential(potential[0], strain, potential[1])[2]
        valid = torch.isfinite(decrement)
        parts = {**normal(strain), **split(stress, law)}  # whose own stress_33 is the corrected one
        return {**parts, "tangent": tangent, "valid": valid, "decrement": decrement}

    return response


def _corrected(law: EquiNOLaw) -> Callable[[Tensor], Response]:
    newton, start, corrections = TorchNewton(law.model, "cpu"), first_guess(law), law.parameters.corrections
    counted = isinstance(corrections, int)
    most = int(corrections) if counted else MOST_CORRECTIONS
    largest = np.finfo(np.float64).max if counted else law.parameters.tolerance
    n_e, n_s = law.model.n_e, len(law.low)

    def extended(strain: Tensor, coefficients: Tensor) -> Tensor:
        return torch.cat([strain, strain.new_zeros(strain.shape[0], n_e - n_s), coefficients], 1)

    def response(strain: Tensor) -> Response:
        constant = strain.detach()
        step = newton.step(extended(constant, start(constant)))
        if counted:
            for _ in range(most - 1):
                step = newton.step(extended(constant, step.coefficients))
        else:
            step = _converged(lambda a: newton.step(extended(constant, a)), step, most, law.parameters.tolerance)
        # the stress depends on the strain through the minimum, whose derivative is the condensed tangent
        stress = step.stress + (step.tangent[:, :, :n_s] @ (strain - constant)[:, :, None])[:, :, 0]
        valid = step.decrement <= largest
        return {**split(stress, law), **split_tangent(step.tangent, law), "valid": valid, "decrement": step.decrement}

    return response


def _converged(evaluate: Callable[[Tensor], Step], first: Step, most: int, tolerance: float) -> Step:
    """Return, of every point, the first evaluation whose decrement is within the tolerance, or the last one."""

    def unfinished(count: Tensor, *step: Tensor) -> Tensor:
        return (count < most) & ~(step[3] <= tolerance).all()

    def again(count: Tensor, *step: Tensor) -> tuple[Tensor, ...]:
        kept = step[3] <= tolerance
        both = zip(step, evaluate(step[0]), strict=True)
        new = (torch.where(kept.view(-1, *[1] * (old.dim() - 1)), old, one) for old, one in both)
        return (count + 1, *new)

    return Step(*torch.while_loop(unfinished, again, (torch.ones((), dtype=torch.int64), *first))[1:])


def first_guess(law: EquiNOLaw) -> Callable[[Tensor], Tensor]:
    """Return the first guess of the coefficients as a function of the strain; see `EquiNOLaw`."""
    elastic = torch.as_tensor(law.basis.elastic)
    if not starts_from_network(law):
        return lambda strain: strain @ elastic.T
    (weights, at_zero), low, high = _network(law, "coefficients"), torch.as_tensor(law.low), torch.as_tensor(law.high)

    def start(strain: Tensor) -> Tensor:
        inside = torch.clip(strain, low, high)
        guess = torch_networks.coefficients(weights, inside, at_zero)[0]
        learned, rest = elastic[: guess.shape[1]], elastic[guess.shape[1] :]
        return torch.cat([guess + (strain - inside) @ learned.T, strain @ rest.T], 1)

    return start


def _network(law: EquiNOLaw, name: str) -> tuple[dict[str, Tensor], Expansion]:
    return torch_networks.on_device(stored_weights(law.trained.arrays, name), "cpu")


def split(stress: Tensor, law: EquiNOLaw) -> Response:
    """Split stresses (n, n_e) into the first n_s components and, in plane strain, the one normal to the plane."""
    n_s = len(law.low)
    return {"stress": stress[:, :n_s], **({"stress_33": stress[:, n_s]} if law.dim == 2 else {})}


def split_tangent(tangent: Tensor, law: EquiNOLaw) -> Response:
    """Split tangents (n, n_e, n_e) in the same way."""
    n_s = len(law.low)
    row = {"tangent_33": tangent[:, n_s, :n_s].clone()} if law.dim == 2 else {}
    return {"tangent": tangent[:, :n_s, :n_s].clone(), **row}
