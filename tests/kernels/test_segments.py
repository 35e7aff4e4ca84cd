import jax.numpy as jnp
import numpy as np

from bilevel.kernels.segments import monotone_runs, run_means, starts_to_runs, total_variation_jumps


def test_runs_are_numbered_from_zero_whatever_the_first_mark_says():
    for first in (True, False):
        assert starts_to_runs(jnp.array([first, False, True, False, True])).tolist() == [0, 0, 1, 1, 2]


def test_means_over_runs():
    np.testing.assert_allclose(
        run_means(jnp.array([1.0, 3.0, 5.0, 7.0]), jnp.array([0, 0, 1, 1])), [2.0, 2.0, 6.0, 6.0]
    )


def test_equal_neighbours_are_runs_of_their_own_but_violators_are_pooled():
    assert monotone_runs(jnp.array([1.0, 1.0, 0.0])).tolist() == [0, 0, 0]
    assert monotone_runs(jnp.array([0.0, 1.0, 1.0])).tolist() == [0, 1, 2]


def test_jumps_have_the_sign_of_the_step():
    jumps = total_variation_jumps(jnp.array([0.0, 0.0, 9.0, 9.0, 2.0]), jnp.full(4, 0.5))
    assert jumps.tolist() == [0, 1, 0, -1]
