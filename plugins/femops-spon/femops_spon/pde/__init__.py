"""SPON for a partial differential equation given in UFL: from its inputs to its finite-element solution."""
