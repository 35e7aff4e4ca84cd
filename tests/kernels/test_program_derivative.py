"""The derivative of a quadratic program's solution: against differences, in all data, both modes, and second order."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.kernels.activity import read_program
from bilevel.kernels.program_derivative import moving
from bilevel.kernels.saddle import schur_of

RNG = np.random.default_rng(5)
N, P, M = 4, 1, 5
ROOT = RNG.normal(size=(N, N))
NAMES = ("Q", "q", "A", "b", "G", "h")
DATA = (  # NumPy's: of JAX they would be float32 here
    ROOT @ ROOT.T + np.eye(N),
    RNG.normal(size=N),
    RNG.normal(size=(P, N)),
    RNG.normal(size=P),
    RNG.normal(size=(M, N)),
    RNG.uniform(0.1, 0.6, size=M),
)


@jax.jit
def solution(*data):
    """x, y, z."""
    found = bl.quadratic_program(*data)
    return found.params, *jax.tree.leaves(found.dual)


def changed(place, change):
    return tuple(array + change if number == place else array for number, array in enumerate(DATA))


@pytest.mark.slow
@pytest.mark.parametrize("place", range(6), ids=NAMES)
def test_the_derivative_in_each_datum_is_that_of_differences(place):
    """Of x, y and z, by `moving` alone: the solution that it is given is a constant."""
    direction = jnp.asarray(np.random.default_rng(1).normal(size=DATA[place].shape))
    direction = direction + direction.T if place == 0 else direction
    fixed = solution(*DATA)
    reading = read_program(tuple(map(jnp.asarray, DATA)), fixed)

    def along(t):
        return jnp.concatenate(moving(fixed, (*changed(place, t * direction), jnp.ones(())), reading))

    step = 1e-5
    plus, minus = (jnp.concatenate(solution(*changed(place, sign * step * direction))) for sign in (1, -1))
    assert_allclose(jax.jacfwd(along)(0.0), (plus - minus) / (2 * step), atol=2e-6)
    assert_allclose(jax.jacrev(along)(0.0), jax.jacfwd(along)(0.0), atol=1e-12)


@pytest.mark.slow
def test_where_there_is_no_solution_there_is_no_derivative():
    fixed = solution(*DATA)
    reading = read_program(tuple(map(jnp.asarray, DATA)), fixed)

    def along(q):
        return moving(fixed, (DATA[0], q, *DATA[2:], jnp.nan), reading)[0]

    assert np.isnan(np.asarray(jax.jacfwd(along)(jnp.asarray(DATA[1])))).all()
    assert_allclose(along(DATA[1]), fixed[0])


@pytest.mark.slow
def test_factors_at_hand_are_made_no_second_time():
    """The derivative by the factors of the solve is the same, and its program has no Cholesky factor."""
    fixed = solution(*DATA)
    arrays = tuple(map(jnp.asarray, DATA))
    Q, _, A, _, G, _ = arrays
    reading = read_program(arrays, fixed)
    by = schur_of(Q, jnp.concatenate([A, jnp.where(reading.active[:, None], G, 0)]))

    def along(by, q):
        return jnp.concatenate(moving(fixed, (Q, q, *arrays[2:], jnp.ones(())), reading, by))

    anew, kept = (jax.make_jaxpr(jax.jacrev(partial(along, one)))(arrays[1]) for one in (None, by))
    assert "cholesky" in str(anew) and "cholesky" not in str(kept)
    assert_allclose(jax.jacrev(partial(along, by))(arrays[1]), jax.jacrev(partial(along, None))(arrays[1]), atol=1e-12)
