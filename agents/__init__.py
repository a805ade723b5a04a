"""The light agent that runs on a board: it executes networks and measures them there."""

from agents._version import __version__

__all__ = ["__version__"]
