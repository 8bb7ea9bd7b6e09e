"""Mixture of experts: port-coupled reduced models of the subdomains of an RVE, as a material law of femops."""
