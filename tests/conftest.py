"""Imports the compiled libraries in their order before any test imports one of them."""

import femops.stack  # noqa: F401
