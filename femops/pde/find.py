"""Construction of the problem that the `problem` block of a study names."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from femops.errors import CaseError
from femops.pde.options import OwnBlock, ProblemBlock
from femops.pde.problem import PDEProblem


def make_problem(block: ProblemBlock) -> PDEProblem:
    """Build the problem that a block names.

    Raises:
        CaseError: The function cannot be imported or does not return a `PDEProblem`.
    """
    if isinstance(block, OwnBlock):
        return _own(block)
    module = importlib.import_module(f"femops.pde.{block.pde}")
    made: PDEProblem = getattr(module, block.pde)(block)
    return made


Build = Callable[[Mapping[str, Any]], PDEProblem]
"""Function that builds a problem from the options in a study."""


def stored_problem(
    block: ProblemBlock, given: PDEProblem | Build | None = None, allow_code: bool = False
) -> PDEProblem:
    """Build the problem of a stored operator; user code named in the stored block is imported only if allowed.

    Args:
        block: The stored block.
        given: The problem, or a function that builds it.
        allow_code: Whether to import the code that the block names.

    Raises:
        CaseError: The problem is user code that is neither given nor allowed; see also `make_problem`.
    """
    if isinstance(given, PDEProblem):
        return given
    if given is not None:
        return _built(given, block.options if isinstance(block, OwnBlock) else block.model_dump(), "the function given")
    if isinstance(block, OwnBlock) and not allow_code:
        how = "pass it, load_operator(folder, problem=FUNCTION), or let it be imported, allow_code=True"
        raise CaseError(f"{block.pde!r} is code that the model does not hold; {how}", key="problem.pde")
    return make_problem(block)


def code_of(block: ProblemBlock) -> str | None:
    """Return the name and location of the user code that a study runs, without importing it; None without user code."""
    if not isinstance(block, OwnBlock):
        return None
    package = block.pde.partition(":")[0].partition(".")[0]
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        found = None
    places = [] if found is None else [found.origin, *(found.submodule_search_locations or ())]
    where = next((one for one in places if one), "an unknown location")
    return f"{block.pde} from {where}"


def _own(block: OwnBlock) -> PDEProblem:
    module, _, name = block.pde.partition(":")
    try:
        build = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        problem = f"{block.pde!r} cannot be imported ({error}); is its folder on PYTHONPATH?"
        raise CaseError(problem, key="problem.pde") from error
    return _built(build, block.options, repr(block.pde))


def _built(build: Any, options: Mapping[str, Any], name: str) -> PDEProblem:
    if not callable(build):
        raise CaseError(f"{name} is {type(build).__name__}, expected a function or a PDEProblem", key="problem.pde")
    problem = build(options)
    if not isinstance(problem, PDEProblem):
        raise CaseError(f"{name} returns {type(problem).__name__}, expected a PDEProblem", key="problem.pde")
    return problem
