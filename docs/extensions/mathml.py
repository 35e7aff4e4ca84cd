"""Sphinx extension: formulas as MathML, which browsers show without a script and without a network."""

from __future__ import annotations

from typing import Any

from latex2mathml.converter import convert


def inline(translator: Any, node: Any) -> None:
    translator.body.append(convert(node.astext()))


def block(translator: Any, node: Any) -> None:
    translator.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')


def done(translator: Any, node: Any) -> None:
    """Nothing is left to write at the end of a formula; its TeX source is not shown."""


def skipping(visit: Any) -> Any:
    """The visit, after which the TeX source within the formula is left out."""

    def visited(translator: Any, node: Any) -> None:
        from docutils.nodes import SkipNode

        visit(translator, node)
        raise SkipNode

    return visited


def setup(app: Any) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (skipping(inline), done), (skipping(block), done))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
