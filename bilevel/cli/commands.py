"""Commands that compose no settings: they take words and folders, and answer without Hydra."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence

from bilevel.cli.sentences import SettingsError

COMMANDS = {
    "list": "bilevel.cli.listing:show",
    "new": "bilevel.cli.fresh:new",
    "report": "bilevel.cli.reports:report",
    "watch": "bilevel.cli.reports:watch",
}
TAKES = {  # the settings that each command takes
    "list": (),
    "new": (),
    "report": ("output",),
    "watch": ("port",),
}
Words = list[str]


def asked(arguments: Sequence[str]) -> tuple[Callable[[Words, dict[str, str]], None], Words, dict[str, str]] | None:
    """The command among the arguments with its words and settings; None where it is one of Hydra's.

    A folder may have a name like ``lr=0.1``, so a word counts as a setting only if its name is a known one.
    """
    names = [word.partition("=")[2] for word in arguments if word.startswith("command=")]
    if not names or names[-1] not in COMMANDS:
        return None
    name = names[-1]
    words, settings = [], {}
    for word in arguments:
        key, is_setting, value = word.partition("=")
        if key == "command":
            continue
        if is_setting and key in TAKES[name]:
            settings[key] = re.sub(r"^(['\"])(.*)\1$", r"\2", value)
        elif word.startswith("-"):
            raise SettingsError(f"{word}: command={name} takes no flags.")
        else:
            words.append(word)
    module, _, function = COMMANDS[name].partition(":")
    return getattr(importlib.import_module(module), function), words, settings
