"""Imports femops before the pip-installed DOLFINx, which requires it; see `femops/__init__.py`."""

import femops  # noqa: F401
