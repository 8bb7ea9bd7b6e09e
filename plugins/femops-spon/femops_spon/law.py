"""The law of SPON for RVEs of linear phases: fields from the network, everything else from exact mechanics."""

from collections.abc import Mapping

import numpy as np

from femops.errors import CaseError
from femops.law import CertificateKind, Kinematics, LawResponse
from femops.notation import Array
from femops.rve.micro import MicroFields, micro_fields
from femops.surrogate import ExactRVE, TrainedModel, torch_device
from femops.surrogate.fields import LinearFields
from femops.surrogate.torch_library import Tensor, torch
from femops_spon.families import network_of
from femops_spon.options import SPONParameters
from femops_spon.training import predict

_MORE_STEPS = 3  # what the indicator spends to see how much is still to come
_TINY = np.finfo(np.float64).tiny


class LinearSPONLaw:
    """An RVE of linear phases with the fields of the unit strains predicted.

    The homogenized stiffness is the quadratic form of the predicted fields in the exact phases: symmetric, positive
    definite, and never softer than that of the nested solve. The guaranteed bound of its error costs nothing more at
    the points, so that `error` is that bound.

    Args:
        model: The trained model, with the RVE to stand in for.
        parameters: How to run it.

    Attributes:
        stiffness: C̄, Mandel [stress]. Shape (n_s, n_s).
        fields: Fluctuations of the unit strains at the free dofs of the RVE [length]. Shape (n_free, n_s).
        metric: The norm of stresses in which errors are certified: the compliance. Shape (n_s, n_s).
        learns: Nothing.

    Raises:
        CaseError: The RVE is not periodic, or its dimension is not that of the model.
    """

    kinematics = Kinematics.SMALL_STRAIN
    n_state = 0
    learns = False

    def __init__(self, model: TrainedModel, parameters: SPONParameters) -> None:
        self.rve, self.dim = model.rve, model.rve.discretisation.dim
        self.state_fields: Mapping[str, slice] = {}
        self._exact = ExactRVE(model.rve)
        self._exact_answer: tuple[Array, Array | None] | None = None
        network = network_of(model, parameters.device)
        problem = LinearFields.of([model.rve], device=torch_device(parameters.device))
        fields = torch.zeros_like(problem.load)
        if parameters.start == "network":
            fields = predict(network, problem, parameters.precision)
        if parameters.corrections:
            fields = problem.improve(fields, parameters.corrections, problem.preconditioner())
        self._problem, self._fields = problem, problem.centred(fields)
        self.stiffness = _numpy(problem.homogenized(self._fields))
        self.metric = np.linalg.inv(self.stiffness)
        row = problem.row_33(self._fields)
        self._row_33 = None if row is None else _numpy(row)
        self._bound = _numpy(problem.bound(self._fields))
        self._indicator: Array | None = None

    @property
    def fields(self) -> Array:
        """Fluctuations of the unit strains at the free dofs of the RVE [length]. Shape (n_free, n_s)."""
        return self._problem.space.to_free(_numpy(self._fields).reshape(self._problem.space.n_dofs, -1))

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Return the response of the RVE; see `MaterialLaw.evaluate`."""
        n = len(strain)
        tangent = np.tile(self.stiffness, (n, 1, 1))
        normal = None if self._row_33 is None else strain @ self._row_33
        return LawResponse(
            strain @ self.stiffness, tangent, np.empty((n, 0)), normal, self._relative(strain, self._bound)
        )

    def certify(self, strain: Array, response: LawResponse, kind: CertificateKind) -> Array:
        """Return the relative error of the stress in the norm of `metric`: a bound, or what more steps would change."""
        if kind == "bound":
            return self._relative(strain, self._bound)
        if self._indicator is None:
            better = self._problem.improve(self._fields, _MORE_STEPS, self._problem.preconditioner())
            self._indicator = self.stiffness - _numpy(self._problem.homogenized(better))
        change = strain @ self._indicator
        return np.sqrt(_form(change, self.metric) / np.maximum(_form(strain, self.stiffness), _TINY))

    def solve_exactly(self, strain: Array, state: Array, dt: float) -> LawResponse:
        """Answer with the nested solve, which is done once: the RVE is linear."""
        if self._exact_answer is None:
            units = self._exact.solve(np.eye(strain.shape[1]))
            self._exact_answer = units.stress, units.stress_33
        stiffness, row = self._exact_answer
        n = len(strain)
        normal = None if row is None else strain @ row
        return LawResponse(strain @ stiffness, np.tile(stiffness, (n, 1, 1)), np.empty((n, 0)), normal, np.zeros(n))

    def enriched(self, strain: Array) -> "LinearSPONLaw":
        """Refuse; see `learns`.

        Raises:
            CaseError: Always.
        """
        raise CaseError("the law 'spon' cannot learn on the way; expected false", key="enrich")

    def micro_fields(self, strain: Array, state: Array) -> MicroFields:
        """Return the fields inside the RVE of one point.

        Args:
            strain: Macroscale strain, Mandel. Shape (n_s,).
            state: Not used. Shape (0,).
        """
        solver = self._exact.solver
        history = [one[:, :, 0] for one in solver.virgin_history(1)]
        return micro_fields(self.rve, solver, strain, self.fields @ strain, history)

    def _relative(self, strain: Array, error: Array) -> Array:
        """Return the bound of ‖ΔC E‖ / ‖C̄ E‖ for all symmetric ΔC with 0 ≤ ΔC ≤ `error`.

        In the norm of the compliance ‖ΔC E‖² ≤ λ E·ΔC·E, λ the largest eigenvalue of `error` relative to C̄.
        """
        root = np.linalg.inv(np.linalg.cholesky(self.stiffness))
        largest = max(float(np.linalg.eigvalsh(root @ error @ root.T)[-1]), 0.0)
        work = np.maximum(_form(strain, self.stiffness), _TINY)
        return np.sqrt(largest * np.maximum(_form(strain, error), 0.0) / work)


def _form(vectors: Array, matrix: Array) -> Array:
    return np.asarray(np.einsum("ns,st,nt->n", vectors, matrix, vectors))


def _numpy(values: Tensor) -> Array:
    """Return the only one of a batch."""
    return np.asarray(values.detach()[0].to("cpu", torch.float64).numpy())
