"""quantrig: float and int8 networks side by side, on the boards themselves.

The public names load on first use, so that `quantrig --help` and pytest stay fast.
"""

from __future__ import annotations

from harness._version import __version__

__all__ = ["__version__"]
