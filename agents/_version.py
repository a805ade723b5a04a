"""The one place the version is written; the host package must carry the same."""

__version__ = "0.1.0"
