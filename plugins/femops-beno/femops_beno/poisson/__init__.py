"""Poisson's equation on random shapes: domains, meshes, finite-element solutions and the published array layout."""
