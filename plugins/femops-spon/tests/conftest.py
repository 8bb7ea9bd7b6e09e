"""The pip-installed DOLFINx needs femops imported before it; see `femops/__init__.py`."""

import femops  # noqa: F401
