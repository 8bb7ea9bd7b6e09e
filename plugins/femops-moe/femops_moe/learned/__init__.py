"""Modes that a network adapts to the microstructure of an RVE, learned from the energy of a family of RVEs."""
