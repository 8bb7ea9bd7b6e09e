"""The offline phase: sampling of RVEs and families, training and validation of surrogates."""
