"""``command=list [WHAT]``: all choices of a group of settings, a line each."""

from __future__ import annotations

import re

from bilevel.cli.choices import configs, options
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
            print(f"{name:<16}{len(named(group)):>4}   bilevel command=list {name}")
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
    """GROUP=NAME and its description, a line each."""
    told = {name: about(group, name) for name in named(group)}
    key = "engine.linear_solve" if group == "engine/linear_solve" else group
    width = max(len(name) for name in told) + len(key) + 3
    return [f"{f'{key}={name}':<{width}}{cut(line, WIDTH - width)}".rstrip() for name, line in told.items()]


def named(group: str) -> list[str]:
    """The names of a group that are choices of a user: ``own`` and ``default`` need no name."""
    return [name for name in options(group) if name not in ("own", "default")]


def cut(line: str, width: int) -> str:
    """The line; one that is too long ends at a word, with dots.

    >>> cut("one two three", 10), cut("one two", 10)
    ('one two...', 'one two')
    """
    return line if len(line) <= width else line[: width - 3 + 1].rpartition(" ")[0].rstrip(",;:") + "..."


def about(group: str, name: str) -> str:
    """The description of a choice: the words behind the command in its file, or in the generated choices; else ""."""
    generated = {
        name: entry
        for part, (place, _) in PLACES.items()
        if place == group
        for name, entry in choices(configs(), part).items()
    }
    comment = re.search(r"^# bilevel(?: \S+=\S+)+ {2,}(\S.*)$", content(group, name), re.MULTILINE)
    return comment[1] if comment else str(generated.get(name, {}).get("about", ""))


def content(group: str, name: str) -> str:
    """The text of the file of a choice; "" where it needs none."""
    path = configs() / group / f"{name}.yaml"
    return path.read_text(encoding="utf-8") if path.is_file() else ""
