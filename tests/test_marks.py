"""What tells a checker to look away names its rule and says why, in the same line."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("bilevel", "tests", "experiments", "scripts")
MARK = re.compile(r"#\s*(type:\s*ignore|pyright:\s*(?!basic|strict)|(ruff:\s*)?noqa)", re.IGNORECASE)
COMPLETE = re.compile(r"# ((type|pyright): ignore\[[\w-]+(, [\w-]+)*\]|noqa: [A-Z]+[0-9]+(, [A-Z]+[0-9]+)*)  # \w.{5,}")


def marks(text: str) -> list[str]:
    if not MARK.search(text):
        return []
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = ((token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT)
    return [f"{line}: {comment}" for line, comment in comments if MARK.search(comment)]


def is_complete(mark: str) -> bool:
    return COMPLETE.search(mark) is not None


@pytest.mark.parametrize(
    ("mark", "complete"),
    [
        ("# noqa", False),
        ("# noqa: E731", False),
        ("# noqa: E731 a formula", False),
        ("# type: ignore", False),
        ("# type: ignore  # numpy is typed otherwise", False),
        ("# pyright: ignore[reportCallIssue]", False),
        ("# ruff: noqa", False),
        ("# noqa: F401  # W&B looks for it", True),
        ("# type: ignore[arg-type]  # numpy is typed otherwise", True),
    ],
)
def test_a_mark_without_its_rule_or_reason_is_found(mark, complete):
    (found,) = marks(f"x = 1  {mark}\n")
    assert is_complete(found) == complete


def test_every_mark_carries_its_rule_and_its_reason():
    files = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    found = [f"{path.relative_to(ROOT)}:{mark}" for path in files for mark in marks(path.read_text())]
    assert found, "the search found no mark at all"
    assert not [mark for mark in found if not is_complete(mark)]
