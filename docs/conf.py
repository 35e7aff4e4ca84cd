"""Sphinx: `sphinx-build -W docs docs/_build` with the extra `docs`."""

project = "bilevel"
author = "The bilevel authors"
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "bilevel"
