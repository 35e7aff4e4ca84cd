"""The block proximal gradient condition: a prox and a step size for each block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.implicit import solve_system
from bilevel.optimality import BlockProximalGradient, ProximalGradient

rng = np.random.default_rng(3)
MATRIX = rng.normal(size=(20, 9))
TARGET = 3 * rng.normal(size=20)


def loss(w, h):
    z = MATRIX @ jnp.concatenate([w["group"], w["simplex"], w["sparse"]])
    return 0.5 * jnp.mean((z - TARGET) ** 2) + 0.05 * jnp.sum(z**4) / 20


PROXES = (  # in the order of the keys: group, simplex, sparse
    lambda w, step, h: bl.prox.group_lasso(w, step, jnp.exp(h[0])),
    lambda w, step, h: bl.projections.simplex(w, jnp.exp(h[1])),
    lambda w, step, h: bl.prox.l1(w, step, jnp.exp(h[2])),
)
HPARAMS = np.array([-1.5, 0.2, -1.0])


def together(w, step, h):
    blocks = [prox(w[name], step, h) for name, prox in zip(sorted(w), PROXES, strict=True)]
    return dict(zip(sorted(w), blocks, strict=True))


@jax.jit
def solve(h):
    mapping = ProximalGradient(loss, together, step_size=0.05)
    start = {"group": jnp.ones(3), "simplex": jnp.full(3, jnp.exp(h[1]) / 3), "sparse": jnp.ones(3)}
    move = lambda _, w: jax.tree.map(jnp.add, w, mapping(w, h))
    return jax.lax.fori_loop(0, 4000, move, start)


def stacked(w):
    return jnp.concatenate([w["group"], w["simplex"], w["sparse"]])


def derivative(mapping, transform):
    solution = bl.custom_root(mapping)(lambda init, h: solve(h))
    return transform(lambda h: stacked(solution(None, h)))(HPARAMS)


@pytest.mark.slow
@pytest.mark.sample(2)
@pytest.mark.parametrize("transform", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("steps", [(1.0, 1.0, 1.0), (0.01, 2.0, 30.0)])
def test_derivatives(transform, steps):
    w = solve(HPARAMS)
    assert jnp.any(w["sparse"] == 0) and jnp.any(w["sparse"] != 0) and jnp.any(w["group"] != 0)
    mapping = BlockProximalGradient(loss, PROXES, steps)
    assert float(jnp.abs(stacked(mapping(w, HPARAMS))).max()) < 1e-11
    jacobian = derivative(mapping, transform)
    columns = [(stacked(solve(HPARAMS + 1e-5 * e)) - stacked(solve(HPARAMS - 1e-5 * e))) / 2e-5 for e in jnp.eye(3)]
    assert_allclose(jacobian, jnp.stack(columns, axis=-1), atol=1e-8)
    assert_allclose(jacobian, derivative(ProximalGradient(loss, together), transform), atol=1e-10)


@pytest.mark.slow
def test_the_system_is_symmetric_and_solves_the_dense_one():
    w = solve(HPARAMS)
    mapping = BlockProximalGradient(loss, PROXES, (0.5, 2.0, 0.1))
    system = mapping.system(w, HPARAMS)
    flat, unravel = ravel_pytree(w)
    K = jax.vmap(lambda e: ravel_pytree(system.operator(unravel(e)))[0])(jnp.eye(flat.size))
    assert_allclose(K, K.T, atol=1e-12)
    assert float(jnp.linalg.eigvalsh(K)[0]) > -1e-12
    dense = jax.jacfwd(lambda v: ravel_pytree(mapping(unravel(v), HPARAMS))[0])(flat)
    rhs = jnp.array(rng.normal(size=flat.size))
    solution = solve_system(system, bl.Dense(), unravel(rhs))
    assert_allclose(dense @ ravel_pytree(solution)[0], rhs, atol=1e-9)


def test_an_array_is_one_block_and_miscounts_are_refused():
    mapping = BlockProximalGradient(
        lambda w, t: 0.5 * jnp.sum((jnp.concatenate(jax.tree.leaves(w)) - t) ** 2),
        (lambda w, s, t: bl.prox.l1(w, s, 1.0),),
        (0.5,),
    )
    assert_allclose(mapping(jnp.array([2.0, 0.0]), jnp.array([3.0, 0.5])), 0.0)
    with pytest.raises(ValueError, match="2 blocks, 1 proxes and 1 step sizes"):
        mapping((jnp.ones(1), jnp.ones(1)), jnp.ones(1))
