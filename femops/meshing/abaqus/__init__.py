"""Reads and writes meshes in Abaqus input files: parts, instances, assemblies, sets and surfaces."""

from femops.meshing.abaqus.assembly import read_inp
from femops.meshing.abaqus.writing import write_inp

__all__ = ["read_inp", "write_inp"]
