"""Every work that a docstring or a page cites by author and year stands in docs/bibliography.md."""

import re
import unicodedata
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
AUTHOR = r"(?:van der )?[A-Z][\w'-]+"
AUTHORS = rf"({AUTHOR})(?:(?:, {AUTHOR})*,? and {AUTHOR}| et al\.)?"
CITATION = re.compile(rf"\b{AUTHORS},? (?:[A-Z][^.;\"()]*?, )?\(?((?:19|20)\d\d)\b(?!-)")
ENTRY = re.compile(r"^- ([^\d]+?), ((?:19|20)\d\d(?: and (?:19|20)\d\d)?)\.", re.MULTILINE)
NO_AUTHORS = {"NeurIPS", "ICML", "November"}  # words that stand before a year, too


def plain(text: str) -> str:
    """Without accents, and Wächter as Waechter, because docstrings write either."""
    text = text.replace("Waechter", "Wachter")
    return "".join(sign for sign in unicodedata.normalize("NFD", text) if not unicodedata.combining(sign))


def cited() -> dict[tuple[str, str], str]:
    """{(first author, year): file} of the package and the pages written by hand."""
    pages = [page for page in (REPOSITORY / "docs").rglob("*.md") if "reference" not in page.parts]
    found: dict[tuple[str, str], str] = {}
    for path in [*(REPOSITORY / "bilevel").rglob("*.py"), *pages]:
        if path.name in ("bibliography.md", "measurements.md", "benchmarks.md"):
            continue
        text = re.sub(r"\s*\n\s*#?\s*", " ", plain(path.read_text()))
        for author, year in CITATION.findall(text):
            found.setdefault((author, year), str(path.relative_to(REPOSITORY)))
    return {key: place for key, place in found.items() if key[0] not in NO_AUTHORS}


def listed() -> set[tuple[str, str]]:
    text = plain((REPOSITORY / "docs" / "bibliography.md").read_text())
    first = re.compile(AUTHOR)
    found = set()
    for authors, years in ENTRY.findall(text):
        name = first.match(authors)
        assert name, authors
        found |= {(name[0], year) for year in years.split(" and ")}
    return found


def test_every_citation_is_in_the_bibliography():
    missing = {key: place for key, place in cited().items() if key not in listed()}
    assert missing == {}


def test_citations_are_found():
    """Else the test above would pass on nothing."""
    assert {("Blondel", "2021"), ("van der Vorst", "1992"), ("Cuturi", "2013"), ("Wachter", "2006")} <= cited().keys()
