"""Constituent laws of the phases of a microstructure, one file each; each is also available as a macroscale law."""

from femops.phases.phase import (
    HyperelasticPhase,
    Phase,
    PhaseLaw,
    PhaseResponse,
    PlaneStrainPhase,
    SelfConcordance,
    fenchel_gap,
    know_row_33,
)

__all__ = [
    "HyperelasticPhase",
    "Phase",
    "PhaseLaw",
    "PhaseResponse",
    "PlaneStrainPhase",
    "SelfConcordance",
    "fenchel_gap",
    "know_row_33",
]
