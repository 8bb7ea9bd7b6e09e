"""Named groups from the integer cell arrays of a mesh file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from femops.errors import CaseError
from femops.notation import Indices

Tags = Mapping[str, int | Mapping[str, int]]
"""Integer tags by name; or such mappings by the name of the cell array."""

UNTAGGED = np.iinfo(np.int64).min


@dataclass(frozen=True)
class CellArray:
    """Integer cell array: its values in each block, `UNTAGGED` where undefined."""

    name: str
    values: list[Indices]

    def where(self, number: int) -> list[Indices]:
        """Return the cells of each block whose value is `number`."""
        return [np.flatnonzero(block == number) for block in self.values]


def check_tags(tags: Tags, cell_array: str | None) -> None:
    """Check that `tags` either has integers only or names the cell array of each of them.

    Raises:
        CaseError: It mixes both forms, or names cell arrays that `cell_array` excludes.
    """
    nested = [name for name, given in tags.items() if isinstance(given, Mapping)]
    single = [name for name in tags if name not in nested]
    if nested and single:
        problem = f"'{single[0]}' has a number and '{nested[0]}' is a block of tags"
        raise CaseError(f"{problem}; expected a number for each name, or a block for each cell array", key="tags")
    if nested and cell_array is not None:
        raise CaseError(f"'{cell_array}' given, but tags name the cell arrays; expected either", key="cell_array")


def as_integers(values: npt.ArrayLike) -> Indices | None:
    """Return an array converted to integers, or None if its values are not integers."""
    given = np.asarray(values)
    if given.dtype.kind in "iu":
        return given.astype(np.int64)
    if given.dtype.kind != "f" or not ((np.abs(given) < 2**53) & (given == np.round(given))).all():
        return None
    return given.astype(np.int64)


def tagged_groups(
    arrays: Sequence[CellArray], dims: Sequence[int], tags: Tags, cell_array: str | None
) -> tuple[dict[str, list[Indices]], list[str]]:
    """Return the cells of each block for each name in `tags`, and notes.

    Args:
        arrays: The integer cell arrays of the file.
        dims: Dimension of each block.
        tags: Integer tags by name, see `Tags`.
        cell_array: Restrict the search to the array of this name; None uses all.

    Raises:
        CaseError: A tag occurs in no cell, or in several arrays.
    """
    known = {one.name: one for one in arrays}
    if cell_array is not None:
        known = {cell_array: known[cell_array]}
    groups: dict[str, list[Indices]] = {}
    for name, given in tags.items():
        if isinstance(given, Mapping):
            if name not in known:
                expected = ", ".join(known) or "none"
                raise CaseError(f"'{name}' is not an integer cell array; the file has {expected}", key="tags")
            for inner, number in given.items():
                _add(groups, inner, _only([known[name]], dims, inner, number))
        else:
            _add(groups, name, _only(list(known.values()), dims, name, given))
    return groups, _resolve_shared_tags(groups, dims, {name: one for name, one in tags.items() if isinstance(one, int)})


def _add(groups: dict[str, list[Indices]], name: str, members: list[Indices]) -> None:
    groups[name] = [np.union1d(a, b) for a, b in zip(groups.get(name, members), members, strict=True)]


def _only(arrays: list[CellArray], dims: Sequence[int], name: str, number: int) -> list[Indices]:
    """Return the cells of each block with the tag `number`; each dimension may have it in one array only."""
    found = [np.empty(0, dtype=np.int64)] * len(dims)
    array_of_dim: dict[int, str] = {}
    for array in arrays:
        for block, members in enumerate(array.where(number)):
            if not len(members):
                continue
            other = array_of_dim.setdefault(dims[block], array.name)
            if other != array.name:
                raise CaseError(
                    f"{number} is a value of '{other}' and of '{array.name}'; expected the array as well, as in "
                    f"tags: {{{other}: {{{name}: {number}}}}}",
                    key=f"tags.{name}",
                )
            found[block] = members
    if not array_of_dim:
        values = np.unique(np.concatenate([block for array in arrays for block in array.values]))
        present = ", ".join(map(str, values[values != UNTAGGED][:20]))
        raise CaseError(f"no cell has the value {number}; the file has {present}", key=f"tags.{name}")
    return found


def _resolve_shared_tags(groups: dict[str, list[Indices]], dims: Sequence[int], tags: Mapping[str, int]) -> list[str]:
    """Resolve names that share a tag of both cells and facets; return notes.

    The last name becomes the region; all of them become boundaries, which may overlap while regions may not.
    """
    notes = []
    full = [block for block, dim in enumerate(dims) if dim == max(dims)]
    for number in dict.fromkeys(tags.values()):
        names = [name for name, one in tags.items() if one == number]
        both = any(len(groups[names[0]][i]) for i in full) and any(
            len(members) for i, members in enumerate(groups[names[0]]) if i not in full
        )
        if len(names) < 2 or not both:
            continue
        for name in names[:-1]:
            groups[name] = [members[:0] if i in full else members for i, members in enumerate(groups[name])]
        notes.append(
            f"tags: {' and '.join(names)} are all {number}, which cells and facets have: the region is '{names[-1]}', "
            "and each is a boundary; name the cell arrays in tags to distinguish them"
        )
    return notes
