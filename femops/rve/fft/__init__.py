"""Iterative solver of periodic RVEs on uniform grids: Newton and conjugate gradients, preconditioned by the FFT."""
