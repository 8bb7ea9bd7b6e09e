"""Constituent laws of a microstructure, one file each; every one also serves as a macroscale law."""

from femops.phases.phase import Phase, PhaseLaw, PhaseResponse

__all__ = ["Phase", "PhaseLaw", "PhaseResponse"]
