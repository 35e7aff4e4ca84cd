import jax
import numpy as np
import pytest

from bilevel.kernels.singular import shrink_singular_values
from bilevel.kernels.spectral import positive_part

RANDOM = np.random.default_rng(0)
POINT, DIRECTION = RANDOM.normal(size=(2, 3, 5))


def by_dilation(matrix, threshold):
    """Twice the upper right block of the positive part of [[0, X], [X', 0]] - t I."""
    m, n = matrix.shape
    zeros = np.zeros((m, m)), np.zeros((n, n))
    dilation = jax.numpy.block([[zeros[0], matrix], [matrix.T, zeros[1]]]) - threshold * np.eye(m + n)
    return 2 * positive_part(dilation)[:m, m:]


def line(function):
    return lambda t: function(POINT + t * DIRECTION, 0.8 + 0.3 * t)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_values_and_derivatives_agree_with_the_symmetric_matrix_twice_as_large(order):
    ours, theirs = line(shrink_singular_values), line(by_dilation)
    for _ in range(order):
        ours, theirs = jax.jacfwd(ours), jax.jacfwd(theirs)
    np.testing.assert_allclose(jax.jit(ours)(0.1), jax.jit(theirs)(0.1), atol=1e-13)
