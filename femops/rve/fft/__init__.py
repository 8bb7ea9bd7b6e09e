"""Equations of periodic RVEs on uniform grids for `femops.rve.newton_cg`, preconditioned by the FFT."""
