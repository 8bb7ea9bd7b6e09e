"""SPON, the structure-preserving operator network on finite-element spaces, as a surrogate of femops."""
