"""Time-dependent values of a case file: numbers, expressions in t, and tables."""

import ast
import math
import operator
import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator

from femops.validation import shown

Function = Callable[[float], float]
_DEEPEST = 200

_FUNCTIONS: dict[str, Callable[..., float]] = {
    "abs": abs,
    "cos": math.cos,
    "exp": math.exp,
    "log": math.log,
    "max": max,
    "min": min,
    "sin": math.sin,
    "sqrt": math.sqrt,
    "tan": math.tan,
    "tanh": math.tanh,
}
_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def _compiled(node: ast.expr) -> Function:
    """Compile an arithmetic expression to a function of t; anything else raises an error."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            number = float(value)
            return lambda t: number
        case ast.Name(id="t"):
            return lambda t: t
        case ast.Name(id="pi"):
            return lambda t: math.pi
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _applied(_OPERATORS[type(op)], left, right)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _applied(_OPERATORS[type(op)], operand)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _applied(_FUNCTIONS[name], *arguments)
    known = ", ".join(sorted(_FUNCTIONS))
    raise ValueError(f"{shown(ast.unparse(node))} given, expected numbers, t, pi, + - * / **, and {known}")


def _applied(function: Callable[..., float], *nodes: ast.expr) -> Function:
    arguments = [_compiled(node) for node in nodes]
    return lambda t: float(function(*(argument(t) for argument in arguments)))


@cache
def _parsed(text: str) -> Function:
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if _too_deep(tree):
            raise OverflowError
        return _compiled(tree)
    except (SyntaxError, OverflowError, RecursionError, MemoryError) as error:  # raised for deep nesting
        raise ValueError(f"{shown(text)} given, expected an expression in t") from error


def _too_deep(tree: ast.AST) -> bool:
    """Return whether evaluating an expression could exceed the recursion limit, with a margin for the callers."""
    level, depth = [tree], 0
    while level and depth <= _DEEPEST:
        level, depth = [one for node in level for one in ast.iter_child_nodes(node)], depth + 1
    return bool(level)


def value_at(value: Any, t: float) -> float:
    """Evaluate a value of a case file at time t.

    Args:
        value: A number, an expression in t such as `"5 * sin(pi * t)"`, or a table `[[t, value], ...]` with linear
            interpolation and constant extrapolation.
        t: Time.

    Raises:
        ValueError: The expression is not arithmetic, or not defined at t.
    """
    if isinstance(value, str):
        function = _parsed(value)
        try:
            result = function(float(t))
        except (ArithmeticError, TypeError, ValueError) as error:
            raise ValueError(f"{shown(value)} cannot be evaluated at t = {t:g} ({error})") from error
    elif isinstance(value, list | tuple):
        times, values = np.array(value, dtype=np.float64).T
        result = float(np.interp(t, times, values))
    else:
        result = float(value)
    if not math.isfinite(result):
        raise ValueError(f"{shown(value)} is not finite at t = {t:g}")
    return result


def _checked(value: Any) -> Any:
    if isinstance(value, str):
        _parsed(value)
    elif isinstance(value, list | tuple) and value and all(_is_pair(row) for row in value):
        if any(after[0] <= before[0] for before, after in pairwise(value)):
            raise ValueError(f"{shown(value)} given, expected times that increase")
    elif not _is_number(value):
        expected = "a finite number, an expression in t, or a table [[t, value], ...]"
        raise ValueError(f"{shown(value)} given, expected {expected}")
    return value


def _is_pair(row: Any) -> bool:
    return isinstance(row, list | tuple) and len(row) == 2 and all(_is_number(number) for number in row)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


TimeValue = Annotated[float | str | list[tuple[float, float]], BeforeValidator(_checked)]
"""A number, an expression in t, or a table of pairs [t, value]."""
