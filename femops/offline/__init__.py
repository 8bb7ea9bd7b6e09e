"""The offline phase: sampling of RVEs and families, training and validation of surrogates."""

import femops.stack  # noqa: F401
