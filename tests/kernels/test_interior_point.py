import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.foundation.status import Code
from bilevel.kernels.interior_point import Program, interior_point

SOLVE = jax.jit(interior_point)


def program(h, q=(-1.0, 0.5)):
    """-h_2 <= x_1 <= h_1, with a curvature in the first direction only."""
    parts = np.diag([1.0, 0.0]), q, np.zeros((0, 2)), np.zeros(0), np.array([[1.0, 0.0], [-1.0, 0.0]]), h
    return Program(*map(jnp.asarray, parts))


@pytest.mark.parametrize(
    ("h", "q", "code"),
    [
        ((0.5, 0.0), (-1.0, 0.0), Code.converged),
        ((0.5, 0.0), (-1.0, 0.5), Code.unbounded),
        ((-0.5, 0.0), (-1.0, 0.0), Code.infeasible),
    ],
)
def test_the_embedding_tells_the_three_cases_apart(h, q, code):
    iterate, steps, found = SOLVE(program(h, q))
    assert int(found) == code
    assert int(steps) < 30
    if code == Code.converged:
        np.testing.assert_allclose([iterate.x[0], iterate.z[0]], [0.5, 0.5], atol=1e-7)
