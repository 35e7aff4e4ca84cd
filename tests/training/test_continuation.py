"""What a run goes on from: records and checkpoints that are torn, doubled, cut or damaged, and data that are others."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_array_equal

import bilevel as bl
from bilevel.loggers import json_lines, read_json_lines

STEPS = 4


def task(validation=1.0):
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2) + 0.5 * jnp.exp(h) * jnp.sum(w**2),
        init=lambda key, h: jnp.zeros(2),
        solver=bl.GradientDescent(),
    )
    return bl.Task(
        inner=inner,
        outer_loss=lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2),
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.full_batch(jnp.array([4.0, 2.0]), jnp.array([validation, 1.0])),
    )


def fit(directory, steps, resume=True, **changed):
    return bl.Trainer(optimizer=optax.sgd(0.1), steps=steps, checkpoint_every=1).fit(
        task(**changed), key=jax.random.key(0), directory=directory, resume=resume
    )


def without_times(path):
    return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in read_json_lines(path)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four steps, and one of six."""
    with jax.enable_x64(True):
        place = tmp_path_factory.mktemp("runs")
        fit(place / "four", STEPS, resume=False)
        fit(place / "six", STEPS + 2, resume=False)
    return place


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished / "four", tmp_path / "run")
    return tmp_path / "run"


def assert_goes_on(run, finished):
    result = fit(run, STEPS + 2)
    assert without_times(run / "metrics.jsonl") == without_times(finished / "six" / "metrics.jsonl")
    with np.load(run / "result.npz") as mine, np.load(finished / "six" / "result.npz") as whole:
        assert_array_equal(mine["hparams"], whole["hparams"])
        assert_array_equal(mine["hparams"], result.hparams)


@pytest.mark.slow
def test_a_whole_run_goes_on(run, finished):
    assert_goes_on(run, finished)


def torn(lines):
    return "".join(lines[:-1]) + lines[-1][:20]


def doubled(lines):
    return "".join([*lines[:2], lines[1], *lines[2:]])


def with_a_hole(lines):
    return "".join([*lines[:2], *lines[3:]])


def cut(lines):
    return "".join(lines[:3])


@pytest.mark.sample(1)
@pytest.mark.parametrize("damage", [torn, doubled, with_a_hole, cut])
def test_a_damaged_record_sends_the_run_back_to_the_checkpoint_that_it_covers(run, finished, damage):
    record = run / "metrics.jsonl"
    record.write_text(damage(record.read_text().splitlines(keepends=True)))
    if damage in (doubled, with_a_hole):
        with pytest.warns(UserWarning, match="are? written anew|is written anew"):
            assert_goes_on(run, finished)
    else:
        assert_goes_on(run, finished)


@pytest.mark.slow
def test_the_next_step_reads_as_much_of_a_long_record_as_of_a_short_one(tmp_path, monkeypatch):
    """Counted are the bytes and the lines of it that are read before that step; the result has all lines."""
    stated, counts, spent = task(), [], {}
    read, parsed = json_lines._bytes, json_lines.loads  # the one door to the bytes of a record, and to its lines

    def reading(*place):
        found = read(*place)
        spent["bytes"] += len(found)
        return found

    def parsing(text):
        spent["lines"] += 1
        return parsed(text)

    for steps in (100, 400):
        spent.update(bytes=0, lines=0)
        trainer = bl.Trainer(optimizer=optax.sgd(0.1), steps=steps, steps_per_call=100, checkpoint_every=steps)
        trainer.fit(stated, directory=tmp_path / f"{steps}")
        with monkeypatch.context() as patched:
            patched.setattr(json_lines, "_bytes", reading)
            patched.setattr(json_lines, "loads", parsing)
            result = replace(trainer, steps=steps + 1, callbacks=[lambda moment: counts.append(dict(spent))]).fit(
                stated, directory=tmp_path / f"{steps}", resume=True
            )
        assert [line["step"] for line in result.metrics] == list(range(steps + 1))
        assert spent["lines"] > steps  # they are read for the result
    size = (tmp_path / "400" / "metrics.jsonl").stat().st_size
    assert counts[0]["lines"] == counts[1]["lines"] <= 2
    assert counts[1]["bytes"] <= 2 * (json_lines.BLOCK + 1) < size / 2


def test_a_line_that_no_step_needs_is_missing_in_the_result_alone(run):
    """A run goes on without a look at the lines before its checkpoint."""
    record = run / "metrics.jsonl"
    record.write_text(record.read_text().replace('"step": 1,', '"step": ?,'))
    with pytest.warns(UserWarning, match=f"1 of the first {STEPS} lines cannot be read"):
        result = fit(run, STEPS + 2)
    assert [line["step"] for line in result.metrics] == [0, *range(2, STEPS + 2)]
    assert result.summary["steps"] == STEPS + 2


def test_a_record_of_a_run_without_its_place_is_read_whole(run, finished):
    """As checkpoints of an earlier release are."""
    for meta in (run / "checkpoints").glob("*/meta/metadata"):
        meta.write_text(meta.read_text().replace('"bytes"', '"other"'))
    assert_goes_on(run, finished)


def test_an_empty_record_is_no_record(run):
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"holds 0 whole lines, and the first checkpoint beside it is of step 2"):
        fit(run, STEPS + 2)


def damage(checkpoint, kind):
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.stat().st_size > 0]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    if kind == "removed":
        largest.unlink()
    elif kind == "cut":
        largest.write_bytes(content[: len(content) // 2])
    elif kind == "emptied":
        largest.write_bytes(b"")
    else:
        content[len(content) // 2] ^= 0x10
        largest.write_bytes(content)


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", ["removed", "cut", "emptied", "a flipped bit"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(run, finished, kind):
    damage(run / "checkpoints" / str(STEPS), kind)
    with pytest.warns(UserWarning, match=rf"checkpoints/{STEPS} .*The run goes on from step {STEPS - 1}"):
        assert_goes_on(run, finished)


def test_no_whole_checkpoint_is_one_sentence(run):
    for checkpoint in (run / "checkpoints").iterdir():
        damage(checkpoint, "cut")
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=rf"checkpoints/{STEPS} (cannot be read|is damaged)"):
        fit(run, STEPS + 2)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_other_data_are_refused(run):
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match="was run on other data"):
        fit(run, STEPS + 2, validation=1.5)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_second_start_in_the_folder_is_refused(run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(bl.training.FolderTaken, match="holds a run already"):
        fit(run, STEPS + 2, resume=False)
    del before[run / "run.lock"]
    assert {path: path.read_bytes() for path in before} == before


class Follower(bl.loggers.Logger):
    """Remembers its end, and may fail there."""

    def __init__(self, fails=False):
        self.fails, self.summary = fails, None

    def start(self, run, step=0, state=None):
        """Nothing."""

    def log(self, step, metrics):
        """Nothing."""

    def figure(self, name, figure):
        """Nothing."""

    def finish(self, summary):
        self.summary = summary
        if self.fails:
            raise OSError("disk full")


@pytest.mark.slow
def test_a_logger_that_fails_does_not_keep_the_others_from_their_end(tmp_path):
    followers = [Follower(fails=True), Follower()]
    trainer = bl.Trainer(optimizer=optax.sgd(0.1), steps=1, loggers=followers)
    with pytest.raises(OSError, match="disk full"):
        trainer.fit(task(), directory=tmp_path / "run")
    assert all(one.summary is not None and one.summary["status"] == "completed" for one in followers)


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_what_comes_after_the_steps_does_not_cost_their_summary(run, error, status):
    def baselines():
        raise error("no baseline")

    again = replace(task(), baselines=baselines)
    with pytest.raises(error):
        bl.Trainer(optimizer=optax.sgd(0.1), steps=STEPS).fit(again, key=jax.random.key(0), directory=run, resume=True)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == (status, STEPS)
    assert np.isfinite(summary["best_outer_loss"])
