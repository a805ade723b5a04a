"""Sphinx configuration: the pages are Markdown, the API reference comes from the docstrings."""

from harness._version import __version__

project = "quantrig"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "requirements.txt"]
html_theme = "furo"
autodoc_typehints = "description"
myst_heading_anchors = 3
# links from the pages into the tree (LICENSE, ../README.md) are for readers of the repository
suppress_warnings = ["myst.xref_missing"]
