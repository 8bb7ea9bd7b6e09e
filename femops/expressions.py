"""Numbers, expressions in t, and tables of a case file as functions of time."""

import ast
import math
import operator
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator

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
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def _evaluate(node: ast.expr, t: float) -> float:
    """Evaluate an arithmetic expression of t; anything else is refused."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return float(value)
        case ast.Name(id="t"):
            return t
        case ast.Name(id="pi"):
            return math.pi
        case ast.BinOp() if type(node.op) in _OPERATORS:
            return float(_OPERATORS[type(node.op)](_evaluate(node.left, t), _evaluate(node.right, t)))
        case ast.UnaryOp() if type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](_evaluate(node.operand, t))
        case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _FUNCTIONS:
            return float(_FUNCTIONS[name](*(_evaluate(argument, t) for argument in node.args)))
    raise ValueError(
        f"{ast.unparse(node)!r} given, expected numbers, t, pi, + - * / **, and {', '.join(sorted(_FUNCTIONS))}"
    )


def value_at(value: Any, t: float) -> float:
    """Return a value of a case file at a time.

    Args:
        value: A number, an expression in t such as `"5 * sin(pi * t)"`, or a table `[[t, value], ...]` that is
            interpolated linearly and held constant outside.
        t: Time.

    Raises:
        ValueError: The expression holds anything but arithmetic, or is not defined at t.
    """
    if isinstance(value, str):
        try:
            result = _evaluate(ast.parse(value.strip(), mode="eval").body, float(t))
        except (SyntaxError, ArithmeticError, TypeError) as error:
            raise ValueError(f"{value!r} cannot be evaluated at t = {t:g} ({error})") from error
    elif isinstance(value, list | tuple):
        times, values = np.array(value, dtype=np.float64).T
        result = float(np.interp(t, times, values))
    else:
        result = float(value)
    if not math.isfinite(result):
        raise ValueError(f"{value!r} is not finite at t = {t:g}")
    return result


def _checked(value: Any) -> Any:
    if isinstance(value, str):
        try:
            tree = ast.parse(value.strip(), mode="eval").body
        except SyntaxError as error:
            raise ValueError(f"{value!r} given, expected an expression in t") from error
        _evaluate(tree, 0.5)
    elif isinstance(value, list) and any(b[0] <= a[0] for a, b in zip(value, value[1:], strict=False)):
        raise ValueError(f"{value!r} given, expected times that increase")
    else:
        value_at(value, 0.0)
    return value


Value = Annotated[float | str | list[tuple[float, float]], AfterValidator(_checked)]
"""A number, an expression in t, or a table of pairs [t, value]."""
