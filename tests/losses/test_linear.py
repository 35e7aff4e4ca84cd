"""The quadratic form of a symmetric matrix has the derivatives of its definition, and costs one product."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental.sparse import BCOO
from numpy.testing import assert_allclose

import bilevel as bl

ROOT = np.random.default_rng(0).standard_normal((4, 4))
K, V = ROOT + ROOT.T, np.random.default_rng(1).standard_normal((4, 2))


def plain(matrix, vectors):
    return 0.5 * jnp.vdot(vectors, matrix @ vectors)


@pytest.mark.parametrize("derivative", [jax.grad, jax.jacfwd, jax.hessian])
@pytest.mark.parametrize("argument", [0, 1])
def test_derivatives_are_those_of_the_definition(derivative, argument):
    assert_allclose(derivative(bl.quadratic_form, argument)(K, V), derivative(plain, argument)(K, V), atol=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_a_gradient_and_a_hessian_product_cost_half_of_the_operations(order):
    matrix, v = jnp.eye(128), jnp.ones((128, 2))

    def operations(form):
        slope = jax.grad(lambda w, k: form(k, w))
        work = slope if order == 1 else lambda w, k: jax.jvp(lambda w: slope(w, k), (w,), (w,))[1]
        analysis: Any = jax.jit(work).lower(v, matrix).compile().cost_analysis()
        return analysis["flops"]

    assert operations(bl.quadratic_form) < 0.6 * operations(plain)


@pytest.mark.parametrize("kind", [scipy.sparse.csr_matrix, scipy.sparse.coo_matrix, scipy.sparse.csc_array])
def test_a_host_design_is_converted_once_and_stays_sparse(kind):
    dense = np.random.default_rng(2).standard_normal((6, 9)) * (np.arange(54).reshape(6, 9) % 3 == 0)
    host = kind(dense)
    loss = bl.Linear(lambda batch: host, lambda z, params, hparams, batch: jnp.sum(jnp.cosh(z - batch)))
    params = jnp.linspace(-1.0, 1.0, 9)
    slope = jax.jit(jax.grad(loss))(params, None, jnp.ones(6))
    assert_allclose(slope, dense.T @ np.sinh(dense @ params - 1), rtol=1e-13)
    design = loss.design(None)
    assert isinstance(design, BCOO) and design.nse == 18 and design is loss.design(None)
    with jax.enable_x64(False):
        assert loss.design(None).dtype == jnp.float32
