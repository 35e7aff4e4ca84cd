"""A result that one can hold: read, plotted, saved and loaded without pickle; callbacks; progress."""

import collections
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.loggers import read_json_lines

Pair = collections.namedtuple("Pair", ["left", "right"])


@pytest.fixture(scope="module")
def task():
    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * (w - batch) ** 2 + 0.5 * jnp.exp(h) * w**2,
            init=lambda key, h: jnp.zeros(()),
        ),
        outer_loss=lambda w, h, batch: 0.5 * (w - batch) ** 2,
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.full_batch(4.0, 1.0),
        name="shrinkage",
    )


@pytest.fixture(scope="module")
def fitted(task, tmp_path_factory):
    seen = []

    def third(moment):
        seen.append(moment)
        return moment.step == 2

    folder = tmp_path_factory.mktemp("run") / "run"
    trainer = bl.Trainer(optimizer=optax.sgd(0.1), steps=6, callbacks=[third, lambda moment: 1], profile=True)
    return trainer.fit(task, key=jax.random.key(0), directory=folder, progress=True), seen, folder


def test_a_callback_sees_each_step_and_may_end_the_run(fitted):
    result, seen, folder = fitted
    assert [moment.step for moment in seen] == [0, 1, 2] == [line["step"] for line in result.metrics]
    assert result.summary["status"] == "stopped_by_callback"
    for moment, line in zip(seen, read_json_lines(folder / "metrics.jsonl"), strict=True):
        assert moment.metrics["outer/loss"] == line["outer/loss"]
        assert float(moment.hparams) == line["hparams"]
        assert float(moment.params) == pytest.approx(4 / (1 + np.exp(line["hparams"])))


def test_the_time_of_a_step_is_divided(fitted):
    profile = fitted[0].summary["profile"]
    assert list(profile) == ["inner solve", "adjoint solve", "error estimate", "evaluation"]
    assert all(0 <= seconds < 1 for seconds in profile.values()) and profile["inner solve"] > 0


def test_what_is_no_callback_is_refused():
    with pytest.raises(TypeError, match=r"trainer.callbacks: 3 is no function of a bl.training.Moment"):
        bl.Trainer(callbacks=[3])  # pyright: ignore[reportArgumentType]  # the wrong thing is the test


def test_each_thing_reads_in_a_few_lines(fitted, task):
    result = fitted[0]
    assert repr(result).startswith("Result('shrinkage', stopped_by_callback after 3 steps: outer loss ")
    assert "hparams float64[]" in repr(result)
    assert repr(task).startswith("Task('shrinkage', float64, outer loss ")
    assert "InnerProblem(loss task.<lambda>, solver Auto(" in repr(task)
    for thing in (result, task):
        assert len(repr(thing)) < 400 and "0x" not in repr(thing)


def test_functions_within_a_loss_and_a_penalty_read_as_names():
    loss = bl.Linear(design=lambda batch: batch, loss=lambda z, params, hparams, batch: z.sum())
    inner = bl.InnerProblem(loss, lambda key, hparams: 0.0, penalty=bl.L1(weight=lambda hparams: hparams))
    assert "0x" not in repr(inner) and "loss Linear(design=test_functions" in repr(inner)
    assert "penalty L1(weight=test_functions" in repr(inner)


def test_the_standard_figures(fitted):
    result = fitted[0]
    assert len(result.plot().axes) == 2 and len(result.plot("hyperparameters").axes) == 2
    with pytest.raises(ValueError, match="choose one of training, hyperparameters"):
        result.plot("nothing")


def test_a_result_is_loaded_as_it_was_saved(fitted, tmp_path):
    result = fitted[0]
    result.save(tmp_path / "result.npz")
    again = bl.load_result(tmp_path / "result.npz")
    assert (again.summary, again.metrics) == (result.summary, result.metrics)
    assert again.hparams == result.hparams and again.hparams.dtype == np.float64
    assert repr(again) == repr(result)


TREES = {
    "nested": {"a": [np.arange(3), (np.float32(1.5), None)], "b": {}},
    "named": Pair(np.zeros((2, 0)), {"c": np.array([1 + 2j])}),
    "half": jnp.array([1.5, -2.0], jnp.bfloat16),
    "number": 3.0,
}


@pytest.mark.parametrize("name", TREES)
def test_every_tree_comes_back(name, tmp_path):
    tree = TREES[name]
    bl.training.Result(tree, tree, tree, tree, [{"loss": float("inf")}], {"x": 1}).save(tmp_path / "r.npz")
    again = bl.load_result(tmp_path / "r.npz")
    assert again.metrics == [{"loss": float("inf")}]
    before, after = jax.tree_util.tree_flatten(tree), jax.tree_util.tree_flatten(again.hparams)
    assert len(before[0]) == len(after[0])
    for one, other in zip(before[0], after[0], strict=True):
        assert np.asarray(one).dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), other)
    assert name == "named" or before[1] == after[1]
    assert name != "named" or (type(again.hparams).__name__, again.hparams._fields) == ("Pair", Pair._fields)


def test_nothing_is_unpickled_and_what_cannot_be_saved_is_told(tmp_path):
    class Bomb:
        def __reduce__(self):
            raise AssertionError("it was unpickled")

    with pytest.raises(TypeError, match="hparams is a Bomb"):
        bl.training.Result(Bomb(), 1.0, 1.0, 1.0, [], {}).save(tmp_path / "r.npz")
    with pytest.raises(TypeError, match="hparams has the key 3"):
        bl.training.Result({3: 1.0}, 1.0, 1.0, 1.0, [], {}).save(tmp_path / "r.npz")
    assert not list(tmp_path.iterdir())
    (tmp_path / "pickled.npz").write_bytes(pickle.dumps([1, 2]))
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as file:
        file.writestr("meta", "text")
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match="no result is stored there"):
            bl.load_result(path)
    with pytest.raises(ValueError, match="it is a folder, and Result.save"):
        bl.load_result(tmp_path)
