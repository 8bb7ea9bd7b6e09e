"""Mechanics for surrogates that predict fields: periodic spaces, stiffness, multigrid, energies."""
