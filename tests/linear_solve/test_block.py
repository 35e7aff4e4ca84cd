import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.linear_solve.block import block_conjugate_gradients, factorized, orthonormal, solve

RNG = np.random.default_rng(0)
ORTHONORMAL = jax.jit(orthonormal)


def _rows(dtype, sizes, count=8, length=40):
    """Rows with the given singular values."""
    left, right = (np.linalg.qr(RNG.normal(size=(n, len(sizes))))[0] for n in (count, length))
    return jnp.asarray((left * np.asarray(sizes)) @ right.T, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("smallest", [1.0, 1e-2, 1e-4, 1e-9, 1e-11, 0.0])
def test_rows_are_those_of_an_orthonormal_basis_of_their_rank(smallest, dtype):
    epsilon = float(jnp.finfo(dtype).eps)
    sizes = [1.0] * 3 + [smallest] * 2
    rows = _rows(dtype, sizes)
    basis, change = ORTHONORMAL(rows)
    np.testing.assert_allclose(change.T @ basis, rows, atol=30 * epsilon)
    gram = np.asarray(basis @ basis.T)
    used = np.diagonal(gram) > 0.5
    np.testing.assert_allclose(gram, np.diag(used.astype(float)), atol=100 * epsilon)
    assert used.sum() == (5 if smallest > 100 * epsilon else 3)


def test_equal_and_zero_rows():
    row = RNG.normal(size=12) / 4
    basis, change = ORTHONORMAL(jnp.asarray(np.stack([row, 0 * row, row, -2 * row])))
    np.testing.assert_allclose(change.T @ basis, [row, 0 * row, row, -2 * row], atol=1e-14)
    assert int((jnp.linalg.norm(basis, axis=1) > 0).sum()) == 1
    assert not any(part.any() for part in ORTHONORMAL(jnp.zeros((4, 12))))


@pytest.mark.parametrize(("smallest", "good"), [(1.0, True), (1e-9, True), (1e-17, False), (-1.0, False)])
def test_eigenvalues_tell_what_is_definite_among_the_rows_in_use(smallest, good):
    matrix = np.diag([1e8, 0.0, 1e-8 * smallest])  # badly scaled; the second row is not in use
    squares = jnp.array([1e8, 0.0, 1e-8])
    factor, definite = factorized(jnp.asarray(matrix), squares, 1e-14)
    assert bool(definite) == good
    if good:
        np.testing.assert_allclose(solve(factor, jnp.ones((3, 1)))[:, 0], [1e-8, 0.0, 1e8 / smallest], rtol=1e-12)


def test_a_block_takes_as_many_steps_as_its_space_needs():
    """3 eigenvalues outside of one cluster, 3 right-hand sides: two steps instead of four."""
    basis = np.linalg.qr(RNG.normal(size=(30, 30)))[0]
    matrix = jnp.asarray(basis @ np.diag([1.0] * 27 + [10.0, 200.0, 3000.0]) @ basis.T)
    rhs = RNG.normal(size=(3, 30))
    rhs /= np.linalg.norm(rhs, axis=1)[:, None]
    arguments = (jnp.asarray(rhs), jnp.full(3, 1e-10), jnp.full(3, 50))
    end = jax.jit(lambda *args: block_conjugate_gradients(lambda x: matrix @ x, lambda r: r, 1, *args))(*arguments)
    assert int(end.steps) == 2 and not bool(end.broken)
    np.testing.assert_allclose(end.value, np.linalg.solve(matrix, rhs.T).T, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(end.coordinates.T @ end.basis, rhs - end.value @ matrix, atol=1e-10)
