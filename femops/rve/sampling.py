"""Sampling of macroscale strains: the `sampling` block of a study and the load paths it defines.

Independent samples are represented as load paths of one step.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from scipy.stats import qmc

from femops import notation
from femops.errors import CaseError
from femops.notation import Array
from femops.validation import shown

Method = Literal["sobol", "latin_hypercube", "proportional", "random_paths", "run"]
# Required and optional keys of each method.
_KEYS: dict[str, tuple[set[str], set[str]]] = {
    "sobol": ({"count", "range"}, {"seed", "shear"}),
    "latin_hypercube": ({"count", "range"}, {"seed", "shear"}),
    "proportional": ({"count", "steps", "range"}, {"seed", "shear"}),
    "random_paths": ({"count", "steps", "range"}, {"seed", "shear", "turns"}),
    "run": ({"run"}, {"count", "seed"}),
}
_EXPECTED_RANGE = "a positive number, or [lowest, highest] for each component, for example {11: [-0.04, 0.04]}"


def _checked_range(value: Any) -> Any:
    """Validate a range with a single clear message instead of one for each member of the union."""
    if _is_number(value) and value > 0:
        return value
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"{shown(value)} given, expected {_EXPECTED_RANGE}")
    known = sorted({name for names in notation.NAMES.values() for name in names})
    for name, pair in value.items():
        if str(name) not in known:
            raise ValueError(f"component {shown(name)} given, expected some of {', '.join(known)}")
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(map(_is_number, pair)) or pair[0] > pair[1]:
            raise ValueError(f"{shown(pair)} given for component {name}, expected [lowest, highest]")
    return dict(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


Range = Annotated[float | dict[int, tuple[float, float]], BeforeValidator(_checked_range)]
"""Symmetric bound of all components, or bounds of the named components; components not named are zero [-]."""


class Sampling(BaseModel):
    """The `sampling` block of a study.

    sobol            scrambled Sobol points of the range; a larger count keeps the points of a smaller one
    latin_hypercube  Latin hypercube of the range
    proportional     straight paths from zero to the surface of the range, in directions of Sobol points
    random_paths     paths from zero through random turning points of the range, with loading and unloading
    run              the strains at the quadrature points of a finished run's last step, all or `count` of them
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: Method
    count: int | None = Field(None, gt=0, le=10_000_000, description="number of samples, or of paths")
    steps: int | None = Field(None, gt=0, le=100_000, description="steps of each path")
    turns: int = Field(4, gt=0, description="turning points of a random path; the last one is its end")
    range: Range | None = Field(None, description="bounds of the tensor components [-]")
    shear: Literal["engineering", "tensor"] = Field("tensor", description="whether the range of shears means γ = 2ε")
    seed: int = Field(0, ge=0)
    run: Path | None = Field(None, description="results folder of a run, or its points.vtp; relative to the study")

    @model_validator(mode="after")
    def _keys_of_method(self) -> Self:
        needed, optional = _KEYS[self.method]
        given = self.model_fields_set - {"method"}
        missing = [key for key in type(self).model_fields if key in needed and getattr(self, key) is None]
        if missing:
            raise ValueError(f"{' and '.join(missing)} missing, expected with method {self.method}")
        unexpected = sorted(given - needed - optional)
        if unexpected:
            expected = ", ".join(sorted(needed | optional))
            raise ValueError(f"{unexpected[0]} given, but method {self.method} takes only {expected}")
        if self.method == "random_paths" and self.turns > (self.steps or 0):
            raise ValueError(f"{self.turns} turns in {self.steps} steps, expected at least as many steps as turns")
        return self


def bounds(sampling: Sampling, dim: int) -> Array:
    """Return the lowest and highest Mandel strain components of a sampling [-]. Shape (2, n_s).

    Raises:
        CaseError: The range has a component that does not exist in this dimension, or excludes zero, where paths start.
    """
    names = notation.NAMES[dim]
    if isinstance(sampling.range, dict):
        unexpected = [str(name) for name in sampling.range if str(name) not in names]
        if unexpected:
            raise CaseError(
                f"component {unexpected[0]} given, expected some of {', '.join(names)}", key="sampling.range"
            )
        pairs = [sampling.range.get(int(name), (0.0, 0.0)) for name in names]
    else:
        pairs = [(-(sampling.range or 0.0), sampling.range or 0.0)] * len(names)
    low, high = np.array(pairs, dtype=np.float64).T
    if sampling.method in ("proportional", "random_paths") and ((low > 0.0) | (high < 0.0)).any():
        raise CaseError("paths start at zero, expected a range that contains it", key="sampling.range")
    shear = np.where(notation.weights(dim) > 1.0, 0.5, 1.0) if sampling.shear == "engineering" else 1.0
    return np.array([low, high]) * shear * notation.weights(dim)


def load_paths(sampling: Sampling, dim: int) -> Array:
    """Return the macroscale strains of a sampling, for all methods except `run`.

    Reproducible on any machine and any number of ranks.

    Args:
        sampling: The `sampling` block.
        dim: 2 (plane strain) or 3.

    Returns:
        Strains at the ends of the steps, Mandel [-]. Shape (n_paths, n_steps, n_s); samples are paths of one step.

    Raises:
        CaseError: The range does not fit the dimension or the method.
    """
    low, high = bounds(sampling, dim)
    count, steps = sampling.count or 0, sampling.steps or 1
    if sampling.method == "sobol":
        return sobol(low, high, count, sampling.seed)[:, None]
    if sampling.method == "latin_hypercube":
        unit = qmc.LatinHypercube(len(low), rng=np.random.default_rng(sampling.seed)).random(count)
        return (low + unit * (high - low))[:, None]
    times = np.arange(1, steps + 1) / steps
    if sampling.method == "proportional":
        ends = _on_surface(sobol(low, high, count, sampling.seed), low, high)
        return times[:, None] * ends[:, None]
    turns = np.random.default_rng(sampling.seed).uniform(low, high, (count, sampling.turns, len(low)))
    return _through(np.concatenate([np.zeros_like(turns[:, :1]), turns], axis=1), times)


def chosen(strain: Array, sampling: Sampling) -> Array:
    """Return `count` of the strains of a run, drawn without replacement, as paths of one step.

    Args:
        strain: Strains, Mandel [-]. Shape (n, n_s).
        sampling: The `sampling` block; without `count` all strains are returned.

    Returns:
        Strains in the order of the run, Mandel [-]. Shape (n_paths, 1, n_s).

    Raises:
        CaseError: The run has fewer points than `count`.
    """
    count = len(strain) if sampling.count is None else sampling.count
    if count > len(strain):
        raise CaseError(f"{count} given, but the run has {len(strain)} points", key="sampling.count")
    picked = np.random.default_rng(sampling.seed).choice(len(strain), count, replace=False)
    return strain[np.sort(picked), None]


def sobol(low: Array, high: Array, count: int, seed: int) -> Array:
    """Return scrambled Sobol points in the box with corners `low` and `high`, shape (n_s,). Shape (count, n_s)."""
    sequence = qmc.Sobol(len(low), scramble=True, rng=np.random.default_rng(seed))
    unit = sequence.random_base2(math.ceil(math.log2(count)))[:count]
    return low + unit * (high - low)


def _on_surface(points: Array, low: Array, high: Array) -> Array:
    """Project points of a box containing zero radially onto its surface."""
    limit = np.where(points > 0.0, high, low)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(points == 0.0, np.inf, limit / points).min(axis=1, keepdims=True)
    return np.clip(points * np.where(np.isfinite(factor), factor, 1.0), low, high)


def _through(corners: Array, times: Array) -> Array:
    """Interpolate corners (n_paths, n_corners, n_s), evenly spaced in time, at `times`. Shape (n_paths, n, n_s)."""
    position = times * (corners.shape[1] - 1)
    before = np.minimum(position.astype(np.int64), corners.shape[1] - 2)
    part = (position - before)[:, None]
    return (1.0 - part) * corners[:, before] + part * corners[:, before + 1]
