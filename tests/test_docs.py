"""Every ```python block of README.md and docs/ runs; the blocks of a page share their names."""

import importlib
import re
import warnings
from pathlib import Path
from typing import Any

import jax
import matplotlib
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
WRITTEN = [page for page in (REPOSITORY / "docs").rglob("*.md") if page.parent.name != "reference"]  # by hand
PAGES = [REPOSITORY / "README.md", *sorted(WRITTEN)]
TUTORIALS = ("cleaning-labels", "penalties", "layer")  # whole trainings: executed in the slow run
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def marked(page: Path) -> Any:
    """The page as a parameter; slow where it is one of the long tutorials."""
    return pytest.param(page, marks=[pytest.mark.slow] if page.stem in TUTORIALS else [])


@pytest.mark.sample(2)
@pytest.mark.parametrize("page", [*map(marked, PAGES)], ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_python_blocks_run(page, tmp_path, monkeypatch):
    """In float32, as a reader's interpreter starts, and in an empty folder."""
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = page.read_text()
    names = {"__name__": "__main__"}
    with jax.enable_x64(False), warnings.catch_warnings():
        warnings.simplefilter("default")
        for block in BLOCK.finditer(text):
            line = text[: block.start(1)].count("\n")
            exec(compile("\n" * line + block[1], str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize(
    "page", [*PAGES, *(REPOSITORY / "experiments").rglob("*.md")], ids=lambda page: str(page.relative_to(REPOSITORY))
)
def test_the_rows_of_tables_are_whole(page):
    """A row that goes on in the next line is the end of its table, and the rest of the table is shown as text."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = table.splitlines()
        bars = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
        assert set(rows[1]) <= set("|-: "), f"the table that begins with {rows[0]!r} has no line below its head"
        assert len(set(bars)) == 1 and all(row.endswith("|") for row in rows), rows[0]


def test_the_readme_begins_with_the_two_commands():
    text = (REPOSITORY / "README.md").read_text()
    first, second = text.index("pip install -e . && bilevel"), text.index("pip install -e '.[test]' && pytest")
    assert first < second < 800


def test_the_readme_lists_what_is_in_the_package(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    contents = importlib.import_module("contents")
    text = (REPOSITORY / "README.md").read_text()
    assert text == contents.with_table(text), "python scripts/contents.py writes it"


@pytest.mark.slow
def test_the_readme_prints_what_it_says(capsys):
    text = (REPOSITORY / "README.md").read_text()
    code, said = BLOCK.search(text), re.search(r"It prints\n\n```text\n(.*?)```", text, re.DOTALL)
    assert code and said
    with jax.enable_x64(False):
        exec(compile(code[1], "README.md", "exec"), {"__name__": "__main__"})
    rounding = re.compile(r"\+- \S+,")  # the estimate is of the size of rounding, which differs between machines
    assert rounding.sub("", capsys.readouterr().out) == rounding.sub("", said[1])


MATHEMATICS = re.compile(r"\$\$.*?\$\$|\$[^$\n]+(?:\n[^$\n]+)?\$", re.DOTALL)
TYPED = re.compile(r"\|\|\s|\s\|\||\^\{|\bgrad loss\b|\bd[gFw]/d[hw]\b|(?<=\w)\\\*")  # formulas as people type them


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_formulas_are_mathematics(page):
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert TYPED.findall(MATHEMATICS.sub("", text)) == []
