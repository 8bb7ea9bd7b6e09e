"""Networks and splines of the energy and of the mode coefficients over the macroscale strain."""
