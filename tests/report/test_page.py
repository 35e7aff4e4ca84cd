"""The page holds what the record has, needs nothing from anywhere, and says nothing that a setting could inject."""

import json
import math
import re
from html.parser import HTMLParser

import pytest

import bilevel as bl
from bilevel.loggers import Run
from bilevel.report import REPORT, Page, found, page, read
from bilevel.report.charts import chart
from bilevel.report.comparison import as_text, curves, distinctions
from bilevel.report.sections import ended, levels

VOID = ("meta", "img", "br", "line", "path", "polygon", "i")


class Outline(HTMLParser):
    """Tags, attributes and text; every tag has to be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        assert self.open == [], self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_a_run_is_told_in_one_file(write_run):
    html = page([read(write_run())])
    outline = Outline(html)
    text = " ".join("".join(outline.text).split())
    for words in (
        "cleaning: test accuracy 0.9; 0.8 without <cleaning>; 0.5 at the start.",
        "step 7 of 12, because it has the lowest loss on the second hold-out",
        "The gradient can be trusted: its error is estimated at",
        "chosen step 7",
        "penalty, age 0.5".replace(" 0.5", "0.5"),
        "Next: ",
        "cleaning tunes 2 hyperparameters through an inner problem of 10 unknowns, solved by LBFGS",
    ):
        assert words in text, words
    assert "<cleaning>" not in html  # escaped
    assert len([tag for tag, _ in outline.tags if tag == "figure"]) >= 5
    (image,) = [attributes for tag, attributes in outline.tags if tag == "img"]
    assert image["src"].startswith("data:image/png;base64,") and image["alt"]
    outside = [value for _, some in outline.tags for name, value in some.items() if name in ("src", "href")]
    assert all(value.startswith("data:") for value in outside) and "http://" not in html.replace("http-equiv", "")
    assert "<script" not in html and "prefers-color-scheme: dark" in html


def test_runs_are_compared_best_first(write_run):
    folders = [
        write_run("a", summary={"best_outer_loss": 0.3}, settings={"seed": 1}),
        write_run("b", summary={"best_outer_loss": 0.2}, settings={"seed": 2}),
        write_run("c", summary={"best_outer_loss": None, "status": "failed"}, settings={"seed": 3}),
    ]
    html = page(found([folders[0].parent]))
    Outline(html)
    rows = re.findall(r"<tr[^>]*><td>([abc])</td><td>cleaning</td><td>(\d)</td>", html)
    assert rows == [("b", "2"), ("a", "1"), ("c", "3")]
    assert html.count("<h2>hyperparameters found</h2>") == 3  # each in full, below


def test_runs_are_told_apart_by_what_was_typed(write_run):
    typed = {"a": ["task=ridge"], "b": ["task=ridge", "engine=one_step"], "c": ["task=ridge", "++trainer.steps=9"]}
    for name, words in typed.items():
        engine = {"_target_": "OneStep" if name == "b" else "Implicit", "tol": 0.1 * (name != "b")}
        folder = write_run(name, steps=9 if name == "c" else 5, settings={"engine": engine})
        (folder / ".hydra/overrides.yaml").write_text(json.dumps(words))
    runs = found([folder.parent])
    assert distinctions(runs) == {"engine": ["default", "one_step", "default"], "trainer.steps": [5, 5, 9]}
    html = page(runs)
    assert "cleaning (b): one_step, 5" in html  # in the legends
    assert "<td>one_step</td>" in html and "<td>engine.tol</td>" in html  # the table of settings is whole


def test_a_narrow_terminal_sees_whole_columns_and_first_the_results(write_run):
    folders = [write_run(f"{seed}", settings={"seed": seed}, summary={"best_outer_loss": 0.1}) for seed in (1, 2)]
    runs = found([folders[0].parent])
    wide, narrow = as_text(runs, 120).splitlines(), as_text(runs, 60).splitlines()
    assert wide[0].split()[:3] == ["run", "task", "seed"] and "error of gradient" in wide[0]
    assert narrow[0].split()[:2] == ["run", "seed"] and max(map(len, narrow)) <= 60
    assert all(line.endswith("completed") for line in (*wide[1:], *narrow[1:])), narrow
    other = write_run("c", summary={"best_outer_loss": 0.3, "task": "another"})
    assert "task" in as_text(found([other.parent]), 60).splitlines()[0].split()


@pytest.mark.slow
def test_a_large_sweep_tells_its_best_runs_in_full(write_run):
    folders = [write_run(f"run{k}", steps=2, summary={"best_outer_loss": 1 / (k + 1)}) for k in range(25)]
    html = page(found([folders[0].parent]))
    assert html.count("<h2>hyperparameters found</h2>") == 20 and "the 20 best of 25 runs" in html
    assert "run24: cleaning" in html and "run4: cleaning" not in html
    assert all(f"<td>run{k}</td>" in html for k in range(25))


def test_numbers_that_are_none_can_be_drawn(write_run):
    folder = write_run()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"error_estimate": "Infinity", "outer/grad_norm": 0.0, "outer/loss": None, "hparams": [0.0, 0.0]}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = json.loads((folder / "summary.json").read_text())
    summary["headline"] |= {"value": None, "baselines": {"one": None}}
    (folder / "summary.json").write_text(json.dumps(summary))
    html = page([read(folder)])
    Outline(html)
    assert not re.search(r'(?:d|points|[xy][12]?)="[^"]*(?:nan|inf)', html)


def test_a_run_that_lasts_or_failed_is_told_too(write_run):
    task = {"_target_": "mine.cleaning"}
    lasting = write_run("lasting", steps=3, settings={"trainer": {"steps": 12}, "task": task})
    (lasting / "summary.json").unlink()
    html = page([read(lasting)], refresh=5)
    assert "3 of 12 outer steps are done" in html and "cleaning: 3 outer steps so far" in html
    failed = write_run("failed", summary={"status": "failed", "headline": None}, status="max_steps")
    html = page([read(failed)])
    assert "the run failed after 12 outer steps" in html
    assert "too few inner steps" in html and "solver.max_steps" in html


def test_the_logger_writes_it_and_never_costs_a_result(write_run, tmp_path):
    folder = write_run()
    logger = Page()
    logger.start(Run(folder))
    logger.finish({})
    assert (folder / REPORT).read_text() == page([read(folder)])
    (folder / ".hydra/config.yaml").unlink()
    (folder / "figures/weights.png").unlink()
    (folder / "figures/weights.png").mkdir()
    with pytest.warns(UserWarning, match="report.html could not be written"):
        logger.finish({"status": "completed"})
    logger.finish({"status": "failed"})  # the run tells of its full disk itself
    with pytest.raises(ValueError, match="needs the directory"):
        bl.report.Page().start(Run())
    with pytest.raises(ValueError, match="there is no run in it, nor below it"):
        found([tmp_path / "figures"])


def test_references_between_settings_are_resolved(write_run):
    folder = write_run(settings={"preferred": {"steps": 9}, "trainer": {"steps": "${preferred.steps}"}})
    assert read(folder).record.setting("trainer.steps") == 9


def test_the_scale_of_a_chart_covers_what_it_shows():
    from bilevel.report.charts import Curve, chart, decades, steps

    assert steps(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert decades(1e-9, 1.0)[0] <= 1e-7 and len(decades(1e-9, 1.0)) <= 6
    assert chart("empty", [Curve("none", [0.0], [math.nan])]) == ""
    many = chart("many", [Curve("line", list(range(5000)), [1.0] * 5000)])
    assert many.count(",") < 1000


def test_the_curves_go_on_to_the_last_iterate(write_run):
    """The summary has it, because no outer step measures it; so the chosen step lies on the curve."""
    told = {"steps": 12, "final_outer_loss": 0.5, "last_test_loss": 0.25}
    found = read(write_run(summary=told)).record
    for name, last in (("outer/loss", 0.5), ("test/loss", 0.25)):
        curve = ended(found, name)
        assert (curve.x[-2:], curve.y[-1]) == ([11.0, 12.0], last)
    assert ended(found, "test/accuracy").x[-1] == 11.0


def test_the_paths_of_hyperparameters_go_on_to_the_last_iterate(write_run):
    """A run whose chosen step is its last ends where its path ends."""
    told = {"steps": 12, "best_step": 12, "last_hparams": {"hparams": [1.5, -3.0]}}
    html = page([read(write_run("ended", summary=told))])
    chart = re.search(r"path of hparams.*?</figure>", html)
    assert chart
    mark = re.search(r'class="mark" x1="([\d.]+)"', chart[0])
    ends = re.findall(r'<path class="line c\d"[^>]* d="M[^"]*L([\d.]+),[\d.]+"/>', chart[0])
    assert mark and len(ends) == 2 and set(ends) == {mark[1]}
    lasting = page([read(write_run("lasting", summary={"steps": 12}))])
    assert "path of hparams" in lasting


def test_the_losses_stand_beside_their_baselines(write_run):
    """By the words of the headline; a figure that is no number is left out."""
    head = {"name": "accuracy", "value": 0.9, "baselines": {}, "against": {"baseline_noisy_accuracy": "not cleaned"}}
    told = {"baseline_noisy_test_loss": 0.7, "baseline_noisy_validation_loss": 0.6, "baseline_test_loss": "NaN"}
    record = read(write_run(summary={"headline": head, **told})).record
    assert levels(record, ["outer/loss", "test/loss"]) == [
        ("outer loss (validation): not cleaned", [0.0, 12.0], [0.6, 0.6], 0),
        ("test, held out: not cleaned", [0.0, 12.0], [0.7, 0.7], 1),
    ]
    svg = chart("", levels(record, ["outer/loss"]))
    drawn = re.findall(r'<path class="line c(\d)"( stroke-dasharray="[^"]*")?', svg)
    assert {color for color, _ in drawn} == {"0"} and all(dashes for _, dashes in drawn)


def test_compared_curves_go_on_to_the_last_iterate(write_run):
    runs = [read(write_run(name, summary={"steps": 12, "final_outer_loss": 0.04})) for name in "ab"]
    losses = re.search(r"outer loss.*?</figure>", curves(runs))
    ends = re.findall(r'<path class="line c\d"[^>]* d="M[^"]*L([\d.]+),[\d.]+"/>', losses[0] if losses else "")
    assert len(ends) == 2 and {float(end) for end in ends} == {466.0}  # the right edge of the chart, at step 12


SPLIT = {"compilation": 1.0, "inner solve": 1.5, "evaluation": 0.001, "baselines": 0.499}


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        ({}, ["outer steps, without compilation1.20 s"]),
        (
            {"seconds_by": SPLIT, "seconds_sampled": [3, 12]},
            ["compilation1.00 s (33%)inner solve1.50 s (50%)baselines", "traces of steps 3, 12 are", "whole run3.00 s"],
        ),
        ({"seconds_by": SPLIT, "seconds_sampled": []}, ["trainer.profile=true divides them"]),
        (
            {"seconds_by": {"outer steps": 1.2, "record and checkpoints": 1.8}},
            ["took longer than the outer steps: trainer.checkpoint_every=null saves less often"],
        ),
        ({"seconds_by": SPLIT, "seconds_of_steps": [8, 12]}, ["since the run went on, in all3.00 s"]),
    ],
)
def test_where_the_time_went(write_run, summary, words):
    folder = write_run(summary=summary, settings={"trainer": {"checkpoint_every": 1}})
    told = "".join(Outline(page([read(folder)])).text)
    assert all(word in told for word in words), told[told.index("where the time went") :][:600]
