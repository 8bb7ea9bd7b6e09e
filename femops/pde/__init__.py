"""Partial differential equations in UFL, their solutions by DOLFINx, and random inputs to learn from."""
