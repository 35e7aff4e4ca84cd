"""Mirror descent, fixed points, Anderson, Broyden, L-BFGS-B: what the laws do not ask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.foundation.typing import Counts
from bilevel.optimality import MirrorDescent, ProximalGradient

RNG = np.random.default_rng(0)


def on_the_simplex(solver, start, scale=1.0):
    return bl.InnerProblem(
        lambda w, h, batch: 0.5 * jnp.sum((w - h) ** 2),
        lambda key, h: start,
        constraint=bl.Simplex(scale),
        solver=solver,
    )


@pytest.mark.sample(1)
@pytest.mark.parametrize("start", [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 5.0, 0.0]])
def test_mirror_descent_leaves_wrong_zeros(start):
    """A multiplicative step keeps zeros: those that should grow are lifted, from any start."""
    found = on_the_simplex(bl.MirrorDescent(tol=1e-9), jnp.array(start)).solve(jnp.array([0.0, 0.4, 0.8]), None)
    assert found.status.name == "converged"
    assert_allclose(found.params, [0.0, 0.3, 0.7], atol=1e-8)


@pytest.mark.slow
def test_mirror_descent_with_a_schedule_and_a_fixed_step():
    decay = lambda step: 1.0 / jnp.sqrt(1.0 + step / 100.0)
    for solver in (
        bl.MirrorDescent(tol=1e-8, step_size=1.0),
        bl.MirrorDescent(tol=1e-8, step_size=lambda h: 2.0 + 0 * h[0], schedule=decay),
    ):
        found = on_the_simplex(solver, jnp.ones(3) / 3).solve(jnp.array([0.5, 0.4, -1.0]), None)
        assert found.status.name == "converged"
        assert_allclose(found.params, [0.55, 0.45, 0.0], atol=1e-6)


@pytest.mark.slow
def test_the_papers_showcase():
    """Block coordinate descent, differentiated by the mirror descent condition, which knows nothing of the solver."""
    matrix, labels = jnp.asarray(RNG.normal(size=(12, 4))), jnp.asarray(np.eye(3)[RNG.integers(0, 3, 12)])
    loss = bl.Linear(
        design=lambda batch: batch[0].T,
        loss=lambda z, x, h, batch: (
            0.5 * jnp.exp(-h) * jnp.sum((batch[0].T @ batch[1] - z) ** 2) + jnp.sum(x * batch[1])
        ),
    )

    def problem(solver, **parts):
        start = lambda key, h: jnp.full((12, 3), 1 / 3)
        return bl.InnerProblem(loss, start, constraint=bl.Simplex(), solver=solver, **parts)

    def primal(h, inner):
        x = inner.solve(h, (matrix, labels)).params
        return matrix.T @ (labels - x) * jnp.exp(-h)

    showcase = problem(bl.BlockCoordinateDescent(tol=1e-10), optimality=MirrorDescent(loss, bl.Entropy()))
    witness = problem(bl.ActiveSetNewton(tol=1e-13))
    zeros = jnp.sum(showcase.solve(1.0, (matrix, labels)).params == 0)
    assert int(zeros) > 5
    slope = jax.jacrev(lambda h: primal(h, showcase))(1.0)
    assert_allclose(slope, jax.jacrev(lambda h: primal(h, witness))(1.0), atol=1e-7)
    moved = (primal(1.0 + 1e-5, witness) - primal(1.0 - 1e-5, witness)) / 2e-5
    assert_allclose(slope, moved, atol=1e-6)


@pytest.mark.slow
def test_anderson_solves_what_plain_iteration_cannot():
    """A map that expands in one direction: the iteration diverges, and says so."""
    stretch = jnp.array([-1.5, 0.9, 0.5])
    problem = lambda solver: bl.InnerProblem.from_fixed_point(
        lambda w, h, batch: stretch * w + h, lambda key, h: jnp.zeros(3), solver
    )
    assert problem(bl.FixedPointIteration(tol=1e-10)).solve(jnp.ones(3), None).status.name == "diverged"
    found = problem(bl.Anderson(tol=1e-10)).solve(jnp.ones(3), None)
    assert found.status.name == "converged" and int(found.steps) <= 8
    assert_allclose(found.params, 1 / (1 - stretch), rtol=1e-8)


@pytest.mark.slow
def test_a_fixed_point_of_proximal_steps():
    loss = lambda w, h, batch: 0.5 * jnp.sum((w - h) ** 2)
    mapping = ProximalGradient(loss, lambda w, step, h, batch: bl.prox.l1(w, step, 1.0), step_size=0.5)
    for solver in (bl.FixedPointIteration(tol=1e-9), bl.Anderson(tol=1e-9)):
        inner = bl.InnerProblem(loss, lambda key, h: jnp.zeros(2), bl.L1(1.0), solver=solver, optimality=mapping)
        assert_allclose(inner.solve(jnp.array([3.0, 0.5]), None).params, [2.0, 0.0], atol=1e-8)


@pytest.mark.parametrize("solver", [bl.FixedPointIteration(), bl.Anderson()])
def test_a_gradient_is_no_fixed_point(solver):
    inner = bl.InnerProblem(lambda w, h, batch: jnp.sum(w**2), lambda key, h: jnp.ones(2), solver=solver)
    with pytest.raises(ValueError, match=r"not of the form T\(w\) - w. State the problem by"):
        inner.solve(0.0, None)


def test_broyden_restarts_when_its_memory_is_full():
    matrix = jnp.asarray(np.eye(12) * np.arange(1, 13) + 0.3 * RNG.normal(size=(12, 12)))
    inner = bl.InnerProblem.from_residual(
        lambda w, h, batch: matrix @ w + 0.1 * w**3 - h, lambda key, h: jnp.zeros(12), bl.Broyden(tol=1e-10, memory=5)
    )
    found = inner.solve(jnp.ones(12), None)
    assert found.status.name == "converged"
    assert_allclose(matrix @ found.params + 0.1 * found.params**3, 1.0, atol=1e-8)


def test_a_step_size_that_is_too_long_is_taken_back_between_two_checks():
    """Of a step size of 5/L each unchecked step would multiply the error along the steepest direction by 4."""
    curvature = jnp.logspace(-3, 0, 40)
    solver = bl.ProximalGradient()
    inner = bl.InnerProblem(
        lambda w, h, batch: 0.5 * jnp.sum(curvature * w**2), lambda key, h: jnp.ones(40), bl.L1(1e-9), solver=solver
    )
    instance = inner.at(0.0, None)
    start = jnp.ones(40)
    state = solver.begin(start, instance.residual_norm(start), jnp.asarray(5.0), Counts().as_arrays())
    state = state._replace(memory=state.memory._replace(steps=jnp.int32(9 + 8)))
    step = jax.jit(lambda state: solver.step(instance, state))
    for _ in range(7):
        state = step(state)
    assert float(state.memory.step_size) < 2.0
    assert float(instance.residual_norm(state.params)) < float(instance.residual_norm(start))


@pytest.mark.parametrize("solver", [bl.GradientDescent(), bl.ProximalGradient(), bl.SpectralProximalGradient()])
def test_a_first_trial_where_the_gradient_overflows_is_rejected(solver):
    """The curvature at -2 is 2e-7, so that the first trial steps to 1e6, where exp(10 w) is infinite: rounding of an
    infinite gradient allows nothing."""
    free = isinstance(solver, bl.GradientDescent)
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: jnp.sum(jnp.exp(10 * w) - h * w),
        init=lambda key, h: jnp.full(2, -2.0),
        constraint=bl.Free() if free else bl.Box(lower=-9.0, upper=1e30),
        solver=solver,
    )
    solution = inner.solve(1.0, None)
    assert solution.status.name == "converged" and solution.steps < 50
    assert_allclose(solution.params, np.log(0.1) / 10, rtol=1e-6)


@pytest.mark.slow
def test_spectral_steps_halve_the_gradients_at_a_moderate_condition():
    curvature, target = jnp.logspace(-1.5, 0, 40), jnp.asarray(np.random.default_rng(1).normal(size=40))

    def solve(solver, start):
        loss = lambda w, h, batch: 0.5 * jnp.sum(curvature * (w - 2 * target) ** 2)
        inner = bl.InnerProblem(loss, lambda key, h: jnp.zeros(40), constraint=bl.Box(-1.0, 1.0), solver=solver)
        found = inner.solve(0.0, None, init=start)
        assert found.status.name == "converged"
        assert_allclose(found.params, jnp.clip(2 * target, -1, 1), atol=1e-7)
        return int(found.counts.gradients)

    def on_the_way(solver):
        """Without the gradients of a solve that takes no step: those that examine the start and the end."""
        return solve(solver, jnp.zeros(40)) - solve(solver, jnp.clip(2 * target, -1, 1))

    solve(bl.SpectralProximalGradient(tol=1e-9), 2 * target)  # lower than any value in the box
    assert 2 * on_the_way(bl.SpectralProximalGradient(tol=1e-9)) <= on_the_way(bl.ProximalGradient(tol=1e-9))


def test_refusals():
    quadratic = lambda w, h, batch: jnp.sum((w - h) ** 2)
    for solver, sentence in (
        (bl.LBFGSB(), "would ignore L1"),
        (bl.MirrorDescent(), "keeps to bl.Simplex"),
    ):
        with pytest.raises(ValueError, match=sentence):
            bl.InnerProblem(quadratic, lambda key, h: jnp.zeros(2), bl.L1(1.0), solver=solver).solve(0.0, None)


def test_spectral_steps_do_not_climb_a_loss_that_is_not_convex():
    """((x'u) (x'v) - 1)^2 from far starts: the curvature between two points may be negative across a hill."""
    data = np.array([[1.0, 0.3], [-0.5, 2.0], [1.5, -1.0]])

    def loss(w, h, batch):
        return 0.5 * jnp.mean(((batch @ jnp.stack([w["u"], w["v"][0]])) * (batch @ w["v"]) - 1.0) ** 2)

    solver = bl.SpectralProximalGradient()
    start = lambda key, h: {"u": jnp.ones(()), "v": jnp.zeros(2)}
    problem = bl.InnerProblem(loss, start, penalty=bl.L1(weight=0.1), solver=solver).at(1.0, data)

    def objectives(point):
        def step(state, _):
            state = solver.step(problem, state).settled()
            return state, problem.objective(state.params)

        begun = solver.init(problem, {"u": point[0], "v": point[1:]}).settled()
        return jax.lax.scan(step, begun, length=40)[1]

    starts = np.random.default_rng(0).normal(size=(200, 3)) * 10.0 ** np.linspace(0, 2, 200)[:, None]
    found = np.asarray(jax.jit(jax.vmap(objectives))(starts))
    highest = np.stack([found[:, max(k - 8, 0) : k].max(axis=1) for k in range(1, 40)], axis=1)
    assert np.all(found[:, 1:] <= highest * (1 + 1e-12))


@pytest.mark.parametrize("solver", [bl.SpectralProximalGradient(tol=1e-6), bl.ProximalGradient(tol=1e-6)])
def test_a_concave_loss_under_a_convex_penalty_in_float32(solver):
    """-0.4 w^2 + 0.3 w + ridge / 2 * w^2 with ridge = 1 falls along ever longer steps: their size must not overflow."""
    inner = bl.InnerProblem(
        lambda w, h, batch: jnp.sum(-0.4 * w**2 + 0.3 * w),
        lambda key, h: jnp.ones(1, jnp.float32),
        penalty=bl.Ridge(1.0),
        solver=solver,
    )
    found = inner.solve(jnp.zeros((), jnp.float32), None)
    assert found.status.name == "converged"
    assert_allclose(found.params, [-1.5], rtol=1e-5)
