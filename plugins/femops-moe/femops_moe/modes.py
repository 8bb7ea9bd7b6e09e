"""Choice of modes from the inner products of the parts of fields.

Fields have K + 1 parts that are orthogonal in the elastic energy: values on the interface of the experts, extended in
elastic equilibrium, and the bubbles of K experts. Global modes combine whole fields; the other modes combine one part
of the rest. As the coefficients of the fields in all of them are orthogonal, energies add up, and none of the rest
exceeds that of a global mode.

Global modes know the whole field, the others may be combined more freely. Which of them represent unseen fields better
depends on the number of snapshots and of modes; snapshots held out (cross-validation) decide.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from femops.notation import Array, Indices

_ROUND_OFF = 1e-14  # of inner products, relative to the energy of all fields
_DEPENDENT = 1e-6  # part of the energy of a mode that the modes before it do not represent
_FOLDS = 4
_AS_GOOD = 1.05  # of two held-out errors
_OF_INDICATOR = 1.5  # modes of the indicator relative to those of the law
WHOLE = -1


@dataclass(frozen=True)
class Modes:
    """Modes of unit energy as combinations of fields, in descending order of the fields' energies.

    Attributes:
        energy: Relative to that of all fields. Shape (m,).
        part: Part of the fields that is combined: 0 on the interface, k for bubbles of expert k − 1, −1 for all parts.
            Shape (m,).
        coefficients: Shape (n_fields, m).
    """

    energy: Array
    part: Indices
    coefficients: Array

    def __getitem__(self, which: slice | Indices) -> "Modes":
        """Return some of the modes."""
        return Modes(self.energy[which], self.part[which], self.coefficients[:, which])

    def counts(self, n_experts: int) -> tuple[int, Indices]:
        """Return the number of ports, and that of the bubbles of each expert (K,)."""
        counts = np.bincount(np.maximum(self.part, 0), minlength=1 + n_experts)
        return int(counts[0]), counts[1:]

    def products(self, inner: Array) -> tuple[Array, Array]:
        """Return inner products of the modes with each other (m, m) and with the fields (m, n_fields)."""
        own, others = 0.0, 0.0
        for part, one in enumerate(inner):
            active = self.coefficients * ((self.part == WHOLE) | (self.part == part))
            rows = active.T @ one
            own, others = own + rows @ active, others + rows
        return np.asarray(own), np.asarray(others)


@dataclass(frozen=True)
class Choice:
    """Modes of a law and of its indicator.

    Attributes:
        modes: The modes of the indicator.
        n_modes: Number of modes of the law, which come first.
        lost: Part of the energy norm of fields held out that the first 0, 1, … modes lose.
    """

    modes: Modes
    n_modes: int
    lost: Array


def ordered(inner: Array, n_global: int, *, with_ports: bool = True) -> Modes:
    """Return all modes of fields.

    Args:
        inner: Inner products of the parts of the fields. Shape (1 + K, n_fields, n_fields).
        n_global: Number of global modes.
        with_ports: False for bubbles only, without global modes.
    """
    total = inner.sum(axis=0)
    whole = np.trace(total)
    energy, vectors = _eigenpairs(total / whole)
    energy, vectors = energy[: n_global * with_ports], vectors[:, : n_global * with_ports]
    rest = np.eye(len(total)) - vectors @ vectors.T
    groups = [(energy, WHOLE, vectors)]
    for part in range(0 if with_ports else 1, len(inner)):
        own, combinations = _eigenpairs(rest @ (inner[part] / whole) @ rest)
        groups.append((own, part, rest @ combinations))
    energies = np.concatenate([energy for energy, _, _ in groups])
    parts = np.concatenate([np.full(len(energy), part) for energy, part, _ in groups])
    coefficients = np.concatenate([vectors for *_, vectors in groups], axis=1) / np.sqrt(energies * whole)
    return Modes(energies, parts, coefficients)[np.argsort(-energies, kind="stable")]


def choose(inner: Array, n_s: int, largest: int, tolerance: float, *, with_ports: bool = True) -> Choice:
    """Choose the fewest modes that represent snapshots held out.

    Args:
        inner: Inner products of the parts of the fields of n snapshots, then of n_s sensitivities of each of them.
        n_s: Number of strain components.
        largest: Largest number of modes of the law.
        tolerance: Part of the energy norm of the fields that may be lost. If `largest` modes lose more, the fewest that
            are about as good are taken.
        with_ports: False for bubbles only.
    """
    n_fields, most = len(inner[0]), int(_OF_INDICATOR * largest)
    numbers = np.unique([0, *2 ** np.arange(n_fields.bit_length()), n_fields]) if with_ports else np.zeros(1, int)
    snapshot = np.concatenate([np.arange(n_fields // (1 + n_s)), np.repeat(np.arange(n_fields // (1 + n_s)), n_s)])
    lost = np.array([_held_out(inner, snapshot, most, number, with_ports) for number in numbers])
    good = lost[:, : largest + 1] <= max(tolerance, _AS_GOOD * lost[:, : largest + 1].min())
    counts = np.where(good.any(axis=1), good.argmax(axis=1), largest + 1)
    first = int(np.argmin(counts))
    count, wider = int(counts[first]), int(_OF_INDICATOR * counts[first])
    nested = numbers >= count if numbers[first] >= count else np.arange(len(numbers)) == first
    best = int(np.argmin(np.where(nested, lost[:, wider], np.inf)))
    modes = ordered(inner, int(numbers[best]), with_ports=with_ports)[:wider]
    kept = independent(modes, inner)
    return Choice(modes[kept], int((kept < count).sum()), lost[best])


def independent(modes: Modes, inner: Array) -> Indices:
    """Return the indices of the modes that are independent of those before them. Shape (m,)."""
    noise = _ROUND_OFF / modes.energy
    pivots = np.diag(_factor(modes.products(inner)[0], noise)) ** 2
    return np.flatnonzero(pivots - noise > np.maximum(_DEPENDENT, noise))


def _held_out(inner: Array, snapshot: Indices, most: int, n_global: int, with_ports: bool) -> Array:
    """Return the part of each fourth of the snapshots' fields that 0 to `most` modes of the others lose (most + 1,)."""
    folds, kept = min(_FOLDS, int(snapshot.max()) + 1), np.zeros(most + 1)
    for fold in range(folds):
        out = snapshot % folds == fold
        train = ~out if folds > 1 else out
        modes = ordered(inner[:, train][:, :, train], n_global, with_ports=with_ports)[:most]
        coefficients = np.zeros((len(snapshot), len(modes.energy)))
        coefficients[train] = modes.coefficients
        own, others = Modes(modes.energy, modes.part, coefficients).products(inner)
        parts = solve_triangular(_factor(own, _ROUND_OFF / modes.energy), others[:, out], lower=True)
        energy = np.cumsum((parts**2).sum(axis=1))
        kept[1:] += np.pad(energy, (0, most - len(energy)), mode="edge")
    return np.asarray(np.sqrt(np.maximum(1.0 - kept / np.trace(inner.sum(axis=0)), 0.0)))


def _factor(products: Array, noise: Array) -> Array:
    """Return the Cholesky factor of inner products of modes that may be dependent, but for noise (m,)."""
    return np.linalg.cholesky(products + np.diag(noise))


def _eigenpairs(matrix: Array) -> tuple[Array, Array]:
    """Return the eigenvalues above round-off, descending, and the eigenvectors (n, m)."""
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    kept = np.flatnonzero(values > _ROUND_OFF)[::-1]
    return values[kept], vectors[:, kept]
