"""RVEs whose boundary moves with the macroscale strain: voids and inclusions of any shape."""
