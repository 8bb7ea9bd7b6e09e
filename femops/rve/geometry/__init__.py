"""Geometry of microstructures: generators, packing of inclusions, voxels."""
