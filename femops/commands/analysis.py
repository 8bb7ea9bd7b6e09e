"""The analysis that a case file describes."""

from functools import partial
from typing import Any

from femops.inputs.case import Case, ComponentsBlock
from femops.inputs.expressions import value_at
from femops.macro.analysis import Analysis, Displacement, Load, Newton, Steps, Trust


def analysis_of(case: Case) -> Analysis:
    """Return the analysis of a case."""
    loads = {
        name: Load(
            None if load.traction is None else [_value(one) for one in load.traction],
            _value(load.pressure),
            None if load.body_force is None else [_value(one) for one in load.body_force],
            None if load.displacement is None else _displacement(load.displacement),
        )
        for name, load in case.loads.items()
    }
    return Analysis(
        {name: _displacement(components) for name, components in case.supports.items()},
        loads,
        Steps(case.steps.ends(), case.steps.smallest),
        case.order,
        case.quadrature_degree,
        Newton(**case.solver.model_dump()),
        None if case.trust is None else Trust(**case.trust.model_dump()),
        {name: parameters.law for name, parameters in case.laws().items()},
    )


def _displacement(components: ComponentsBlock) -> Displacement:
    return Displacement(_value(components.ux), _value(components.uy), _value(components.uz))


def _value(value: Any) -> Any:
    """Return a value of a case as a number or a function of time; None stays None."""
    return value if value is None or isinstance(value, int | float) else partial(value_at, value)
