"""The page of Hydra groups and their settings, from the files in configs/."""

from __future__ import annotations

import re
from pathlib import Path

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
    for group in sorted({path.parent for path in configs.rglob("*.yaml")} - {configs}):
        name = group.relative_to(configs).as_posix()
        parts.append(f"## {name}\n")
        for path in sorted(group.glob("*.yaml")):
            parts += [f"### {name}={path.stem}\n", choice(path)]
    return "\n".join(parts)


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
