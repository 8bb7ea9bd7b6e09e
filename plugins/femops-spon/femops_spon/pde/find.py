"""From the `problem` block of a study to the problem."""

import importlib

from femops.errors import CaseError
from femops_spon.pde.options import OwnBlock, ProblemBlock
from femops_spon.pde.problem import PDEProblem


def make_problem(block: ProblemBlock) -> PDEProblem:
    """Build the problem that a block names.

    Raises:
        CaseError: There is no such function, or it does not return a problem.
    """
    if isinstance(block, OwnBlock):
        return _own(block)
    module = importlib.import_module(f"femops_spon.pde.{block.pde}")
    made: PDEProblem = getattr(module, block.pde)(block)
    return made


def _own(block: OwnBlock) -> PDEProblem:
    module, _, name = block.pde.partition(":")
    try:
        build = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        problem = f"{block.pde!r} cannot be imported ({error}); is its folder on PYTHONPATH?"
        raise CaseError(problem, key="problem.pde") from error
    problem = build(block.options)
    if not isinstance(problem, PDEProblem):
        raise CaseError(f"{block.pde!r} returns {type(problem).__name__}, expected a PDEProblem", key="problem.pde")
    return problem
