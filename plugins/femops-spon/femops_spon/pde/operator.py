"""A trained operator: from inputs of a problem to its solution."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from femops.errors import CaseError
from femops.notation import Array
from femops.surrogate.store import read_fit, read_manifest
from femops.surrogate.torch_library import Tensor, torch
from femops_spon.options import SPONOptions
from femops_spon.pde.find import make_problem
from femops_spon.pde.network import OperatorNetwork, Operators
from femops_spon.pde.options import problem_block
from femops_spon.pde.problem import Inputs, PDEProblem
from femops_spon.pde.remainder import Remainder, remainder
from femops_spon.pde.truth import Samples, Solver

WEIGHTS, SCALES, REFERENCE = "weights.", "scales.", "reference."
_AT_ONCE = 64


class Operator:
    """The solution operator of a problem as SPON has learned it.

    Args:
        arrays: Weights, scales and reference inputs; see `femops.surrogate.Fit`.
        settings: The `problem` and `surrogate` blocks.
        problem: The problem, if it has been built already.
    """

    def __init__(
        self, arrays: Mapping[str, Array], settings: Mapping[str, Any], problem: PDEProblem | None = None
    ) -> None:
        self.problem = problem or make_problem(problem_block(settings["problem"]))
        self.solver = Solver(self.problem)
        options = SPONOptions.model_validate(settings["surrogate"])
        self.network = build_network(self.solver, _part(arrays, REFERENCE), _part(arrays, SCALES), options)
        state = {name: torch.from_numpy(np.array(values)) for name, values in _part(arrays, WEIGHTS).items()}
        self.network.load_state_dict(state)

    def evaluate(self, inputs: Inputs) -> Array:
        """Return the solution for several samples of the inputs.

        Args:
            inputs: Values of the inputs by name, as `Function.x.array` and `Constant.value` have them, with a leading
                axis.

        Returns:
            Values at the dofs of the space; those at Dirichlet dofs are exact. Shape (n, n_dofs).

        Raises:
            CaseError: An input is missing, unknown, or of another shape.
        """
        return self.answer(self.solver.encode(self._checked(inputs)))

    def _checked(self, inputs: Inputs) -> dict[str, Array]:
        """Return the inputs as arrays, in the order of the problem."""
        expected = self.problem.inputs
        if set(inputs) != set(expected):
            raise CaseError(f"inputs {', '.join(inputs) or 'none'} given, expected {', '.join(expected)}")
        arrays = {name: np.asarray(inputs[name], dtype=np.float64) for name in expected}
        n = len(np.atleast_1d(next(iter(arrays.values()))))
        for name, one in expected.items():
            wanted = (n, *np.shape(one.x.array if hasattr(one, "x") else one.value))
            if arrays[name].shape != wanted:
                raise CaseError(f"shape {arrays[name].shape} given, expected {wanted}", key=name)
        return arrays

    def answer(self, samples: Samples) -> Array:
        """Return the solution for samples that have been encoded. Shape (n, n_dofs)."""
        load, features = network_inputs(samples, self.problem.n_components)
        chunks = np.split(np.arange(len(load)), range(_AT_ONCE, len(load), _AT_ONCE))
        with torch.no_grad():
            parts = [self.network(load[rows], features[rows], left_by(self.solver, samples, rows)) for rows in chunks]
        free = torch.cat(parts).reshape(len(samples.load), -1).double().numpy()
        return np.asarray(samples.lifting + (self.problem.free @ free.T).T)

    @cached_property
    def n_weights(self) -> int:
        """Number of trained numbers."""
        return sum(one.numel() for one in self.network.parameters())


def load_operator(folder: Path) -> Operator:
    """Return the operator in a model folder that `femops train` has written.

    Raises:
        CaseError: There is no such model, it is damaged, or it is no operator of a problem.
    """
    manifest = read_manifest(folder)
    if manifest.problem is None:
        raise CaseError("holds a law, expected the operator of a study with problem", file=folder)
    fit = read_fit(folder, manifest)
    return Operator(fit.arrays, fit.settings)


def left_by(solver: Solver, samples: Samples, rows: Any) -> Remainder | None:
    """Return what tells the load that is left of some samples; None where a stiffness does that serves all of them."""
    fixed = solver.problem.linear and not solver.problem.coefficients
    return None if fixed else remainder(solver, samples, rows)


def network_inputs(samples: Samples, n_components: int) -> tuple[Tensor, Tensor]:
    """Return loads (n, n_nodes, n_components) and features (n, n_cells, n_features) in single precision."""
    n = len(samples.load)
    load = torch.from_numpy(samples.load.reshape(n, -1, n_components)).float()
    return load, torch.from_numpy(np.ascontiguousarray(samples.features.transpose(0, 2, 1))).float()


def build_network(
    solver: Solver, reference: Inputs, scales: Mapping[str, Array], options: SPONOptions
) -> OperatorNetwork:
    """Return an untrained network, its weights as the seed has them.

    Args:
        solver: Of the problem.
        reference: The inputs at which the stiffness is taken.
        scales: See `OperatorNetwork`.
        options: Sizes and seed.
    """
    problem = solver.problem
    problem.set_inputs(reference)
    stiffness = solver.stiffness(np.zeros(problem.n_dofs))
    n_features = len(scales["features"])
    loose = problem.free.T @ np.ones(problem.n_dofs) > 0.0
    operators = Operators(problem.levels, stiffness, loose, problem.n_components, n_features, problem.linear)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        return OperatorNetwork(operators, scales, options)


def _part(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
