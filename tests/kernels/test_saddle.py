import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.kernels.saddle import factors_of, schur_of, solve_saddle

RANDOM = np.random.default_rng(0)
HESSIAN = np.cov(RANDOM.normal(size=(6, 20)))
ROWS = RANDOM.normal(size=(3, 6))
TOP, BOTTOM = RANDOM.normal(size=6), RANDOM.normal(size=3)
SOLVE = jax.jit(solve_saddle)


def test_a_regular_system_is_solved_to_rounding():
    matrix = np.block([[HESSIAN, ROWS.T], [ROWS, np.zeros((3, 3))]])
    expected = np.linalg.solve(matrix, np.concatenate([TOP, BOTTOM]))
    np.testing.assert_allclose(np.concatenate(SOLVE(HESSIAN, ROWS, TOP, BOTTOM)), expected, atol=1e-12)


def test_factors_in_other_units_are_those_of_the_program_in_these_units():
    """Powers of two, so that nothing is rounded; a row that is off stays off."""
    columns, scales = 2.0 ** np.arange(-3, 3), 2.0 ** np.array([4, -2, 7])
    rows = ROWS * np.array([[1], [0], [1]])
    hessian, scaled = columns[:, None] * HESSIAN * columns, scales[:, None] * rows * columns
    bottom = BOTTOM * [1, 0, 1]
    by = schur_of(jnp.asarray(HESSIAN), jnp.asarray(rows)).in_units(jnp.asarray(columns), jnp.asarray(scales))
    moved = by.solve(jnp.asarray(TOP), jnp.asarray(bottom))
    np.testing.assert_allclose(np.concatenate(moved), np.concatenate(SOLVE(hessian, scaled, TOP, bottom)), rtol=1e-11)


def test_lost_factors_are_silenced_and_good_ones_unchanged():
    lost, good = (schur_of(jnp.asarray(sign * HESSIAN), jnp.asarray(ROWS)) for sign in (-1, 1))
    assert bool(lost.lost) and np.isnan(lost.inverse).any()
    assert all(np.isfinite(part).all() for part in lost.quiet())
    assert all(np.array_equal(*pair) for pair in zip(good, good.quiet(), strict=True))


def test_zero_rows_are_switched_off_and_repeated_rows_share_their_multiplier():
    x, y = SOLVE(HESSIAN, ROWS[:1], TOP, BOTTOM[:1])
    padded = np.concatenate([ROWS[:1], np.zeros((1, 6)), ROWS[:1]])
    x_padded, y_padded = SOLVE(HESSIAN, padded, TOP, np.array([BOTTOM[0], 0, BOTTOM[0]]))
    np.testing.assert_allclose(x_padded, x, atol=1e-12)
    np.testing.assert_allclose(y_padded, [y[0] / 2, 0, y[0] / 2], atol=1e-12)


@pytest.mark.parametrize("gap", 10.0 ** -np.arange(3, 11))
def test_as_independence_fails_the_solution_loses_no_more_digits_than_the_rows_do(gap):
    """A rank decided on the whole matrix drops the direction at gap 1e-8: it appears there as gap squared."""
    rows = np.stack([ROWS[0], ROWS[0] + gap * ROWS[1]])
    exact = SOLVE(HESSIAN, ROWS[:2], TOP, BOTTOM[:2])[0]
    x, _ = SOLVE(HESSIAN, rows, TOP, np.array([BOTTOM[0], BOTTOM[0] + gap * BOTTOM[1]]))
    np.testing.assert_allclose(x, exact, atol=3e-15 / gap)


def test_a_singular_hessian_gives_the_least_norm():
    flat = np.diag([1.0, 1, 0, 0, 0, 0])
    x, _ = SOLVE(flat, np.zeros((0, 6)), flat @ TOP, np.zeros(0))
    np.testing.assert_allclose(x, flat @ TOP, atol=1e-14)


@pytest.mark.slow
def test_derivatives_in_every_argument():
    step = 1e-6
    args = (HESSIAN, ROWS, TOP, BOTTOM)
    directions = tuple(RANDOM.normal(size=arg.shape) for arg in args)
    directions = (directions[0] + directions[0].T, *directions[1:])
    ends = [SOLVE(*(arg + way * step * d for arg, d in zip(args, directions, strict=True))) for way in (1, -1)]
    _, change = jax.jvp(solve_saddle, args, directions)
    for ours, plus, minus in zip(change, *ends, strict=True):
        np.testing.assert_allclose(ours, (plus - minus) / (2 * step), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("units", [False, True])
def test_unknowns_that_rows_give_are_put_in(units):
    """The last two unknowns by the first two rows: the same solution as by the whole matrix, in any units."""
    rng = np.random.default_rng(0)
    link, others = rng.standard_normal((2, 3)), np.array([[1.0, 2, -1], [0, 0, 0]])
    rows = np.block([[link, np.diag([-1.0, 2.0])], [others, np.zeros((2, 2))]])
    root = rng.standard_normal((3, 3))
    hessian = np.block([[root @ root.T, np.zeros((3, 2))], [np.zeros((2, 3)), np.diag([3.0, 0.5])]])
    columns, scales = np.exp2(rng.integers(-2, 3, 5)), np.exp2(rng.integers(-2, 3, 4))
    by = factors_of(jnp.asarray(hessian), jnp.asarray(rows), 2)
    if units:
        by = by.in_units(jnp.asarray(columns), jnp.asarray(scales))
        hessian, rows = columns[:, None] * hessian * columns, scales[:, None] * rows * columns
    top, bottom = rng.standard_normal(5), np.append(rng.standard_normal(3), 0.0)
    x, y = by.solve(jnp.asarray(top), jnp.asarray(bottom))
    np.testing.assert_allclose(hessian @ x + rows.T @ y, top, atol=1e-12)
    np.testing.assert_allclose((rows @ x)[:3], bottom[:3], atol=1e-12)
    assert by.held.tolist() == [True, True, True, False] and not by.lost and not by.convex
    assert by.lost_where(jnp.bool_(True)).lost


def test_a_hessian_of_added_unknowns_alone_is_seen_to_be_convex():
    rows = jnp.array([[1.0, -1.0]])
    assert factors_of(jnp.diag(jnp.array([0.0, 1.0])), rows, 1).convex
    assert not factors_of(jnp.diag(jnp.array([2.0, -1.0])), rows, 1).convex
    assert not factors_of(jnp.diag(jnp.array([-0.5, 1.0])), rows, 1).convex
