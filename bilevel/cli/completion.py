"""Completion by the shell, where Hydra's own knows nothing: commands, their words, experiments, folders, flags."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bilevel.cli.choices import configs, options
from bilevel.cli.generated import names
from bilevel.cli.words import FLAGS, FOLDERS, SHORT, TAKES_VALUE, settings

FLAG = ("-sc", "--shell-completion")
ZSH = """\
autoload -Uz compinit bashcompinit
(( $+functions[compdef] )) || compinit
bashcompinit
"""  # Hydra's script is written for bash, and needs these lines in zsh
OF_FOLDERS = ("command=report", "command=watch", "command=doctor")


def answered(arguments: Sequence[str]) -> bool:
    """Answers a shell that asks for words that Hydra does not complete; False where Hydra is to answer.

    Before Hydra's script for zsh it prints the lines that the script needs there.
    """
    if not arguments or arguments[0] not in FLAG:
        return False
    request, _, shell = arguments[-1].partition("=")
    if request == "install" and shell == "zsh":
        print(ZSH, end="")
    found = candidates(os.environ.get("COMP_LINE", "")) if request == "query" else None
    if found is not None:
        print(("\n" if shell == "fish" else " ").join(sorted(found)))
    return found is not None


def candidates(line: str) -> list[str] | None:
    """The completions of the last word of a command line; None where Hydra completes it.

    >>> candidates("bilevel command=l"), candidates("bilevel out"), candidates("bilevel command=list en")
    (['command=list'], ['output='], ['engines'])
    >>> candidates("bilevel experiment=paper/pre"), candidates("bilevel --mul"), candidates("bilevel task=r")
    (['experiment=paper/precision'], ['--multirun'], None)
    """
    before, _, word = line.rpartition(" ")
    name, is_setting, _ = word.partition("=")
    given = before.split()
    if "command=list" in given:
        from bilevel.cli.listing import GROUPS

        found = list(GROUPS)
    elif any(one in given for one in OF_FOLDERS):
        return folders(word, "")
    elif word.startswith("-"):
        found = [flag for flag in (*FLAGS, *TAKES_VALUE) if flag.startswith("--")]
    elif not is_setting and not {".", "/", "+", "~"} & set(word):
        found = beginnings()
    elif name in (*FOLDERS, "output"):
        return folders(word, f"{name}=")
    elif name in ("command", "experiment", "engine.linear_solve"):
        found = [f"{name}={value}" for value in values(name)]
    else:
        return None
    return [one for one in found if one.startswith(word)]


def values(name: str) -> list[str]:
    """The values of ``command``, ``experiment`` or ``engine.linear_solve``."""
    if name == "command":
        from bilevel.cli.arguments import COMMANDS, WITHOUT_SETTINGS

        return [*COMMANDS, *WITHOUT_SETTINGS]
    return options(name) if name == "experiment" else names(configs(), "engine/linear_solve")


def beginnings() -> list[str]:
    """The beginnings of all settings: GROUP= and GROUP. of those in groups, NAME= of the others."""
    parted = (one.partition(".") for one in settings())
    return sorted(
        {f"{head}{'.' if dot else '='}" for head, dot, _ in parted} | {f"{one}=" for one in (*SHORT, *FOLDERS)}
    )


def folders(word: str, prefix: str) -> list[str]:
    """The folders whose names begin with the part of the word behind ``prefix``, each with a slash at its end."""
    above, slash, begun = word.removeprefix(prefix).rpartition("/")
    place = Path(f"{above}{slash}" or ".").expanduser()
    found = sorted(path.name for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
    return [f"{prefix}{above}{slash}{one}/" for one in found if one.startswith(begun) and (begun or one[0] != ".")]
