"""Proofs that a program has no solution: what they show, and that no change of scale alters it."""

import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.kernels.certificate import closeness, no_minimum, no_point

CONTRADICTION = np.array([1.0, -2.0])  # x <= 1, x >= 2


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("left", [0.0, 0.1])
def test_neither_the_size_of_b_nor_of_y_counts(scale, left):
    for b, y in ((scale, 1.0), (1.0, scale), (scale, scale)):
        found = no_point(jnp.asarray(b * CONTRADICTION), jnp.full(2, y), jnp.array([left * y]))
        assert bool(found) == (left == 0)


def test_a_large_right_hand_side_is_no_proof():
    """x1 + x2 = 1e6, x >= 0: with y on the equality alone b'y is 1e6 times A'y, and the program is feasible."""
    b, y = jnp.array([1e6, 0.0, 0.0]), jnp.array([-1.0, 0.0, 0.0])
    assert not no_point(b, y, jnp.array([-1.0, -1.0]))


def test_a_margin_below_rounding_is_no_proof():
    b = jnp.array([1e6, -1e6 - 1e-9])
    assert not no_point(b, jnp.ones(2), jnp.zeros(1))
    assert no_point(jnp.array([1e6, -1e6 - 1.0]), jnp.ones(2), jnp.zeros(1))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_a_weak_curvature_is_not_none(scale):
    """x^2 / 2 - x has a minimum whatever the unit of the loss; P = 0 has none."""
    q, x = jnp.array([-scale]), jnp.ones(1)
    assert not no_minimum(q, x, jnp.array([1e-6 * scale]), jnp.zeros(1), jnp.array([1e-6 * scale]))
    assert no_minimum(q, x, jnp.zeros(1), jnp.zeros(1), jnp.zeros(1))


def test_a_ray_that_leaves_the_set_is_no_proof():
    assert not no_minimum(-jnp.ones(1), jnp.ones(1), jnp.zeros(1), jnp.ones(1), jnp.zeros(1))


def test_single_precision_asks_for_less():
    assert closeness(jnp.dtype("float32")) > 1e5 * closeness(jnp.dtype("float64"))


def test_rows_without_a_side_prove_nothing_within_the_size_of_the_others():
    """y uses rows whose sides are nearly 0, so a proof that excludes ||x||_1 < 4,300 says little where x has size 100.
    Of the Maros-Meszaros problem QPCBOEI2, which has a solution."""
    y, left = jnp.array([0.4, 0.02, 0.0]), jnp.array([1e-14, 0.0])
    alone, beside = jnp.array([0.0, -2e-9, 0.0]), jnp.array([0.0, -2e-9, 100.0])
    assert bool(no_point(alone, y, left)) and not bool(no_point(beside, y, left))
    assert bool(no_point(beside, y, 0 * left))
    still, curved = jnp.zeros(3), jnp.zeros(3)
    assert bool(no_minimum(alone, y, curved, left, still)) and not bool(no_minimum(beside, y, curved, left, still))
