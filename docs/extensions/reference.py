"""Sphinx extension: writes the reference pages before each build, so that a new name needs no line here.

A page for each public folder of ``bilevel``, from ``__all__`` and the docstrings; one for the settings, from configs/.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any, NamedTuple

import bilevel

sys.path.insert(0, str(Path(__file__).parent))
from docstrings import fields, markdown, members, prose, signature
from settings_reference import settings_page

DOCS = Path(__file__).resolve().parent.parent
TOP = "bilevel"  # the page of names that stand in no public folder
FENCE = "``````"  # longer than any fence in a docstring
APART = ("bilevel.sklearn", "bilevel.networks", "bilevel.compat.jaxopt")  # public packages that `bl` does not load


class Entry(NamedTuple):
    """A public name."""

    path: str  # as users write it, from `bilevel` on
    thing: Any


def public_modules() -> dict[str, Any]:
    """{page: module} of every public module."""
    pages = {name: importlib.import_module(f"bilevel.{name}") for name in bilevel._MODULES}
    present = [name for name in APART if _is_there(name)]
    return pages | {name.removeprefix("bilevel."): importlib.import_module(name) for name in present}


def _is_there(name: str) -> bool:
    return (Path(bilevel.__file__).parent / Path(*name.split(".")[1:])).exists()


def names_of(module: Any) -> list[str]:
    """``__all__``, or what the module itself defines for the public."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    here = vars(module).items()
    return [n for n, x in here if not n.startswith("_") and getattr(x, "__module__", None) == module.__name__]


def entries() -> dict[str, list[Entry]]:
    """{page: its names}. A name of ``bl`` stands on the page of the folder that defines it, and only there."""
    modules = public_modules()
    pages: dict[str, list[Entry]] = {TOP: [], **{page: [] for page in modules}}
    for home, names in bilevel._HOME.items():
        folder = home.split(".")[1]
        pages[folder if folder in pages else TOP].extend(Entry(f"bilevel.{n}", getattr(bilevel, n)) for n in names)
    shown = {id(entry.thing) for found in pages.values() for entry in found}
    for page, module in modules.items():
        for name in names_of(module):
            thing = getattr(module, name)
            if id(thing) not in shown and not inspect.ismodule(thing):
                pages[page].append(Entry(f"bilevel.{page}.{name}", thing))
    return pages


def described(entry: Entry, known: set[str]) -> str:
    """The directive of one name."""
    thing = entry.thing
    if not callable(thing):
        return f"{FENCE}{{py:data}} {entry.path}\n{FENCE}\n"
    parts = [markdown(inspect.getdoc(thing) or "", known)]
    if inspect.isclass(thing):
        parts += [f"- **{name}** (`{kind}`): {prose(comment, known)}" for name, kind, comment in fields(thing)]
        for directive, name, member in members(thing):
            call = signature(member) if directive == "method" else ""
            text = markdown(inspect.getdoc(member) or "", known)
            parts.append(f"`````{{py:{directive}}} {name}{call}\n{text}\n`````")
    kind = "class" if inspect.isclass(thing) else "function"
    body = "\n\n".join(part for part in parts if part)
    return f"{FENCE}{{py:{kind}}} {entry.path}{signature(thing)}\n{body}\n{FENCE}\n"


def page_text(page: str, module: Any, found: list[Entry], known: set[str]) -> str:
    """One page, names in alphabetical order."""
    title = "bilevel" if page == TOP else f"bilevel.{page}"
    about = markdown(inspect.getdoc(module) or "", known)
    body = [described(entry, known) for entry in sorted(found, key=lambda entry: entry.path.lower())]
    return "\n".join([f"# {title}\n", about, "", *body])


def pages() -> dict[str, str]:
    """{name of the file: text} of every reference page."""
    found = entries()
    known = {entry.path.removeprefix("bilevel.") for some in found.values() for entry in some}
    modules = {TOP: bilevel, **public_modules()}
    texts = {f"{page}.md": page_text(page, modules[page], some, known) for page, some in found.items() if some}
    texts["settings.md"] = settings_page(DOCS.parent / "configs")
    listed = "\n".join(sorted(Path(name).stem for name in texts))
    texts["index.md"] = f"# Every public name, and every setting\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    return texts


def write(_: Any = None) -> None:
    """Writes the pages; one that has not changed is left alone, so that Sphinx does not read it again."""
    folder = DOCS / "reference"
    folder.mkdir(exist_ok=True)
    texts = pages()
    for path in set(folder.glob("*.md")) - {folder / name for name in texts}:
        path.unlink()
    for name, text in texts.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
