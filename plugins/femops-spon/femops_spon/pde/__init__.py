"""SPON as the solution operator of a partial differential equation in UFL."""
