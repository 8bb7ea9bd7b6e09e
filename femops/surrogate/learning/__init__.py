"""What trainings share: the optimiser and the checkpoints of an interrupted fit."""
