"""The table of README.md that says what is in the package, from the package itself.

python scripts/contents.py           writes it
python scripts/contents.py --check   exit code 1 where README.md is behind the package
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import bilevel
from bilevel.cli.choices import options

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- python scripts/contents.py: begin -->\n", "<!-- end -->\n"
# What a row says, and the homes of `bl` names that it lists; a name that is no choice of the user is left out.
ROWS = {
    "derivatives of any solver's result": ("bilevel.implicit",),
    "inner problems": ("bilevel.problem", "bilevel.losses"),
    "penalties": ("bilevel.penalties",),
    "feasible sets": ("bilevel.constraints",),
    "inner solvers": ("bilevel.solvers",),
    "engines: the hypergradient": ("bilevel.engines",),
    "linear solvers of the adjoint": ("bilevel.linear_solve",),
    "layers: programs that differentiate": ("bilevel.layers",),
    "the outer loop": ("bilevel.task", "bilevel.batches", "bilevel.streams", "bilevel.training"),
}
BASES = {"Penalty", "Constraint", "Solver", "Engine", "LinearSolver", "LinearSolution", "Operator", "Mapping"}
RESULTS = {"Carry", "Constants", "Report", "Solution", "Result", "Zero", "Free"}


def names(homes: tuple[str, ...]) -> list[str]:
    """The names of ``bl`` that live in or below these homes."""
    found = [n for home, some in bilevel._HOME.items() if home.startswith(homes) for n in some]
    return sorted(set(found) - BASES - RESULTS, key=str.lower)


def table() -> str:
    """The table, in Markdown."""
    rows = [(title, ", ".join(f"`{name}`" for name in names(homes))) for title, homes in ROWS.items()]
    for title, group in (("tasks", "task"), ("experiments", "experiment"), ("data sets", "data")):
        rows.append(
            (
                f"{title}: `bilevel {group}=`",
                ", ".join(name for name in options(group) if name not in ("own", "default")),
            )
        )
    lines = [f"| {title} | {listed} |\n" for title, listed in rows]
    return "".join(["| | |\n|---|---|\n", *lines])


def with_table(text: str) -> str:
    """The text of README.md with the table as it should be."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END, 1)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the table of contents of README.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; say whether it is up to date")
    path = ROOT / "README.md"
    text = path.read_text()
    if parser.parse_args().check:
        sys.exit(0 if text == with_table(text) else "README.md is behind the package: python scripts/contents.py")
    path.write_text(with_table(text))


if __name__ == "__main__":
    main()
