"""Sphinx extension: formulas as MathML, which browsers show without a script and without a network."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def written(display: str) -> Callable[[Any, Any], None]:
    """The visitor that writes a formula, inline or as a block, and leaves its TeX source out."""
    convert = importlib.import_module("latex2mathml.converter").convert  # of the extra docs
    left_out = importlib.import_module("docutils.nodes").SkipNode

    def visit(translator: Any, node: Any) -> None:
        formula = convert(node.astext(), display=display)
        translator.body.append(f'<div class="math">{formula}</div>' if display == "block" else formula)
        raise left_out

    return visit


def setup(app: Any) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (written("inline"), None), (written("block"), None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
