"""Sphinx: `sphinx-build -W docs docs/_build` with the extra `docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "bilevel"
author = "The bilevel authors"
extensions = ["myst_parser", "mathml", "reference"]
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "extensions", "style"]
html_theme = "furo"
html_title = "bilevel"
html_static_path = ["style"]
html_css_files = ["width.css"]
html_show_copyright = False  # LICENSE says it
add_module_names = False
python_maximum_signature_line_length = 100
python_display_short_literal_types = True
toc_object_entries_show_parents = "hide"
suppress_warnings = ["ref.python"]  # a mapping and a solver may share a name: annotations link to one of them
