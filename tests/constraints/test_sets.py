"""Each set as the constraint of an inner problem whose parameters are functions of the hyperparameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl

Q = np.random.default_rng(0).normal(size=(6, 6))
Q = Q @ Q.T / 6 + np.eye(6)
TARGET = np.array([1.5, -0.8, 0.4, 2.5, -1.7, 0.3])
MATRIX = np.random.default_rng(3).normal(size=(3, 3))

SETS = {
    "Box": bl.Box(lower=lambda h: -0.1 * h, upper=lambda h: 0.5 * h),
    "Simplex": bl.Simplex(scale=lambda h: h),
    "NonNegative": bl.NonNegative(),
    "Hypercube": bl.Hypercube(side=lambda h: h),
    "CappedSimplex": bl.CappedSimplex(upper=lambda h: 0.6 * h, total=lambda h: 1.5 * h),
    "BoxSection": bl.BoxSection(
        lower=lambda h: -0.3 * h, upper=lambda h: h, weights=np.arange(1.0, 7.0), total=lambda h: 2.0 * h
    ),
    "L1Ball": bl.L1Ball(radius=lambda h: h),
    "L2Ball": bl.L2Ball(radius=lambda h: h),
    "LInfBall": bl.LInfBall(radius=lambda h: 0.5 * h),
    "Isotonic": bl.Isotonic(),
    "SecondOrderCone": bl.SecondOrderCone(),
    "Hyperplane": bl.Hyperplane(normal=np.arange(1.0, 7.0), offset=lambda h: h),
    "HalfSpace": bl.HalfSpace(normal=np.arange(1.0, 7.0), offset=lambda h: h),
    "AffineSet": bl.AffineSet(A=np.vander(np.arange(1.0, 3.0), 6), b=lambda h: h * jnp.ones(2)),
    "Polyhedron": bl.Polyhedron(
        A=np.ones((1, 6)), b=lambda h: h * jnp.ones(1), G=np.eye(6), h=lambda h: 0.9 * h * jnp.ones(6)
    ),
    "L2Sphere": bl.L2Sphere(radius=lambda h: h),
}


def loss(params, h, batch):
    shift = params - h * TARGET
    return 0.5 * shift @ Q @ shift


def law(constraint, h=1.1):
    inner = bl.InnerProblem(
        loss=loss,
        init=lambda key, h: jnp.zeros(6),
        constraint=constraint,
        solver=bl.ProximalGradient(tol=1e-13, max_steps=20_000),
    )
    solve = jax.jit(lambda h: inner.solve(h, None))
    step = 1e-5
    differences = (solve(h + step).params - solve(h - step).params) / (2 * step)
    forward = jax.jit(jax.jacfwd(lambda h: inner.solve(h, None).params))(h)
    weights = np.cos(np.arange(6.0))
    backward = jax.jit(jax.grad(lambda h: weights @ inner.solve(h, None).params))(h)
    return solve(h), differences, forward, weights @ np.asarray(forward), backward


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("Box", "Simplex", "L1Ball", "Isotonic") else pytest.param(name, marks=pytest.mark.slow)
        for name in SETS
    ],
)
def test_the_derivative_of_the_solution_also_when_the_set_moves(name):
    solution, differences, forward, along, backward = law(SETS[name])
    assert bool(solution.status.ok)
    np.testing.assert_allclose(SETS[name].project(solution.params, 1.1), solution.params, atol=1e-9)
    np.testing.assert_allclose(forward, differences, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(backward, along, rtol=1e-9)


def test_the_positive_semidefinite_matrices():
    def fit(h):
        return bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * jnp.sum((w - h * (MATRIX + MATRIX.T)) ** 2),
            init=lambda key, h: jnp.zeros((3, 3)),
            constraint=bl.PSDCone(),
            solver=bl.ProximalGradient(tol=1e-13),
        ).solve(h, None)

    values, vectors = np.linalg.eigh(MATRIX + MATRIX.T)
    expected = vectors @ np.diag(np.maximum(values, 0)) @ vectors.T
    np.testing.assert_allclose(jax.jit(jax.jacfwd(lambda h: fit(h).params))(1.3), expected, atol=1e-9)
