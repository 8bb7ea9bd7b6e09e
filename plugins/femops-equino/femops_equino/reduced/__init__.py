"""The reduced model of an RVE: modes, cubature, minimisation of the energy, and the certificate of its error."""
