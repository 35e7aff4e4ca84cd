"""The Newton condition: the identity as a linear system, right to second order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.optimality import Newton, Stationary

rng = np.random.default_rng(0)
MATRIX = rng.normal(size=(12, 5))
LABELS = np.sign(rng.normal(size=12))


def loss(w, h):
    return jnp.sum(jnp.logaddexp(0.0, -LABELS * (MATRIX @ w))) + 0.5 * jnp.sum(jnp.exp(h) * w**2)


def residual(w, h):
    """Not symmetric."""
    return jnp.tanh(MATRIX[:5] @ w) + 3 * w - h**2


def solution(mapping, function):
    def solve(init, h):
        step = lambda _, w: w - jnp.linalg.solve(jax.jacfwd(function)(w, h), function(w, h))
        return jax.lax.fori_loop(0, 30, step, init)

    return lambda h: bl.custom_root(mapping)(solve)(jnp.zeros(5), h)


HPARAMS = np.linspace(-0.5, 0.7, 5)


@pytest.mark.sample(1)
@pytest.mark.parametrize("function", [jax.grad(loss), residual])
def test_first_derivatives(function):
    mapped, plain = solution(Newton(function, step_size=0.25), function), solution(function, function)
    jacobian = jax.jacrev(plain)(HPARAMS)
    assert_allclose(jax.jacrev(mapped)(HPARAMS), jacobian, atol=1e-11)
    assert_allclose(jax.jacfwd(mapped)(HPARAMS), jacobian, atol=1e-11)


@pytest.mark.slow
def test_second_derivatives():
    mapped, plain = solution(Newton(residual), residual), solution(residual, residual)
    value = lambda solve: jax.hessian(lambda h: jnp.sum(jnp.sin(solve(h))))(HPARAMS)
    assert_allclose(value(mapped), value(plain), atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("function", [jax.grad(loss), residual])
def test_third_derivatives(function):
    third = lambda solve: jax.jacfwd(jax.hessian(lambda t: jnp.sum(jnp.sin(solve(t * HPARAMS)))))(1.0)
    mapped, plain = solution(Newton(function, step_size=3.0), function), solution(function, function)
    assert_allclose(third(mapped), third(plain), rtol=1e-9)


@pytest.mark.slow
def test_a_mapping_as_residual_and_pytrees():
    tree_loss = lambda w, h: loss(jnp.concatenate([w["a"], w["b"]]), h)
    plain = solution(jax.grad(loss), jax.grad(loss))

    def solve(init, h):
        w = plain(h)
        return {"a": w[:2], "b": w[2:]}

    mapped = bl.custom_root(Newton(Stationary(tree_loss)))(solve)
    jacobian = jax.jacrev(lambda h: mapped(None, h))(HPARAMS)
    assert_allclose(jnp.concatenate([jacobian["a"], jacobian["b"]]), jax.jacrev(plain)(HPARAMS), atol=1e-11)


def test_one_factorisation_and_no_linear_solve():
    """The adjoint system is the identity; the factor made for the residual serves its derivative."""
    mapping = Newton(jax.grad(loss))
    w = solution(jax.grad(loss), jax.grad(loss))(HPARAMS)
    system = mapping.system(w, HPARAMS)
    assert_allclose(system.operator(w), w)
    pulled = jax.make_jaxpr(lambda w, h, u: jax.vjp(mapping, w, h)[1](u))(w, HPARAMS, w)
    assert str(pulled).count(" lu[") + str(pulled).count("= lu ") == 1


@pytest.mark.slow
def test_in_an_inner_problem():
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: loss(w, h),
        init=lambda key, h: jnp.zeros(5),
        optimality=Newton(lambda w, h, batch: jax.grad(loss)(w, h)),
    )
    assert inner.solve(HPARAMS, None).status.name == "converged"
    witness = bl.InnerProblem(loss=lambda w, h, batch: loss(w, h), init=lambda key, h: jnp.zeros(5))
    jacobian = jax.jacrev(lambda h: inner.solve(h, None).params)(HPARAMS)
    assert_allclose(jacobian, jax.jacrev(lambda h: witness.solve(h, None).params)(HPARAMS), atol=1e-9)
