"""A sparse matrix on the host: products and their derivatives are those of the dense matrix, in the columns in use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose

import bilevel as bl

RNG = np.random.default_rng(0)
HOST = scipy.sparse.random(7, 11, density=0.4, rng=1, data_rvs=RNG.standard_normal)
DENSE = HOST.toarray()
INDICES, NUMBER = np.array([5, 3, 8, 1, 0]), 3
USED = DENSE[:, INDICES] * (np.arange(5) < NUMBER)


def maps():
    """Name, the map on the host, the same map dense."""
    matrix = bl.HostMatrix(HOST)
    part = matrix.using(jnp.asarray(INDICES), NUMBER)
    return {
        "whole": (matrix, DENSE),
        "transpose": (matrix.T, DENSE.T),
        "columns": (part, USED),
        "transpose of columns": (part.T, USED.T),
    }


def curved(matrix):
    return lambda w: jnp.sum(jnp.tanh(matrix @ w) ** 2)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", maps())
def test_products_and_derivatives_are_those_of_the_dense_matrix(name):
    host, dense = maps()[name]
    dense = jnp.asarray(dense)
    w = jnp.asarray(RNG.standard_normal(dense.shape[1]))
    assert host.shape == dense.shape and host.ndim == 2
    assert_allclose(host @ w, dense @ w, atol=1e-14)
    for derivative in (jax.grad, jax.jacfwd, jax.hessian, lambda f: jax.jit(jax.jacrev(jax.grad(f)))):
        assert_allclose(derivative(curved(host))(w), derivative(curved(dense))(w), atol=1e-13)
    (back,) = jax.linear_transpose(lambda w: host @ w, w)(dense @ w)
    assert_allclose(back, dense.T @ (dense @ w), atol=1e-13)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_many_vectors_are_one_product(axis, monkeypatch):
    calls = []
    plain = bl.HostMatrix.product
    monkeypatch.setattr(bl.HostMatrix, "product", lambda *args, **kw: calls.append(args[3].shape) or plain(*args, **kw))
    matrix, vectors = bl.HostMatrix(HOST), jnp.asarray(RNG.standard_normal((11, 3, 4)))
    stacked = jnp.moveaxis(vectors, 2, axis)
    images = jax.jit(jax.vmap(lambda one: matrix @ one, in_axes=axis))(stacked)
    assert_allclose(images, jnp.einsum("sf,fck->ksc", DENSE, vectors), atol=1e-13)
    assert calls == [(11, 12)]


def test_columns_are_traced_values():
    matrix, v = bl.HostMatrix(HOST), jnp.asarray(RNG.standard_normal(5))
    product = lambda indices, number: matrix.using(indices, number) @ v
    several = jnp.stack([jnp.asarray(INDICES), jnp.asarray(INDICES[::-1])])
    expected = [DENSE[:, order[:number]] @ v[:number] for order in np.asarray(several) for number in (0, 2, 5)]
    each_number = jax.vmap(product, in_axes=(None, 0))
    found = jax.jit(jax.vmap(each_number, in_axes=(0, None)))(several, jnp.array([0, 2, 5]))
    assert_allclose(found.reshape(6, 7), expected, atol=1e-14)


def test_made_dense():
    matrix = bl.HostMatrix(HOST)
    assert_allclose(matrix.todense(), DENSE)
    assert_allclose(jax.jit(lambda number: matrix.using(jnp.asarray(INDICES), number).todense())(NUMBER), USED)
    with pytest.raises(NotImplementedError, match="Only columns"):
        matrix.T.todense()


@pytest.mark.parametrize("kind", [scipy.sparse.csr_matrix, scipy.sparse.coo_array, scipy.sparse.csc_matrix])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_formats_and_types(kind, dtype):
    host = kind(np.round(3 * DENSE).astype(dtype))
    matrix = bl.HostMatrix(host)
    assert_allclose(matrix @ jnp.arange(11.0), np.round(3 * DENSE) @ np.arange(11))
    assert (matrix @ jnp.arange(11)).dtype == jnp.float64
    with jax.enable_x64(False):
        assert jax.jit(lambda w: matrix @ w)(jnp.ones(11)).dtype == jnp.float32


def test_entries_at_one_place_add_up_and_the_given_matrix_stays():
    host = scipy.sparse.coo_matrix((np.ones(3), ([0, 0, 1], [1, 1, 0])), shape=(2, 2)).tocsc(copy=True)
    repeated = scipy.sparse.csc_matrix((np.ones(3), np.array([0, 0, 1]), np.array([0, 2, 3])), shape=(2, 2))
    assert_allclose(bl.HostMatrix(repeated) @ jnp.ones(2), [2.0, 1.0])
    assert repeated.nnz == 3 and host.nnz == 2


def test_travels_in_a_batch_without_compiling_again():
    traces = []

    @jax.jit
    def image(batch):
        traces.append(1)
        return batch[0] @ batch[1]

    matrix = bl.HostMatrix(HOST)
    for scale in (1.0, 2.0):
        assert_allclose(image((matrix, scale * jnp.ones(11))), scale * DENSE.sum(axis=1), rtol=1e-13)
    assert len(traces) == 1


def test_refusals():
    with pytest.raises(ValueError, match="takes a SciPy sparse matrix of two axes, not a ndarray"):
        bl.HostMatrix(DENSE)
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        bl.HostMatrix(scipy.sparse.csr_matrix(np.array([[1.0, np.nan]])))
    with pytest.raises(ValueError, match=r"shape \(7, 11\) cannot multiply an array of shape \(7,\)"):
        _ = bl.HostMatrix(HOST) @ jnp.ones(7)
    with pytest.raises(ValueError, match="cannot be cut into minibatches: use bl.full_batch"):
        bl.minibatches((bl.HostMatrix(HOST), np.ones(7)), (np.ones((7, 1)), np.ones(7)), batch_size=2)
