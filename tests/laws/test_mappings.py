"""The solution of one problem, differentiated through every condition that it satisfies: the Jacobians agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl

Q = np.random.default_rng(0).normal(size=(5, 5))
Q = Q @ Q.T / 5 + np.eye(5)
SHIFT = np.array([0.9, -0.5, 0.7, -1.0, 0.4])


def loss(w, theta):
    return 0.5 * (w - SHIFT * theta["scale"]) @ Q @ (w - SHIFT * theta["scale"])


THETA = {"scale": 1.2, "total": 1.5}


def solve(prox):
    """Proximal gradient in NumPy's precision, as an outside solver would do it: no derivative passes through."""

    def solver(init, theta):
        step = 1 / np.linalg.norm(Q, 2)

        def body(_, w):
            return prox(w - step * jax.grad(loss)(w, theta), step, theta)

        return jax.lax.fori_loop(0, 800, body, jnp.full(5, 0.2))

    return solver


def on_simplex(point, step, theta):
    return bl.projections.simplex(point, theta["total"])


def nonnegative(point, step, theta):
    return jnp.maximum(point, 0.0)


def free(point, step, theta):
    return point


def multipliers(w, theta, equality):
    """The solution with its multipliers, from stationarity: grad + nu - lam = 0."""
    gradient = jax.grad(loss)(w, theta)
    active = w <= 1e-12
    nu = -jnp.sum(jnp.where(active, 0.0, gradient)) / jnp.sum(~active) if equality else jnp.zeros(())
    lam = jnp.where(active, gradient + nu, 0.0)
    return bl.PrimalDual(w, nu[None] if equality else jnp.zeros(0), lam)


def by_kkt(prox, equality):
    mapping = bl.optimality.KKT(
        loss,
        equality=(lambda w, theta: jnp.sum(w, keepdims=True) - theta["total"]) if equality else None,
        inequality=lambda w, theta: -w,
    )
    solver = bl.custom_root(mapping)(lambda init, theta: multipliers(solve(prox)(init, theta), theta, equality))
    return lambda theta: solver(None, theta).primal


def by(mapping, prox):
    solver = bl.custom_root(mapping)(solve(prox))
    return lambda theta: solver(None, theta)


PROBLEMS = {
    "simplex": {
        "projected gradient": by(
            bl.optimality.ProjectedGradient(loss, lambda w, theta: bl.projections.simplex(w, theta["total"])),
            on_simplex,
        ),
        "projected gradient, short step": by(
            bl.optimality.ProjectedGradient(loss, lambda w, theta: bl.projections.simplex(w, theta["total"]), 0.1),
            on_simplex,
        ),
        "mirror descent": by(
            bl.optimality.MirrorDescent(loss, bl.Entropy(scale=lambda theta: theta["total"])), on_simplex
        ),
        "kkt": by_kkt(on_simplex, equality=True),
    },
    "orthant": {
        "projected gradient": by(
            bl.optimality.ProjectedGradient(loss, lambda w, theta: jnp.maximum(w, 0.0)), nonnegative
        ),
        "proximal gradient": by(bl.optimality.ProximalGradient(loss, nonnegative, 0.3), nonnegative),
        "kkt": by_kkt(nonnegative, equality=False),
    },
    "free": {
        "stationary": by(bl.optimality.Stationary(loss), free),
        "proximal gradient": by(bl.optimality.ProximalGradient(loss, free), free),
        "newton": by(bl.optimality.Newton(bl.optimality.Stationary(loss)), free),
    },
}


def differences(f, step=1e-6):
    """Central differences of f in scale and total."""
    columns = []
    for name in THETA:
        up, down = ({**THETA, name: THETA[name] + sign * step} for sign in (1, -1))
        columns.append((f(up) - f(down)) / (2 * step))
    return np.stack(columns, axis=-1)


CASES = [(problem, name) for problem, conditions in PROBLEMS.items() for name in conditions]


@pytest.mark.sample(1)
@pytest.mark.parametrize(("problem", "condition"), CASES)
def test_every_condition_gives_the_same_jacobian(problem, condition):
    function = PROBLEMS[problem][condition]
    theta = jax.tree.map(jnp.asarray, THETA)
    value = jax.jit(function)(theta)
    if problem != "free":
        assert 0 < int(np.sum(np.asarray(value) <= 1e-12)) < 5, "the face must be neither everything nor nothing"
    backward = jax.jit(jax.jacrev(function))(theta)
    forward = jax.jit(jax.jacfwd(function))(theta)
    expected = differences(jax.jit(function))
    for jacobian in (forward, backward):
        np.testing.assert_allclose(np.stack([jacobian[name] for name in THETA], -1), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("problem", "condition"), CASES)
def test_vmap_is_the_loop(problem, condition):
    function = PROBLEMS[problem][condition]
    thetas = {"scale": jnp.array([1.0, 1.2]), "total": jnp.array([1.5, 1.4])}
    batched = jax.jit(jax.vmap(jax.jacrev(function)))(thetas)
    for lane in range(2):
        alone = jax.jit(jax.jacrev(function))(jax.tree.map(lambda leaf, lane=lane: leaf[lane], thetas))
        for name in THETA:
            np.testing.assert_allclose(batched[name][lane], alone[name], rtol=1e-8, atol=1e-10)
