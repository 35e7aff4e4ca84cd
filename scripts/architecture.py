"""The figure of docs/architecture.md, drawn from the imports, and the files that a hypergradient passes through.

python scripts/architecture.py             # writes docs/figures/architecture.png, prints folders and edges
python scripts/architecture.py --path      # counts the files from the first bl.hypergradient to its gradient
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "bilevel"


def name_of(path: Path) -> str:
    """The folder, or the file on top, that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def edges() -> dict[str, set[str]]:
    """{folder: the folders that it imports}, imports for type checkers included."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        owner = name_of(path)
        if owner.startswith("__"):
            continue
        found[owner] |= set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bilevel":
                parts = node.module.split(".")
                found[owner] |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    imported = {name for names in found.values() for name in names}
    names = {owner for owner, below in found.items() if below or owner in imported}  # not the door to experiments/
    return {owner: (found[owner] & names) - {owner} for owner in names}


def levels(graph: dict[str, set[str]]) -> dict[str, int]:
    """How many imports lie below each folder, at most."""
    known: dict[str, int] = {}

    def level(name: str) -> int:
        if name not in known:
            known[name] = 1 + max((level(below) for below in graph[name]), default=-1)
        return known[name]

    for name in graph:
        level(name)
    return known


def needed(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """The edges that no path of others implies: few enough to be drawn."""

    def reaches(start: str, end: str, without: tuple[str, str]) -> bool:
        return any(below == end or reaches(below, end, without) for below in graph[start] if (start, below) != without)

    every = {(above, below) for above, imported in graph.items() for below in imported}
    return {edge for edge in every if not reaches(*edge, edge)}


def draw(graph: dict[str, set[str]], path: Path) -> None:
    from matplotlib.figure import Figure

    rows: dict[int, list[str]] = defaultdict(list)
    for name, level in sorted(levels(graph).items()):
        rows[level].append(name)
    place = {
        name: ((index + 0.5) / len(row) * 10, level) for level, row in rows.items() for index, name in enumerate(row)
    }
    figure = Figure(figsize=(8, 9), layout="constrained")
    axes = figure.subplots()
    for above, below in sorted(needed(graph)):
        (x, y), (u, v) = place[above], place[below]
        axes.annotate(
            "", (u, v + 0.28), (x, y - 0.28), arrowprops={"arrowstyle": "->", "color": "0.55", "linewidth": 0.8}
        )
    for name, (x, y) in place.items():
        folder = (PACKAGE / name).is_dir()
        box = {"boxstyle": "round,pad=0.35", "facecolor": "#dce9f5" if folder else "white", "edgecolor": "#30587f"}
        axes.text(x, y, f"{name}/" if folder else name, ha="center", va="center", fontsize=10, bbox=box)
    axes.set(xlim=(0, 10), ylim=(-0.6, max(rows) + 0.6))
    axes.axis("off")
    figure.savefig(path, dpi=110)


def visited() -> tuple[list[str], list[str]]:
    """The files of bilevel that run between a call of `bl.hypergradient` and its gradient, in the order of their first
    line, imports left out; and the calls that lead to the engine, from the outermost."""
    import jax.numpy as jnp

    import bilevel as bl

    def error(params: Any, hparams: Any, batch: Any) -> Any:
        return 0.5 * jnp.mean((batch[0] @ params - batch[1]) ** 2)

    x = jnp.arange(12.0).reshape(6, 2) % 5
    y = x[:, 0] - x[:, 1] + 0.1
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: error(w, h, batch) + 0.5 * jnp.exp(h) * jnp.sum(w**2),
        init=lambda key, h: jnp.zeros(2),
        solver=bl.LBFGS(),
    )
    batches = bl.full_batch((x[:4], y[:4]), (x[4:], y[4:]))
    task = bl.Task(inner=inner, outer_loss=error, init_hparams=lambda key: jnp.zeros(()), batches=batches)
    hypergradient = bl.hypergradient  # loads what it needs, before anything is noted
    files: list[str] = []
    calls: list[str] = []

    def ours(frame: FrameType | None) -> list[str]:
        if frame is None:
            return []
        name = [frame.f_code.co_qualname] if frame.f_code.co_filename.startswith(str(PACKAGE)) else []
        return ours(frame.f_back) + name

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(PACKAGE)) and code.co_name != "<module>":
            name = str(Path(code.co_filename).relative_to(PACKAGE))
            if name not in files:
                files.append(name)
            if code.co_qualname == "Implicit.hypergradient" and not calls:
                calls.extend(ours(frame))

    sys.setprofile(note)
    try:
        hypergradient(task, jnp.zeros(()))
    finally:
        sys.setprofile(None)
    return files, calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", action="store_true", help="count the files that a hypergradient passes through")
    if parser.parse_args().path:
        files, calls = visited()
        print("\n".join(files))
        print(f"{len(files)} files; {len(calls)} calls to the engine: {', '.join(calls)}")
        return
    graph = edges()
    draw(graph, ROOT / "docs" / "figures" / "architecture.png")
    every = sum(len(imported) for imported in graph.values())
    print(f"{len(graph)} folders and files, {every} imports between them, {max(levels(graph).values()) + 1} levels")


if __name__ == "__main__":
    main()
