"""The tutorials as notebooks, built from the pages that the tests run: a code cell for each block of code.

python scripts/notebooks.py --out DIR                 writes them (needs the extra notebooks)
python scripts/notebooks.py --out DIR --execute       runs them too, so that they hold their output
"""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "docs/quickstart.md", *sorted((ROOT / "docs/tutorials").glob("*.md")))
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
SECONDS = 600  # that a cell may take


def notebook(page: Path) -> Any:
    """The notebook of a page. Links to other pages name their files, and lead nowhere without the repository, so that
    they become plain words."""
    jupytext: Any = importlib.import_module("jupytext")  # of the extra notebooks, as the two below
    text = re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", page.read_text(encoding="utf-8"))
    made = jupytext.reads(text, "md")
    made.metadata["kernelspec"] = KERNEL
    return made


def executed(made: Any) -> Any:
    """The same notebook with the output of its cells. Raises nbclient's CellExecutionError where one fails."""
    nbclient: Any = importlib.import_module("nbclient")
    return nbclient.NotebookClient(made, timeout=SECONDS, kernel_name=KERNEL["name"]).execute()


def main() -> None:
    nbformat: Any = importlib.import_module("nbformat")
    parser = argparse.ArgumentParser(description="Write the tutorials as notebooks.")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    parser.add_argument("--execute", action="store_true", help="run them, too")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        made = executed(notebook(page)) if given.execute else notebook(page)
        path = given.out / f"{page.stem}.ipynb"
        nbformat.write(made, path)
        print(path, flush=True)


if __name__ == "__main__":
    main()
