"""Evaluation of trained solution operators."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from femops.devices.torch_library import Tensor, torch
from femops.errors import CaseError
from femops.notation import Array
from femops.pde.distribution import Distribution, in_distribution
from femops.pde.find import Build, stored_problem
from femops.pde.options import problem_block
from femops.pde.problem import Inputs, PDEProblem
from femops.pde.residual import ResidualLoad, residual_load
from femops.pde.solver import PDESolver, Samples
from femops.surrogate import CheckedArrays, state_dict
from femops.surrogate.store import of_arrays, read_fit, read_manifest
from femops_spon.options import SPONOptions
from femops_spon.pde.network import OperatorNetwork, Operators

WEIGHTS, SCALES, REFERENCE = "weights.", "scales.", "reference."
DISTRIBUTION, PROBE, SOLUTION = "distribution.", "probe.", "probe_solution"
_CHUNK = 64
_SOLVED = 1e-6  # tolerance of the residual of a stored solution, relative to that at its lifting


@dataclass(frozen=True)
class Prediction:
    """Predicted solutions with indicators of their reliability.

    Attributes:
        solution: Values at the dofs of the space. Shape (n, n_dofs).
        in_distribution: Whether the inputs are within the training distribution; see `femops.pde.distribution`. Shape
            (n,).
        residual: Norm of the assembled residual at the free dofs, relative to that at the lifting [-]; infinite if
            the residual is not finite. Shape (n,).
    """

    solution: Array
    in_distribution: npt.NDArray[np.bool_]
    residual: Array


class Operator:
    """The solution operator of a problem learned by SPON.

    Args:
        arrays: Weights, scales, reference inputs and samples; see `femops.surrogate.Fit`.
        settings: The `problem` and `surrogate` blocks.
        problem: The problem, or a function that builds it; by default the built-in problem of that name.
        allow_code: Whether to import the user code that the `problem` block names.

    Raises:
        CaseError: An array is missing or invalid, the operator was trained for another problem, or the problem is user
            code that is neither given nor allowed.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        settings: Mapping[str, Any],
        problem: PDEProblem | Build | None = None,
        allow_code: bool = False,
    ) -> None:
        if not isinstance(problem, PDEProblem):
            problem = stored_problem(problem_block(settings["problem"]), problem, allow_code)
        self.problem = problem
        self.solver = PDESolver(problem)
        options, stored = SPONOptions.model_validate(settings["surrogate"]), CheckedArrays(arrays)
        reference, scales, n = stored.part(REFERENCE), stored.part(SCALES), problem.n_features
        given = {name: reference.take(name, *problem.shape_of(name)) for name in problem.inputs}
        sizes = {
            "features": scales.take("features", n, positive=True),
            "features_mean": scales.take("features_mean", n),
            "slope": scales.take("slope", 1, positive=True),
        }
        self._check_problem(stored)
        self._distributions = {
            name: Distribution.from_arrays(DISTRIBUTION + name, stored, int(np.prod(problem.shape_of(name))))
            for name in problem.inputs
        }
        self.network = build_network(self.solver, given, sizes, options)
        state = state_dict(stored.part(WEIGHTS), self.network.state_dict())
        self.network.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in state.items()})

    def _check_problem(self, stored: CheckedArrays) -> None:
        """Check that a stored training solution solves the problem.

        Raises:
            CaseError: Its residual or its deviation from the prescribed values is too large.
        """
        problem, probe = self.problem, stored.part(PROBE)
        inputs = {name: probe.take(name, *problem.shape_of(name))[None] for name in problem.inputs}
        solution = stored.take(SOLUTION, problem.n_dofs)
        samples = self.solver.encode(inputs)
        residual = float(self.residuals(samples, solution[None])[0])
        size = max(float(np.abs(solution).max()), np.finfo(float).tiny)
        deviation = float(np.abs(solution - samples.lifting[0])[problem.fixed].max(initial=0.0)) / size
        if not (residual <= _SOLVED and deviation <= _SOLVED):
            found = f"relative residual {residual:.1e}, deviation from the prescribed values {deviation:.1e}"
            raise CaseError(
                f"is not the one that the operator was trained for: a stored solution has {found}", key="problem"
            )

    @overload
    def evaluate(self, inputs: Inputs, details: Literal[False] = False) -> Array: ...

    @overload
    def evaluate(self, inputs: Inputs, details: Literal[True]) -> Prediction: ...

    def evaluate(self, inputs: Inputs, details: bool = False) -> Array | Prediction:
        """Predict the solutions for samples of the inputs.

        Args:
            inputs: Values of the inputs by name, as in `Function.x.array` and `Constant.value`, with the sample as the
                leading axis.
            details: Whether to return a `Prediction` with distribution test and residual. The residual takes one
                assembly per sample, about a tenth of the time of the prediction (Poisson, 32 × 32 cells, 4 passes).

        Returns:
            Values at the dofs of the space, exact at Dirichlet dofs, shape (n, n_dofs); with `details`, a `Prediction`.

        Raises:
            CaseError: An input is missing, unknown, of another shape, or not finite and real; without `details` also if
                a solution is not finite.
        """
        given = self._checked(inputs)
        if not len(next(iter(given.values()))):
            nothing = np.zeros(0)
            solution = np.zeros((0, self.problem.n_dofs))
            return Prediction(solution, nothing.astype(bool), nothing) if details else solution
        samples = self.solver.encode(given)
        solution = self.predict(samples)
        if not details:
            wrong = np.flatnonzero(~np.isfinite(solution).all(axis=1))
            if len(wrong):
                problem = "is not finite; its inputs are too far from the training samples"
                raise CaseError(f"the prediction for sample {wrong[0]} {problem}")
            return solution
        return Prediction(solution, in_distribution(self._distributions, given), self.residuals(samples, solution))

    def residuals(self, samples: Samples, solution: Array) -> Array:
        """Return the relative residuals of solutions (n, n_dofs) of encoded samples; see `Prediction`. Shape (n,)."""
        loads = np.empty(samples.load.shape)
        for row, one in enumerate(solution):
            self.problem.set_inputs({name: values[row] for name, values in samples.inputs.items()})
            loads[row] = self.solver.load(one)
        with np.errstate(over="ignore", invalid="ignore"):
            found, size = (np.linalg.norm(one, axis=1) for one in (loads, samples.load))
            relative = np.divide(found, size, out=np.where(found == 0.0, 0.0, np.inf), where=size > 0.0)
        return np.where(np.isfinite(relative), relative, np.inf)

    def _checked(self, inputs: Inputs) -> dict[str, Array]:
        """Validate the inputs and return them as arrays in the order of the problem."""
        expected = self.problem.inputs
        if not isinstance(inputs, Mapping):
            raise CaseError(f"{type(inputs).__name__} given, expected inputs by name: {', '.join(expected)}")
        if set(inputs) != set(expected):
            raise CaseError(f"inputs {', '.join(map(str, inputs)) or 'none'} given, expected {', '.join(expected)}")
        found: dict[str, Array] = {}
        for name in expected:
            one = self.problem.shape_of(name)
            values = _real(name, inputs[name])
            count = len(next(iter(found.values()))) if found else len(values) if values.ndim == len(one) + 1 else "n"
            if values.shape != (count, *one):
                wanted = ", ".join(str(length) for length in (count, *one)) + ("," if not one else "")
                raise CaseError(f"shape {values.shape} given, expected ({wanted})", key=name)
            wrong = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, values.ndim))))
            if len(wrong):
                raise CaseError(f"sample {wrong[0]} holds values that are no finite numbers", key=name)
            found[name] = values
        return found

    def predict(self, samples: Samples) -> Array:
        """Return the predicted solutions for encoded samples. Shape (n, n_dofs)."""
        load, features = network_inputs(samples, self.problem.n_components)
        chunks = np.split(np.arange(len(load)), range(_CHUNK, len(load), _CHUNK))
        with torch.no_grad():
            parts = [
                self.network(load[rows], features[rows], assembled_residual(self.solver, samples, rows))
                for rows in chunks
            ]
        free = torch.cat(parts).reshape(len(samples.load), -1).double().numpy()
        return np.asarray(samples.lifting + (self.problem.free @ free.T).T)

    @cached_property
    def n_weights(self) -> int:
        """Number of trainable weights."""
        return sum(one.numel() for one in self.network.parameters())


def _real(name: str, given: Any) -> Array:
    """Return the values of an input in double precision.

    Raises:
        CaseError: They are not an array of real numbers.
    """
    try:
        values = np.asarray(given)
    except (ValueError, TypeError) as error:
        raise CaseError(f"{type(given).__name__} given, expected an array of real numbers", key=name) from error
    if values.dtype.kind not in "fiu":
        raise CaseError(f"{values.dtype} given, expected an array of real numbers", key=name)
    with np.errstate(over="ignore"):
        return values.astype(np.float64)


def load_operator(folder: Path, problem: PDEProblem | Build | None = None, allow_code: bool = False) -> Operator:
    """Load the operator in a model folder written by `femops train`.

    A model folder holds data only: built-in problems are built by femops, user-defined ones must be given or allowed.

    Args:
        folder: The model folder.
        problem: The problem, or a function that builds it.
        allow_code: Whether to import and run the function named in the model, if no problem is given.

    Raises:
        CaseError: The model is missing, damaged, not an operator, or of another problem, or its problem is user code
            that is neither given nor allowed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest.problem is None:
        raise CaseError("holds a law, expected the operator of a study with problem", file=folder)
    fit = read_fit(folder, manifest)
    try:
        with of_arrays(folder):
            return Operator(fit.arrays, fit.settings, problem, allow_code)
    except CaseError as error:
        raise error.within(file=folder) from error


def assembled_residual(solver: PDESolver, samples: Samples, rows: Any) -> ResidualLoad | None:
    """Return a callable for the residual load of some samples, or None if one constant stiffness computes it."""
    fixed = solver.problem.linear and not solver.problem.coefficients
    return None if fixed else residual_load(solver, samples, rows)


def network_inputs(samples: Samples, n_components: int) -> tuple[Tensor, Tensor]:
    """Return loads (n, n_nodes, n_components) and features (n, n_cells, n_features) in single precision."""
    n = len(samples.load)
    load = torch.from_numpy(samples.load.reshape(n, -1, n_components)).float()
    return load, torch.from_numpy(np.ascontiguousarray(samples.features.transpose(0, 2, 1))).float()


def build_network(
    solver: PDESolver, reference: Inputs, scales: Mapping[str, Array], options: SPONOptions
) -> OperatorNetwork:
    """Return an untrained network, initialised from the seed.

    Args:
        solver: Solver of the problem.
        reference: Inputs at which the reference stiffness is assembled.
        scales: See `OperatorNetwork`.
        options: Sizes and seed.
    """
    problem = solver.problem
    problem.set_inputs(reference)
    stiffness = solver.stiffness(np.zeros(problem.n_dofs))
    n_features = len(scales["features"])
    free_mask = problem.free.T @ np.ones(problem.n_dofs) > 0.0
    operators = Operators(problem.levels, stiffness, free_mask, problem.n_components, n_features, problem.linear)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        return OperatorNetwork(operators, scales, options)
