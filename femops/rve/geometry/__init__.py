"""Microstructure geometry: mesh generators, packing of inclusions, voxels."""
