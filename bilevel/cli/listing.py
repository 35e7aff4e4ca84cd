"""``command=list [WHAT]``: what there is to choose from, a line each."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from bilevel.cli.choices import configs, files, options
from bilevel.cli.generated import PLACES, choices
from bilevel.cli.sentences import SettingsError, nearest

GROUPS = {
    "tasks": "task",
    "engines": "engine",
    "solvers": "solver",
    "linear_solvers": "engine/linear_solve",
    "optimizers": "optimizer",
    "schedules": "schedule",
    "data": "data",
    "experiments": "experiment",
    "loggers": "logger",
}
WIDTH = 110


def show(words: list[str], settings: dict[str, str]) -> None:
    """Prints the names of a group with a line each, or the groups with the number of their names."""
    if not words:
        for name, group in GROUPS.items():
            print(f"{name:<16}{len(options(group)):>4}   bilevel command=list {name}")
        return
    for word in words:
        name = word if word in GROUPS else f"{word}s"
        if name not in GROUPS:
            raise SettingsError(
                f"command=list {word}: there is no such list{nearest(word, GROUPS)}; choose one of {', '.join(GROUPS)}."
            )
        for row in rows(GROUPS[name]):
            print(row)


def rows(group: str) -> list[str]:
    """GROUP=NAME and what it is, a line each."""
    told = {name: about(group, name) for name in options(group) if name not in ("own", "default")}
    key = "engine.linear_solve" if group == "engine/linear_solve" else group
    width = max(len(name) for name in told) + len(key) + 3
    return [f"{f'{key}={name}':<{width}}{line}"[:WIDTH].rstrip() for name, line in told.items()]


def about(group: str, name: str) -> str:
    """What a choice is: the words behind the command in its file, else the first line of the docstring it names."""
    generated = {
        name: entry
        for part, (place, _) in PLACES.items()
        if place == group
        for name, entry in choices(configs(), part).items()
    }
    if name not in files(group):
        return str(generated[name]["about"])
    text = (configs() / group / f"{name}.yaml").read_text(encoding="utf-8")
    comment = re.search(r"^# bilevel(?: \S+=\S+)+ {2,}(\S.*)$", text, re.MULTILINE)
    target = re.search(r"^_target_: (\S+)|^  _target_: (\S+)", text, re.MULTILINE)
    if comment:
        return comment[1]
    return (docstring(target[1] or target[2]) if target else "") or str(generated.get(name, {}).get("about", ""))


def docstring(target: str) -> str:
    """The first line of the docstring of a name of this package, read without importing it; "" for others.

    >>> docstring("bilevel.OneStep")[:40]
    'The gradient through the last step of th'
    """
    package, _, rest = target.partition(".")
    names = rest.split(".")
    if package != "bilevel" or not names:
        return ""
    root = Path(__file__).resolve().parent.parent
    place = root.joinpath(*names[:-1])
    candidates = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    for path in candidates:
        source = path.read_text(encoding="utf-8") if path.is_file() else ""
        if not re.search(rf"^(?:def|class) {names[-1]}\b", source, re.MULTILINE):
            continue
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == names[-1]:
                return (ast.get_docstring(node) or "").partition("\n")[0].rstrip(".")
    return ""
