"""Restriction of a problem to some rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.solvers.first_order.ranking import first_with_room, foremost, sizes_for
from bilevel.solvers.first_order.rows import by_rows, gathered, restricted

RNG = np.random.default_rng(0)
INDICES = np.array([3, 0])
CASES = {  # penalty and the shape of params
    "one weight": (bl.L1(weight=jnp.exp), (5,)),
    "weights": (bl.L1(weight=lambda h: jnp.exp(h) * jnp.arange(1.0, 6.0)), (5,)),
    "weights of columns": (bl.L1(weight=lambda h: jnp.exp(h) * jnp.arange(1.0, 4.0)), (5, 3)),
    "weights of entries": (bl.L1(weight=lambda h: jnp.exp(h) * jnp.ones((5, 3)).at[3].set(0.1)), (5, 3)),
    "one weight of two axes": (bl.L1(weight=lambda h: jnp.full((1, 1), 0.3)), (5, 3)),
    "weights of one row": (bl.L1(weight=lambda h: jnp.array([[0.1, 0.2, 0.9]])), (5, 3)),
    "one weight of one axis": (bl.L1(weight=lambda h: jnp.array([0.3])), (5,)),
    "one weight of the groups": (bl.GroupLasso(weight=lambda h: jnp.array([0.3])), (5, 3)),
    "elastic net": (bl.ElasticNet(l1=lambda h: jnp.arange(5.0) / 5, l2=0.5), (5,)),
    "bounds": (bl.Box(lower=lambda h: -jnp.arange(5.0) / 5, upper=0.1), (5,)),
    "simplex": (bl.Simplex(scale=lambda h: jnp.arange(1.0, 6.0)), (5, 3)),
    "groups": (bl.GroupLasso(weight=lambda h: jnp.arange(1.0, 6.0) / 3), (5, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_prox_on_rows_is_the_rows_of_the_prox(name):
    penalty, shape = CASES[name]
    point = jnp.asarray(RNG.normal(size=shape))
    whole = penalty.prox(point, 0.7, -0.3)
    rows = by_rows(penalty, -0.3, point)
    assert_allclose(rows.at(jnp.asarray(INDICES)).prox(point[INDICES], 0.7, -0.3), whole[INDICES], atol=1e-15)
    assert_allclose(rows.at(jnp.asarray(2)).prox(point[2], 0.7, -0.3), whole[2], atol=1e-15)


@pytest.mark.parametrize("sparse", [False, True])
def test_the_restricted_problem_has_the_gradient_of_the_whole(sparse):
    dense = jnp.asarray(RNG.normal(size=(7, 5)))
    design = BCOO.fromdense(dense) if sparse else dense
    loss = bl.Linear(
        design=lambda batch: batch, loss=lambda z, w, h, batch: jnp.sum(jnp.cosh(z - h)) + jnp.prod(1 + w**2)
    )
    instance = bl.InnerProblem(loss, lambda key, h: jnp.zeros(5), penalty=bl.L1(1.0)).at(0.2, design)
    params, indices = jnp.asarray(RNG.normal(size=5)), jnp.asarray(INDICES)
    part = restricted(instance, params, indices).instance
    assert_allclose(part.value(params[indices]), instance.value(params), rtol=1e-13)
    moved = params.at[indices].add(0.3)
    assert_allclose(part.gradient(moved[indices]), instance.gradient(moved)[indices], rtol=1e-12)
    assert_allclose(gathered(design, indices, dense.dtype), dense[:, INDICES])


def test_refusals_name_the_penalty_and_the_remedy():
    loss = bl.Linear(design=lambda batch: batch, loss=lambda z, w, h, batch: jnp.sum(z**2))
    for solver in (bl.BlockCoordinateDescent(), bl.WorkingSet()):
        inner = bl.InnerProblem(loss, lambda key, h: jnp.ones(5), constraint=bl.Isotonic(), solver=solver)
        with pytest.raises(ValueError, match=r"which Isotonic on .* does not give. Use bl.ActiveSetNewton"):
            inner.solve(0.0, jnp.eye(5))
    opaque = bl.InnerProblem(
        lambda w, h, batch: jnp.sum(w**2), lambda key, h: jnp.ones(5), solver=bl.BlockCoordinateDescent()
    )
    with pytest.raises(ValueError, match=r"stated as bl.Linear"):
        opaque.solve(0.0, jnp.eye(5))


@pytest.mark.slow
def test_sparse_designs_are_solved():
    dense = RNG.normal(size=(30, 40)) * (RNG.random((30, 40)) < 0.3)
    target = jnp.asarray(dense[:, 3] - 2 * dense[:, 7])
    loss = bl.Linear(design=lambda batch: batch[0], loss=lambda z, w, h, batch: 0.5 * jnp.mean((z - batch[1]) ** 2))
    results = []
    for solver in (bl.WorkingSet(bl.BlockCoordinateDescent(), sizes=(8,)), bl.ActiveSetNewton()):
        inner = bl.InnerProblem(loss, lambda key, h: jnp.zeros(40), penalty=bl.L1(0.05), solver=solver)
        for design in (BCOO.fromdense(jnp.asarray(dense)), jnp.asarray(dense)):
            solution = jax.jit(inner.solve)(0.0, (design, target))
            assert solution.status.name == "converged"
            results.append(solution.params)
    for other in results[1:]:
        assert_allclose(other, results[0], atol=1e-8)


def test_rows_are_ranked_whatever_their_scale():
    priority = jnp.array([1e-60, 3e-60, jnp.inf, 2e-60, 0.0])
    assert foremost(priority, 3).tolist() == [2, 1, 3]
    assert foremost(jnp.zeros(4), 2).shape == (2,)
    assert foremost(jnp.array([-1.0, -jnp.inf, -2.0, jnp.inf]), 3).tolist() == [3, 0, 2]


@pytest.mark.parametrize("samples", [1, 36, 100, 500, 1000, 1025, 10**6])
@pytest.mark.parametrize("rows", [100, 600, 7129, 10**6])
def test_sizes_hold_a_support_and_are_few(samples, rows):
    sizes = sizes_for(samples, rows)
    assert sizes == sorted(set(sizes)) and len(sizes) <= 3
    assert all(2 * size <= rows for size in sizes)
    assert not sizes or sizes[-1] >= min(samples, rows // 4, 2048)


@pytest.mark.parametrize(("number", "expected"), [(0, 0), (56, 0), (57, 1), (255, 1), (256, 2), (300, 2)])
def test_the_largest_size_is_used_up_to_its_last_row(number, expected):
    assert first_with_room([64, 256], jnp.int32(number), 8, last=1) == expected
    assert first_with_room([], jnp.int32(number), 8, last=1) == 0
