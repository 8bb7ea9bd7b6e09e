"""Constituent laws of a microstructure, one file each; every one also serves as a macroscale law."""

from femops.phases.phase import HyperelasticPhase, Phase, PhaseLaw, PhaseResponse, fenchel_gap

__all__ = ["HyperelasticPhase", "Phase", "PhaseLaw", "PhaseResponse", "fenchel_gap"]
