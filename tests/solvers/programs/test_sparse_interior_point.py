"""Quadratic programs with sparse matrices: values, derivatives and statuses are those of the dense ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.foundation.status import Code

SPARSE = bl.SparseInteriorPoint()


def drawn(seed=3, n=7, p=2, m=9):
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(n, n))
    A, G = (rng.normal(size=(k, n)) * (rng.random((k, n)) < 0.7) for k in (p, m))
    inside = rng.normal(size=n)
    data = half @ half.T / n + 0.1 * np.eye(n), rng.normal(size=n), A, A @ inside, G, G @ inside + rng.random(m)
    return [jnp.asarray(part) for part in data]


def stored(matrix):
    matrix = np.asarray(matrix)
    return BCOO.fromdense(jnp.asarray(matrix), nse=int((matrix != 0).sum()) + 2)  # two entries pad


def places(matrix):
    return tuple(np.argwhere(np.asarray(matrix) != 0).T)


def sparse_program(data, solver=SPARSE):
    """The params as a function of the entries, of which only those that are not zero are stored."""
    kept = [(stored(part), places(part)) if part.ndim == 2 else None for part in data]

    def solve(*data: jax.Array) -> bl.Solution:
        arguments = []
        for part, at in zip(data, kept, strict=True):
            if at is None:
                arguments.append(part)
                continue
            entries = jnp.pad(part[at[1]], (0, 2))
            arguments.append(BCOO((entries, at[0].indices), shape=at[0].shape))
        Q, q, A, b, G, h = arguments
        return bl.quadratic_program(Q, q, A, b, G, h, solver=solver)

    return solve


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_values_and_derivatives_are_those_of_the_dense_program(seed):
    data = drawn(seed)
    loss = lambda solve: lambda *data: jnp.sum(solve(*data).params ** 3)
    found = jax.jit(jax.value_and_grad(loss(sparse_program(data)), argnums=tuple(range(6))))(*data)
    expected = jax.jit(jax.value_and_grad(loss(bl.quadratic_program), argnums=tuple(range(6))))(*data)
    assert_allclose(found[0], expected[0], rtol=1e-10)
    for one, other, part in zip(found[1], expected[1], data, strict=True):
        at = places(part) if part.ndim == 2 else ...
        assert_allclose(one[at], other[at], atol=1e-9)


@pytest.mark.slow
def test_both_modes_and_second_derivatives():
    data = drawn()
    solve = sparse_program(data)
    sparse = lambda h: solve(*data[:5], h).params
    Q, q, A, b, G, h = data
    dense = lambda h: bl.quadratic_program(Q, q, A, b, G, h).params
    assert_allclose(jax.jacfwd(sparse)(h), jax.jacfwd(dense)(h), atol=1e-10)
    assert_allclose(jax.jacrev(sparse)(h), jax.jacfwd(dense)(h), atol=1e-10)
    cubes = lambda solve: jax.hessian(lambda h: jnp.sum(solve(h) ** 3))(h)
    assert_allclose(cubes(sparse), cubes(dense), atol=1e-9)


@pytest.mark.slow
def test_a_lane_that_fails_fails_alone():
    data = drawn()
    solve = sparse_program(data)
    batch = jnp.stack([data[5], data[5] + 0.1, data[5].at[0].set(jnp.nan)])
    lanes = jax.vmap(lambda h: solve(*data[:5], h))(batch)
    assert lanes.status.code.tolist() == [Code.converged, Code.converged, Code.nonfinite]
    assert_allclose(lanes.params[1], solve(*data[:5], batch[1]).params, atol=1e-12)
    assert bool(jnp.all(jnp.isnan(lanes.params[2])))
    masked = lambda q: jnp.nansum(jax.vmap(lambda h: solve(data[0], q, *data[2:5], h).params)(batch))
    assert bool(jnp.all(jnp.isfinite(jax.grad(masked)(data[1]))))


def test_statuses():
    square = stored(jnp.eye(2))
    rows = stored(jnp.array([[1.0, 0.0], [-1.0, 0.0]]))

    def status(Q, q, G, h):
        return bl.quadratic_program(Q, q, G=G, h=h, solver=SPARSE).status.name

    assert status(square, jnp.zeros(2), rows, jnp.array([1.0, -2.0])) == "infeasible"
    assert status(square, jnp.zeros(2), rows, jnp.array([1.0, 2.0])) == "converged"
    flat = stored(jnp.diag(jnp.array([1.0, 0.0])))
    assert status(flat, jnp.array([0.0, 1.0]), rows, jnp.array([1.0, 2.0])) == "unbounded"
    bent = stored(jnp.diag(jnp.array([1.0, -1.0])))
    assert status(bent, jnp.zeros(2), square, jnp.ones(2)) == "indefinite"


@pytest.mark.slow
def test_the_grade_tells_a_vertex_with_dependent_rows():
    square = stored(jnp.eye(2))
    corner = stored(jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    solve = lambda h: bl.quadratic_program(square, -3 * jnp.ones(2), G=corner, h=h, solver=SPARSE)
    assert solve(jnp.array([1.0, 1.0, 3.0])).error_grade == "estimate"
    assert solve(jnp.array([1.0, 1.0, 2.0])).error_grade == "residual"


@pytest.mark.slow
def test_units_of_rows_do_not_change_the_derivative():
    data = drawn(5)
    units = 10.0 ** np.random.default_rng(0).integers(-5, 6, data[5].size)
    other = [*data[:4], units[:, None] * data[4], units * data[5]]
    slopes = [
        jax.jacobian(lambda q, data=data: sparse_program(data)(data[0], q, *data[2:]).params)(data[1])
        for data in (data, other)
    ]
    assert_allclose(*slopes, atol=1e-7)


@pytest.mark.slow
def test_float32():
    data = drawn()
    single = [part.astype(jnp.float32) for part in data]
    found = sparse_program(single)(*single)
    assert found.params.dtype == jnp.float32 and bool(found.status.ok)
    assert_allclose(found.params, bl.quadratic_program(*data).params, atol=1e-4)


def test_cones_that_are_not_linear_are_refused():
    rows = stored(jnp.eye(3))
    with pytest.raises(ValueError, match=r"bl.SparseInteriorPoint knows the cones Zero, NonNegative and Free"):
        bl.cone_program(rows, jnp.ones(3), jnp.ones(3), bl.cones.SecondOrder(3), solver=SPARSE)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [bl.Auto(), SPARSE, bl.OperatorSplitting()], ids=lambda s: type(s).__name__)
def test_sparse_cone_programs(solver):
    """The point of an l1-ball nearest to a direction: a linear program."""
    rows = stored(np.concatenate([np.eye(2), -np.eye(2)]))
    solve = lambda b: bl.cone_program(rows, b, jnp.array([-1.0, 2.0]), bl.cones.NonNegative(4), solver=solver)
    found = solve(jnp.array([1.0, 2.0, 3.0, 4.0]))
    assert found.status.name == "converged"
    assert_allclose(found.params, [1.0, -4.0], atol=1e-8)
    slope = jax.jacobian(lambda b: solve(b).params)(jnp.array([1.0, 2.0, 3.0, 4.0]))
    assert_allclose(slope, [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, -1.0]], atol=1e-8)
