"""The page of Hydra groups and their settings, from the files in configs/ and from the choices that need none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bilevel.cli.generated import PLACES, choices

SETTING = re.compile(r"^(\s*)([\w/@ ]+):(?: ([^#].*?))?(?:\s+# (.*))?$")


def settings_page(configs: Path) -> str:
    """A section for each group, a table for each of its files."""
    parts = [
        "# Settings\n",
        "Every group of `configs/`, each of its choices, and the settings of that choice with their defaults. "
        "An override names a setting by its group: `bilevel engine=implicit engine.refine=true`.\n",
        "## Top level\n",
        choice(configs / "config.yaml"),
    ]
    folders = {path.parent.relative_to(configs).as_posix() for path in configs.rglob("*.yaml")} - {"."}
    for group in sorted({*folders, *(place for place, _ in PLACES.values())}):
        parts.append(f"## {group}\n")
        paths = sorted((configs / group).glob("*.yaml"))
        for path in paths:
            parts += [f"### {group}={path.stem}\n", choice(path)]
        parts += without_file(configs, group, {path.stem for path in paths})
    return "\n".join(parts)


def without_file(configs: Path, group: str, known: set[str]) -> list[str]:
    """The table of the choices of a group that need no file, with their settings; [] where there are none."""
    found = {n: e for part, (place, _) in PLACES.items() if place == group for n, e in choices(configs, part).items()}
    rows = [
        f"| `{group.replace('/', '.')}={name}` | {cell(entry['about'])} | {values(entry['node'])} |"
        for name, entry in sorted(found.items())
        if name not in known
    ]
    head = [f"### {group} without a file\n", "| choice | | settings and defaults |", "|---|---|---|"]
    return ["\n".join([*head, *rows, ""])] if rows else []


def values(node: dict[str, Any]) -> str:
    """``name=default`` of each setting; "???" where a value has to be given."""
    shown = [f"{name}={json.dumps(value).strip(chr(34))}" for name, value in node.items() if name != "_target_"]
    return f"`{' '.join(shown)}`" if shown else ""


def choice(path: Path) -> str:
    """What the comments at the head of the file say, and the table of its settings."""
    lines = path.read_text().splitlines()
    head = [line[2:] for line in lines if line.startswith("# ") and "@package" not in line]
    said = "\n".join(["```text", *head, "```", ""]) if head else ""
    rows = [
        f"| `{name}` | {f'`{value}`' if value else ''} | {cell(comment)} |" for name, value, comment in settings(lines)
    ]
    table = "\n".join(["| setting | default | |", "|---|---|---|", *rows, ""]) if rows else ""
    return f"{said}\n{table}"


def cell(comment: str) -> str:
    """A comment inside a table."""
    return re.sub(r"([*_$<>|\[\]{}])", r"\\\1", comment)


def settings(lines: list[str]) -> list[tuple[str, str, str]]:
    """(dotted name, default, comment) of each line that sets something; lists of defaults are left out."""
    found, above = [], []
    for line in lines:
        told = SETTING.match(line)
        if line.lstrip().startswith(("#", "-")) or not told:
            continue
        depth = len(told[1]) // 2
        above = [*above[:depth], told[2].strip()]
        if above[0] != "defaults" and told[3]:
            found.append((".".join(above), told[3].replace("|", "\\|"), told[4] or ""))
    return found
