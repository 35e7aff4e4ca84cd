"""The reference pages of the site: each public name and each setting stands on one of them, once."""

import collections
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bilevel

DOCS = Path(__file__).resolve().parent.parent / "docs"
DIRECTIVE = re.compile(r"^`{6}\{py:\w+\} (bilevel[\w.]*)", re.MULTILINE)


@pytest.fixture(scope="module")
def extension():
    """The Sphinx extension that writes the pages, which needs no Sphinx to tell their text."""
    sys.path.insert(0, str(DOCS / "extensions"))
    yield importlib.import_module("reference")
    sys.path.remove(str(DOCS / "extensions"))


@pytest.fixture(scope="module")
def pages(extension):
    return extension.pages()


def test_every_public_name_stands_on_one_page(extension, pages):
    counts = collections.Counter(path for text in pages.values() for path in DIRECTIVE.findall(text))
    assert set(counts.values()) == {1}
    shown = {id(entry.thing) for found in extension.entries().values() for entry in found}
    missing = [name for name in bilevel.__all__ if name not in bilevel._MODULES and f"bilevel.{name}" not in counts]
    for page, module in extension.public_modules().items():
        things = [(f"{page}.{name}", getattr(module, name)) for name in extension.names_of(module)]
        missing += [name for name, thing in things if id(thing) not in shown and not hasattr(thing, "__path__")]
    assert missing == []


def test_every_page_is_reached_from_the_index(pages):
    listed = pages["index.md"].split("\n\n")[2].split("```")[0].split()
    assert sorted(f"{name}.md" for name in listed) == sorted(set(pages) - {"index.md"})
    assert "reference/index" in (DOCS / "index.md").read_text()


def test_every_page_written_by_hand_is_reached_from_the_index():
    index = (DOCS / "index.md").read_text()
    listed = re.findall(r"^[\w/-]+$", "".join(re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL)), re.MULTILINE)
    pages = [page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")]
    written = [name for name in pages if name != "index" and not name.startswith(("reference/", "_build/"))]
    assert sorted(name for name in listed if not name.startswith("reference/")) == sorted(written)
    assert len(set(listed)) == len(listed)


def test_every_choice_of_settings_has_its_table(pages):
    configs = DOCS.parent / "configs"
    text = pages["settings.md"]
    for path in configs.rglob("*.yaml"):
        if path.parent != configs:
            heading = f"### {path.parent.relative_to(configs).as_posix()}={path.stem}\n"
            assert text.count(heading) == 1, heading
    section = text.split("### engine=implicit\n")[1].split("###")[0]
    for row in (
        "| `refine` | `false` |",
        "| `recycle` | `0` | directions of the adjoint's CG kept for the next step |",
    ):
        assert row in section
    assert "| `linear_solve._target_` | `bilevel.AutoLinear` |" in section


def test_prose_keeps_its_marks_and_links_known_names(extension):
    told = extension.markdown("The `L1` term w*(h) has _one_ ``weight``.\n\n    x * y\n\n>>> 1 + 1\n2", {"L1"})
    assert told == (
        "The {py:obj}`L1 <bilevel.L1>` term w\\*(h) has \\_one\\_ `weight`.\n\n```text\nx * y\n```\n\n"
        "```pycon\n>>> 1 + 1\n2\n```"
    )


def test_a_table_of_a_docstring_is_one(extension):
    told = extension.markdown("======  ====\none     `L1`\nmore x  two\n======  ====", {"L1"})
    assert told == "| | |\n|---|---|\n| one | {py:obj}`L1 <bilevel.L1>` |\n| more x | two |"


def test_no_page_has_the_name_of_a_page_of_sphinx():
    assert not {"search", "genindex", "py-modindex"} & {path.stem for path in DOCS.glob("*.md")}


def test_signatures_hold_no_addresses(pages):
    assert not [name for name, text in pages.items() if " at 0x" in text]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="needs the extra docs: pip install -e '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", str(DOCS), str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "bilevel.InnerProblem" in (tmp_path / "reference" / "bilevel.html").read_text()
    start = (tmp_path / "index.html").read_text()
    assert "<math" in start and "cdn." not in start  # formulas need no network
