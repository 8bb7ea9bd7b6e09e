"""Invariants, deviators and tangents of isotropic laws in plane strain and 3D, components first.

In plane strain ε_33 = 0, so the three-dimensional deviator has the in-plane components ε − tr(ε)/3 · 1 and the
out-of-plane component −tr(ε)/3; its squared norm is |ε|² − tr(ε)²/3, as in 3D. The three-dimensional operators
restricted to the in-plane components therefore apply in both cases.
"""

from typing import Any

from array_api_compat import array_namespace

from femops import notation


def trace(strain: Any) -> Any:
    """Return tr ε of strains (n_s, ...). Shape (...)."""
    dim = notation.dimension(strain.shape[0])
    total = strain[0] + strain[1]
    return total if dim == 2 else total + strain[2]


def deviator(strain: Any) -> tuple[Any, Any]:
    """Return the three-dimensional deviator, shape (n_s, ...), and its 33 component in plane strain (None in 3D)."""
    dim = notation.dimension(strain.shape[0])
    third = trace(strain) / 3.0
    xp = array_namespace(strain)
    parts = [strain[i] - third if i < dim else strain[i] for i in range(strain.shape[0])]
    return xp.stack(parts), (-third if dim == 2 else None)


def norm(tensor: Any, out_of_plane: Any | None) -> Any:
    """Return the norm of a symmetric tensor given by its components and, in plane strain, its 33 component."""
    xp = array_namespace(tensor)
    squared = (tensor * tensor).sum(0)
    return xp.sqrt(squared if out_of_plane is None else squared + out_of_plane * out_of_plane)


def split(stress: Any, out_of_plane: Any | None) -> tuple[Any, Any, Any | None]:
    """Return tr σ, the components of dev σ and, in plane strain, its 33 component, of a stress given likewise."""
    xp = array_namespace(stress)
    dim = notation.dimension(stress.shape[0])
    total = trace(stress) if out_of_plane is None else trace(stress) + out_of_plane
    third = total / 3.0
    parts = [stress[i] - third if i < dim else stress[i] for i in range(stress.shape[0])]
    return total, xp.stack(parts), None if out_of_plane is None else out_of_plane - third


def complementary_invariants(stress: Any, out_of_plane: Any | None) -> tuple[Any, Any]:
    """Return tr σ and |dev σ| of a stress given by its components and, in plane strain, its 33 component."""
    total, *deviatoric = split(stress, out_of_plane)
    return total, norm(*deviatoric)


def stress_33(stress: Any, bulk: float, secant: Any) -> Any | None:
    """Return the out-of-plane stress σ_33 in plane strain; None in 3D.

    Args:
        stress: In-plane stress. Shape (n_s, ...).
        bulk: Bulk modulus [stress].
        secant: |dev σ| / |dev ε|, scalar or shape (...) [stress].
    """
    if notation.dimension(stress.shape[0]) == 3:
        return None
    return trace(stress) * normal_ratio(bulk, secant)


def normal_ratio(bulk: float, secant: Any) -> Any:
    """Return σ_33 / (σ_11 + σ_22) in plane strain; arguments as in `stress_33`."""
    return (3.0 * bulk - secant) / (6.0 * bulk + secant)


def tangent(volumetric: Any, deviatoric: Any, along: Any, direction: Any) -> Any:
    """Return volumetric · 1⊗1 + deviatoric · P + along · n⊗n with the deviatoric projector P.

    Args:
        volumetric: Bulk modulus, scalar or shape (...).
        deviatoric: Factor of the deviatoric projector, shape (...).
        along: Factor of n⊗n, shape (...).
        direction: The tensor n, shape (n_s, ...).

    Returns:
        Tangent, shape (n_s, n_s, ...).
    """
    n_s = direction.shape[0]
    dim = notation.dimension(n_s)
    xp = array_namespace(direction)
    coupling = volumetric - deviatoric / 3.0
    scaled = along * direction
    entries: list[Any] = [None] * n_s**2
    for i in range(n_s):
        for j in range(i, n_s):
            value = scaled[i] * direction[j]
            if i < dim and j < dim:
                value = value + coupling
            if i == j:
                value = value + deviatoric
            entries[i * n_s + j] = entries[j * n_s + i] = value
    return xp.reshape(xp.stack(entries), (n_s, *direction.shape))


def tangent_33(bulk: float, tangent: Any) -> Any:
    """Return the row d σ_33 / d ε of the tangent in plane strain where tr σ = 3 K tr ε + constant.

    Args:
        bulk: Bulk modulus K [stress].
        tangent: In-plane tangent, shape (n_s, n_s, ...).

    Returns:
        Shape (n_s, ...).
    """
    xp = array_namespace(tangent)
    rest = -(tangent[0] + tangent[1])
    return xp.stack([rest[0] + 3.0 * bulk, rest[1] + 3.0 * bulk, rest[2]])
