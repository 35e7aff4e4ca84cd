"""Docstrings and signatures of the library as MyST Markdown."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Collection, Iterator
from typing import Any

SPAN = re.compile(r"``(.+?)``|`([^`]+?)`", re.DOTALL)
SPECIAL = re.compile(r"([\\*_$<>{}\[\]|#~^])")  # what Markdown or MyST would read as a mark in prose
FIELD = re.compile(r"^    (\w+): (.+?)(?: = (.+?))?(?:  # (?!type:|pyright:)(.*))?$")
ADDRESS = re.compile(r"<(?:function|bound method) ([\w.<>]+)[^>]*>+| object at 0x[0-9a-f]+")


def prose(text: str, known: Collection[str]) -> str:
    """A paragraph: code spans kept, names in `known` linked, all else literal."""
    parts, end = [], 0
    for span in SPAN.finditer(text):
        parts.append(SPECIAL.sub(r"\\\1", text[end : span.start()]))
        code = " ".join((span[1] or span[2]).split())
        name = code.removeprefix("bl.")
        parts.append(f"{{py:obj}}`{code} <bilevel.{name}>`" if name in known else f"`{code}`")
        end = span.end()
    return "".join([*parts, SPECIAL.sub(r"\\\1", text[end:])])


def blocks(docstring: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of the paragraphs, in order; kind is "prose", "example", "formula" or "table"."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        if not paragraph.strip():
            continue
        first = paragraph.lstrip("\n")
        if first.lstrip().startswith(">>>"):
            yield "example", paragraph
        else:
            marks = {"===": "table", "    ": "formula"}
            yield next((kind for mark, kind in marks.items() if first.startswith(mark)), "prose"), paragraph


def table(text: str, known: Collection[str]) -> str:
    """A table between two lines of ``=``, with two columns and no heading, as Markdown has it."""
    rule, *rows = text.strip().splitlines()
    second = rule.index(" =") + 1
    cells = [(row[:second].strip(), row[second:].strip()) for row in rows if not row.startswith("=")]
    told = [f"| {prose(one, known)} | {prose(other, known)} |" for one, other in cells]
    return "\n".join(["| | |", "|---|---|", *told])


def markdown(docstring: str, known: Collection[str]) -> str:
    """The docstring: prose as prose, examples highlighted, indented formulas as they stand."""
    parts = []
    for kind, text in blocks(docstring):
        if kind == "prose":
            parts.append(prose(text, known))
        elif kind == "table":
            parts.append(table(text, known))
        else:
            language = "pycon" if kind == "example" else "text"
            parts.append(f"```{language}\n{inspect.cleandoc(text)}\n```")
    return "\n\n".join(parts)


def signature(thing: Any) -> str:
    """The call, with the annotations as they are written; empty where there is none to tell."""
    try:
        told = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    parameters = [one.replace(annotation=_plain(one.annotation)) for one in told.parameters.values()]
    result = _plain(told.return_annotation) if not inspect.isclass(thing) else inspect.Signature.empty
    text = str(told.replace(parameters=parameters, return_annotation=result))
    return ADDRESS.sub(lambda found: found[1] or "", text).replace("\n", " ")


class _Words(str):
    """An annotation that prints as its words, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _plain(annotation: Any) -> Any:
    return _Words(annotation) if isinstance(annotation, str) else annotation


def fields(thing: type) -> list[tuple[str, str, str]]:
    """(name, type and default, comment) of the fields that the class itself states beside a comment."""
    if not dataclasses.is_dataclass(thing):
        return []
    told = [FIELD.match(line) for line in inspect.getsource(thing).splitlines()]
    names = {one.name for one in dataclasses.fields(thing)}
    return [(m[1], f"{m[2]}{f' = {m[3]}' if m[3] else ''}", m[4]) for m in told if m and m[1] in names and m[4]]


def members(thing: type) -> Iterator[tuple[str, str, Any]]:
    """(directive, name, object) of the public methods and properties that the class itself documents."""
    for name, member in vars(thing).items():
        function = getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.getdoc(function):
            continue
        if isinstance(member, property):
            yield "property", name, member
        elif inspect.isfunction(function) and function.__qualname__.startswith(thing.__qualname__):  # no borrowed ones
            yield "method", name, function
