"""Figures and tables: each is made by one command, which its page names, and the list says which are old."""

import importlib
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def refresh(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    return importlib.import_module("refresh")


def test_every_figure_and_table_is_written_by_one_command(refresh):
    written = [name for one in refresh.TABLE.values() for name in one.writes]
    there = [
        path.relative_to(REPOSITORY).as_posix()
        for folder in ("docs", "experiments")
        for kind in ("*.png", "*.csv")
        for path in (REPOSITORY / folder).rglob(kind)
        if "_build" not in path.parts
    ]
    assert len(written) == len(set(written))
    assert set(there) - set(written) == set()
    assert [name for name in written if not (REPOSITORY / name).is_file()] == []


def test_every_command_is_there_and_is_named_on_a_page(refresh):
    pages = [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
        *(REPOSITORY / "experiments").rglob("*.md"),
    ]
    pages = [page for page in pages if page != refresh.PAGE and page.parent.name != "reference"]
    text = " ".join(" ".join(page.read_text().split()) for page in pages)
    for name, one in refresh.TABLE.items():
        script = refresh.script(one.command)
        assert not script or (REPOSITORY / script).is_file(), name
        assert re.split(" output=| --out ", one.command)[0] in text, f"no page names {one.command}"
        assert [place for place in one.measures if not (REPOSITORY / place).exists()] == [], name


TOOLS = {  # programs that pages name and whose figures no page states
    "accelerator": "needs a GPU, and the page says that it has no figure",
    "adversary": "searches for faults",
    "catalogue_nonsmooth": "a part of catalogue",
    "contents": "writes a table from the code",
    "notebooks": "builds the tutorials",
    "refresh": "runs the others",
    "release": "builds the package",
}


def test_every_program_that_a_page_names_is_run_or_measures_nothing(refresh):
    pages = [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
        *(REPOSITORY / "experiments").rglob("*.md"),
    ]
    named = {name for page in pages for name in re.findall(r"scripts/(\w+)\.py", page.read_text())}
    run = {Path(refresh.script(one.command)).stem for one in refresh.TABLE.values()}
    assert named - run == set(TOOLS)


def test_every_command_of_the_ledger_is_run(refresh):
    """But the learned images: `experiments.learned_images.table` runs these and keeps all of their rows."""
    ledger = (REPOSITORY / "experiments/README.md").read_text()
    named = set(re.findall(r"`((?:[A-Z_]+=\S+ )*(?:bilevel experiment=|python experiments/)[^`]+)`", ledger))
    named = {command.removeprefix("BILEVEL_DATA=DIR ") for command in named}
    run = {one.command.removesuffix(" output={scratch}") for one in refresh.TABLE.values()}
    left = {command for command in named - run if not command.startswith("bilevel experiment=distillation/")}
    assert left == {"bilevel experiment=paper/NAME", "bilevel experiment=hpo/NAME"}


def test_the_page_is_written_from_the_records(refresh):
    text = refresh.PAGE.read_text()
    assert text == refresh.with_table(text), "python scripts/refresh.py writes it"
    for path in sorted(refresh.MEASURED.glob("*.txt")):
        assert path.stem in refresh.TABLE
        assert set(refresh.head(path.stem)) == set(refresh.FIELDS), path
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", refresh.head(path.stem)["date"])


def test_a_change_of_the_code_makes_a_figure_old(refresh, tmp_path, monkeypatch):
    monkeypatch.setattr(refresh, "ROOT", tmp_path)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/draw.py").write_text("1")
    (tmp_path / "code").mkdir()
    (tmp_path / "code/a.py").write_text("2")
    one = refresh.Measured("python scripts/draw.py", (), ("code",))
    before = refresh.digest(one)
    assert refresh.digest(one) == before
    (tmp_path / "code/a.py").write_text("3")
    assert refresh.digest(one) != before
    (tmp_path / "code/a.py").write_text("2")
    (tmp_path / "scripts/draw.py").write_text("4")
    assert refresh.digest(one) != before


def test_a_table_beside_other_packages_is_not_taken_without_them(refresh, monkeypatch, capsys):
    monkeypatch.setattr(refresh.subprocess, "run", lambda *_, **__: pytest.fail("nothing may run"))
    monkeypatch.setattr(refresh, "commit", lambda: "")
    assert not refresh.refresh("peers_qp", {"qpax": "python", "jaxopt": "python"})
    assert (
        "left out, because its table has rows of other packages: --peers cvxpylayers=PYTHON" in capsys.readouterr().err
    )


def test_a_table_that_needs_a_package_of_this_environment_is_not_taken_without_it(refresh, monkeypatch, capsys):
    monkeypatch.setattr(refresh.subprocess, "run", lambda *_, **__: pytest.fail("nothing may run"))
    monkeypatch.setattr(refresh, "commit", lambda: "")
    monkeypatch.setitem(refresh.TABLE, "one", refresh.Measured("python one.py", modules=("no_such_module",)))
    assert not refresh.refresh("one", {})
    assert "left out, because it needs no_such_module in this environment" in capsys.readouterr().err


def test_the_packages_beside_which_a_benchmark_measures_are_those_that_it_knows(refresh):
    for name, one in refresh.TABLE.items():
        text = (REPOSITORY / place).read_text() if (place := refresh.script(one.command)) else ""
        if " --peers " in one.command:
            of_this_environment = one.command.partition(" --peers ")[2].split()
            known = [path.stem.removeprefix("run_") for path in (REPOSITORY / place).parent.glob("peers/run_*.py")]
            assert sorted([*of_this_environment, *one.peers]) == sorted(known), name
            continue
        told = re.search(r"^PEERS = \((.*)\)$", text, re.M) or re.search(r"arguments\(__doc__(.*)\)", text)
        assert sorted(one.peers) == sorted(re.findall(r'"(\w+)"', told[1] if told else "")), name


def test_which_are_older_than_the_code_that_they_measure(refresh):
    """Says it, and does not fail: taking a benchmark again needs an idle machine and hours."""
    if old := refresh.older():
        pytest.xfail(f"older than their code, or not taken by scripts/refresh.py yet: {', '.join(old)}")
