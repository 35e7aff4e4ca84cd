"""Hyperparameters at the steps 0, 1, 2, 4, 8, ...: in the result, in its file, and after a run went on."""

import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.training.snapshots import FILE, Snapshots

HPARAMS = {"scale": jnp.float32(2.0), "weights": jnp.arange(40.0)}


def test_snapshots_are_taken_at_powers_of_two(tmp_path):
    taken = Snapshots(tmp_path)
    for step in range(20):
        taken.keep(step, {**HPARAMS, "scale": jnp.float32(step)})
    assert list(taken.kept) == [0, 1, 2, 4, 8, 16]
    with np.load(tmp_path / FILE) as arrays:
        assert arrays["16/hparams['scale']"] == 16.0 and arrays["0/hparams['weights']"].shape == (40,)


def test_a_run_that_goes_on_has_those_before_its_step(tmp_path):
    first = Snapshots(tmp_path)
    for step in (0, 1, 2, 4):
        first.keep(step, {**HPARAMS, "half": jnp.ones(3, jnp.bfloat16)})
    again = Snapshots(tmp_path)
    again.restore({**HPARAMS, "half": jnp.ones(3, jnp.bfloat16)}, 3)
    assert list(again.kept) == [0, 1, 2]
    assert again.kept[2]["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(again.kept[2]["weights"], HPARAMS["weights"])


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_file_costs_pictures_only(tmp_path, content):
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    taken = Snapshots(tmp_path)
    taken.restore(HPARAMS, 3)
    assert taken.kept == {}


def test_many_numbers_are_not_kept():
    taken = Snapshots()
    for step in (0, 1, 2, 4):
        taken.keep(step, np.zeros(300_000))
    assert list(taken.kept) == [0, 1, 2]
