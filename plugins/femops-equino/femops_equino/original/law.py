"""The original EquiNO as a surrogate: plain snapshots, modes in L2 norms, two networks, no corrections.

Modes result from proper orthogonal decompositions of the fluctuations and, separately, of the stresses, with
quadrature weights. Every mode is a linear combination of snapshots, so that displacements are periodic and stresses in
equilibrium; the same combination of the snapshots' S_33 gives the stress normal to the plane.

ε = E + BΦ_u a and σ = Φ_σ b are admissible, so that with η² = ⟨ψ(ε) + ψ*(σ) − σ : ε⟩ and S_σ = ⟨σ⟩, for every H,

    S_σ : (E + H) − ⟨ψ*(σ)⟩ ≤ W(E + H) ≤ W(E) + S : H + ½ H : C : H,       W(E) ≤ ⟨ψ(ε)⟩,      S_σ : E = ⟨σ : ε⟩,

with the tangent C at zero strain, where the phases are stiffest. Hence (S_σ − S) : H ≤ η² + ½ H : C : H, and the
optimal H gives ‖S_σ − S‖ ≤ √2 η in the norm of C⁻¹. Where σ exceeds the strength of a phase and η is infinite, the
bound is that of θ σ with θ < 1 plus the distance (1 − θ) ‖S_σ‖.
"""

import time
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from femops.errors import CaseError
from femops.law import CertificateKind, LawResponse, StrainMeasure
from femops.notation import Array
from femops.phases import HyperelasticPhase, Phase, fenchel_gap
from femops.phases.saturating import Saturating
from femops.rve.micro import MicroFields
from femops.rve.sampling import sobol
from femops.rve.spec import RVE
from femops.surrogate import CheckedArrays, ExactRVE, Fit, FitTask, TrainedModel, chunks, within
from femops.surrogate.exact import check_elastic
from femops_equino.fields import fields_with_stress
from femops_equino.offline import operators_of
from femops_equino.options import EquiNOOptions, EquiNOParameters
from femops_equino.original.modes import OriginalModes, original_modes
from femops_equino.original.networks import OriginalResponse, evaluate_original, stored_weights
from femops_equino.reduced.admissible import CACHE_BYTES
from femops_equino.reduced.certificate import Gap, relative_error
from femops_equino.reduced.pod import ElasticRVE

_MODES = 16
_NETWORKS = "networks."
_RATE, _SAVE_EVERY = 3e-3, 100
_FIELDS_AT_ONCE = 12
_PARTS = (0.98, 0.95, 0.9, 0.8, 0.65, 0.5, 0.25, 0.0)  # θ; zero stress is below the strength of every phase


def fit_original(task: FitTask) -> Fit:
    """Train the original networks; see `EquiNOOptions`, whose `modes` and `stress_modes` are 16 here by default.

    Raises:
        CaseError: A phase has internal state.
    """
    check_elastic(task.rve)
    options: EquiNOOptions = task.options
    begin = time.perf_counter()
    n_modes = options.modes if "modes" in options.model_fields_set else _MODES
    found = original_modes(task, n_modes, options.stress_modes or n_modes)
    seconds = {"seconds_reduction": time.perf_counter() - begin}
    operators = operators_of(task)
    weights, losses = _train(task, operators, found)
    seconds["seconds_networks"] = time.perf_counter() - begin - seconds["seconds_reduction"]
    arrays = {
        "modes.displacement": found.displacement,
        "modes.stress": found.stress,
        "modes.normal": found.normal,
        "metric": _metric(operators, task.solver.solver.elastic_sensitivity),
        **{_NETWORKS + name: one for name, one in weights.items()},
    }
    metrics = {"displacement_modes": len(found.displacement.T), "stress_modes": len(found.stress.T), **seconds}
    settings = {"mode": options.mode, "options": options.model_dump(mode="json")}
    curves = {"Lost by the modes": found.lost, "Loss": {"mismatch": losses}}
    return Fit(arrays, settings, metrics, curves, {"Lost by the modes": "number of modes"})


def _train(task: FitTask, operators: ElasticRVE, found: OriginalModes) -> tuple[Mapping[str, Array], Array]:
    """Return the weights of both networks and their losses."""
    from femops.devices import torch_device  # torch takes seconds to import: only for training
    from femops.surrogate.learning.loop import Schedule
    from femops_equino.original.training import OriginalOptions, OriginalProblem, train_original

    options: EquiNOOptions = task.options
    d = task.rve.discretisation
    problem = OriginalProblem(
        (operators.gradient @ found.displacement).reshape(d.n_s, d.n_points, -1),
        found.stress.reshape(d.n_s, d.n_points, -1),
        operators.weight,
        operators.volume,
        task.rve.phases,
        tuple(d.points_of_phase(position) for position in range(len(task.rve.phases))),
        sobol(task.low, task.high, options.original.collocation, options.seed + 3),
        found.displacement_unit,
        found.stress_unit,
    )
    block = options.original
    schedule = Schedule(block.adam_steps, _RATE, _SAVE_EVERY, lbfgs_steps=block.lbfgs_steps, seed=options.seed)
    settings = OriginalOptions(schedule, device=str(torch_device("auto", 0)))
    trained = train_original(problem, settings, "mismatch", task.checkpoint, task.progress)
    return trained.weights, trained.losses


def _stiffest_at_zero(phase: Phase) -> bool:
    """Return whether the bound of this module holds for a phase; other convex phases may stiffen."""
    return isinstance(phase, HyperelasticPhase) and (phase.linear or isinstance(phase, Saturating))


def _metric(operators: ElasticRVE, sensitivity: Array) -> Array:
    """Return the inverse of the homogenized tangent at zero strain."""
    n_s, weight = operators.n_s, operators.weight
    unit = operators.gradient @ sensitivity + np.repeat(np.eye(n_s), len(weight), axis=0)
    fields = (unit * np.tile(weight, n_s)[:, None], operators.stress_of(unit))
    metric = np.linalg.inv(fields[0].T @ fields[1] / operators.volume)
    return np.asarray(0.5 * (metric + metric.T))


def _check(parameters: EquiNOParameters) -> None:
    """Refuse parameters that mode original does not use."""
    if parameters.corrections not in ("auto", 0):
        problem = f"{parameters.corrections} given, but mode original has no corrections; expected 0 or auto"
        raise CaseError(problem, key="corrections")
    heeded = {
        "potential": (parameters.potential, ("network",)),
        "start": (parameters.start, ("auto",)),
        "device": (parameters.device, ("auto", "cpu")),
    }
    for key, (given, expected) in heeded.items():
        if given not in expected:
            problem = f"{given!r} given, but mode original has networks on the CPU only"
            raise CaseError(f"{problem}; expected {' or '.join(expected)}", key=key)
    if "tolerance" in parameters.model_fields_set:
        raise CaseError("given, but mode original has no corrections that could stop there", key="tolerance")


class OriginalLaw:
    """Law of the original EquiNO, without state and corrections.

    Args:
        model: The trained model.
        parameters: Parameters in the case.

    Attributes:
        metric: The norm of stresses in which errors are certified: √(s · metric · s). Shape (n_s, n_s).
        displacement: Φ_u at the free dofs. Shape (n_free, n_displacement_modes).
        stress: Φ_σ at the quadrature points. Shape (n_s · n_points, n_stress_modes).
        weights: Weights of the networks.

    Raises:
        CaseError: A parameter is given that only mode certified supports.
    """

    strain_measure = StrainMeasure.SMALL_STRAIN
    n_state = 0

    def __init__(self, model: TrainedModel, parameters: EquiNOParameters) -> None:
        _check(parameters)
        self.trained, self.parameters = model, parameters
        self.rve: RVE = model.rve
        self.dim = model.rve.discretisation.dim
        self.low, self.high = model.low, model.high
        self.state_fields: Mapping[str, slice] = {}
        self._exact = ExactRVE(model.rve)
        d = model.rve.discretisation
        arrays = CheckedArrays(model.arrays, n_s=d.n_s)
        self.metric = arrays.take("metric", "n_s", "n_s")
        self.displacement = arrays.take("modes.displacement", self._exact.solver.free.count, "n_displacement")
        self.stress = arrays.take("modes.stress", d.n_s * d.n_points, "n_stress")
        self._normal = arrays.take("modes.normal", "n_stress" if d.dim == 2 else 0)
        weights = stored_weights(arrays.part(_NETWORKS))
        self.weights = {name: one.astype(parameters.precision) for name, one in weights.items()}

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return the response of the networks; see `MaterialLaw.evaluate`."""
        found = self._networks(strain)
        valid = within(strain, self.low, self.high)
        stress, tangent = (np.ascontiguousarray(one, dtype=np.float64) for one in (found.stress, found.tangent))
        state = np.zeros((len(strain), 0))
        if self.dim == 3:
            return LawResponse(stress, tangent, state, valid=valid)
        stress_33, tangent_33 = found.stress_coefficients @ self._normal, found.stress_slopes @ self._normal
        return LawResponse(stress, tangent, state, stress_33, valid=valid, tangent_33=tangent_33)

    def certify(self, strain: Array, response: LawResponse, kind: CertificateKind) -> Array:
        """Return the bound for both kinds, with all quadrature points. See `CertifiedLaw.certify`."""
        if not all(_stiffest_at_zero(phase) for phase in self.rve.phases):
            return np.full(len(strain), np.inf)
        found = self._networks(strain)
        error = self._bound(strain, response.stress, found, 1.0)
        beyond = np.isinf(error)
        if beyond.any():
            there, stress = strain[beyond], response.stress[beyond]
            found = self._networks(there)
            error[beyond] = np.min([self._bound(there, stress, found, theta) for theta in _PARTS], axis=0)
        return error

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Solve the RVE itself, starting from the fluctuation of the network."""
        coefficients = self._networks(strain).displacement
        answer = self._exact.solve(strain, lambda part: coefficients[part] @ self.displacement.T)
        state, error = np.zeros((len(strain), 0)), np.zeros(len(strain))
        return LawResponse(answer.stress, answer.tangent, state, answer.stress_33, error, tangent_33=answer.tangent_33)

    def fields(self, strain: Array) -> tuple[Array, Array]:
        """Return the networks' fluctuations (n_free, n) and in-plane stresses (n_s, n_points, n)."""
        found = self._networks(strain)
        d = self.rve.discretisation
        stress = self.stress @ found.stress_coefficients.T
        return self.displacement @ found.displacement.T, stress.reshape(d.n_s, d.n_points, -1)

    def micro_fields(self, strain: Array, state: Array) -> MicroFields:
        """Return the fields inside the RVE of one point: the networks' fluctuation and in-plane stress.

        Args:
            strain: Macroscale strain, Mandel. Shape (n_s,).
            state: State of the point. Shape (0,).
        """
        fluctuation, stress = self.fields(strain[None])
        return fields_with_stress(self._exact, strain, fluctuation[:, 0], stress[:, :, 0])

    def exact_micro_fields(self, strain: Array, state: Array) -> MicroFields:
        """Return the fields of `solve_exactly` at one point; arguments as in `micro_fields`."""
        return self._exact.micro_fields(strain, self.displacement @ self._networks(strain[None]).displacement[0])

    def _networks(self, strain: Array) -> OriginalResponse:
        return evaluate_original(self.weights, strain.astype(self.parameters.precision))

    @cached_property
    def _strain_modes(self) -> Array:
        """BΦ_u. Shape (n_s, n_points, n_modes)."""
        d, free = self.rve.discretisation, self._exact.solver.free
        gradient = d.gradient(free.of, slice(0, len(d.mesh.cells)), free.count)
        return np.asarray((gradient @ self.displacement).reshape(d.n_s, d.n_points, -1))

    def _bound(self, strain: Array, stress: Array, found: OriginalResponse, theta: float) -> Array:
        """Return the bound with the stress of the networks scaled by θ. Shape (n,)."""
        n_s, n_points, _ = self._strain_modes.shape
        parts = chunks(len(strain), 8 * n_s * n_points * _FIELDS_AT_ONCE, CACHE_BYTES)
        a, b = found.displacement, theta * found.stress_coefficients
        eta = np.concatenate([np.zeros(0), *(self._gap(strain[one], a[one], b[one]) for one in parts)])
        gap = Gap(eta, theta * found.stress, np.ones(len(strain)), a)
        return relative_error(strain, stress, gap, self.metric, "bound")

    def _gap(self, strain: Array, a: Array, b: Array) -> Array:
        """Return η². Shape (n,)."""
        d = self.rve.discretisation
        local = np.tensordot(self._strain_modes, a, axes=([2], [1])) + strain.T[:, None]
        stress = (self.stress @ b.T).reshape(local.shape)
        density = np.zeros(local.shape[1:])
        for position, phase in enumerate(self.rve.phases):
            if isinstance(phase, HyperelasticPhase):
                part = d.points_of_phase(position)
                density[part] = fenchel_gap(phase, local[:, part], stress[:, part])
        return np.asarray(d.weight.ravel() @ density / d.volume)
