"""Where solves stop: solutions, the floor of the precision, starts that are solved or bad, losses without a minimum."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.foundation import trees

RNG = np.random.default_rng(0)
MATRIX, TARGET = RNG.normal(size=(40, 6)), RNG.normal(size=40)
DESCENT = bl.GradientDescent(step_size=1.0, tol=1e-6, max_steps=20000)


def ridge(w, h, batch):
    return 0.5 * jnp.mean((jnp.asarray(MATRIX) @ w - TARGET) ** 2) + 0.5 * h * jnp.sum(w**2)


def ridge_solution(h):
    return jnp.linalg.solve(MATRIX.T @ MATRIX / 40 + h * jnp.eye(6), MATRIX.T @ TARGET / 40)


def cliff(w, h, batch):
    return ((w[0] - 3) / 100) ** 2 - (w[0] - w[1]) + jnp.exp(20 * (w[0] - w[1]))


def variably_dimensioned(w, h, batch):
    number = jnp.arange(1.0, 1 + w.size)
    total = jnp.sum(number * (w - 1))
    return jnp.sum((w - 1) ** 2) + total**2 + total**4


def solve(loss, start, solver, h=1.0, **parts):
    return bl.InnerProblem(loss, lambda key, h: start, solver=solver, **parts).solve(h, None)


@pytest.mark.sample(1)
@pytest.mark.parametrize("offset", [0.0, 1e-9])
@pytest.mark.parametrize("solver", [bl.Newton(), bl.LBFGS()])
def test_a_start_at_the_solution_converges(solver, offset):
    inner = bl.InnerProblem(ridge, lambda key, h: ridge_solution(h) + offset, solver=solver)

    def params(h):
        found = inner.solve(h, None)
        return found.params, (found.status.code, found.residual)

    slope, (code, residual) = jax.jit(jax.jacfwd(params, has_aux=True))(1.0)
    assert int(code) == bl.Code.converged and float(residual) < 1e-7
    assert_allclose(slope, jax.jacfwd(ridge_solution)(1.0), atol=1e-12)


def test_a_start_at_zero_that_solves_but_for_rounding():
    """The mean of centred targets: no scale is in w, only in the loss. Whether the gradient there is 0 or 1e-15 depends
    on the order in which it is summed."""
    shifted = TARGET + 0.37 * np.arange(4)[:, None]
    inner = bl.InnerProblem(
        lambda w, h, centred: 0.5 * jnp.sum((centred - w["v"]) ** 2),
        lambda key, h: {"v": jnp.zeros(())},
        solver=bl.Newton(),
    )
    found = jax.vmap(lambda centred: inner.solve(1.0, centred))(shifted - np.mean(shifted, axis=1, keepdims=True))
    assert np.all(np.asarray(found.status.code) == bl.Code.converged)
    assert np.max(np.abs(found.params["v"])) < 1e-15


@pytest.mark.parametrize("solver", [bl.LBFGS(tol=1e-10), bl.Newton()])
def test_the_cliff_is_climbed_down_to_its_minimum(solver):
    found = solve(cliff, jnp.array([0.0, -1.0]), solver)
    assert found.status.name == "converged"
    assert_allclose(cliff(found.params, None, None), 0.199786613, rtol=1e-8)
    assert float(jnp.linalg.norm(jax.grad(cliff)(found.params, None, None))) < 1e-6


@pytest.mark.slow
def test_a_start_with_a_gradient_of_1e15_does_not_excuse_one_of_1e5():
    found = solve(variably_dimensioned, 1 - jnp.arange(1.0, 201) / 200, bl.LBFGS(tol=1e-10, max_steps=1000))
    assert found.status.name == "converged"
    assert float(variably_dimensioned(found.params, None, None)) < 1e-8


@pytest.mark.slow
def test_slow_is_not_stalled():
    slopes = jnp.array([1.0, 1e-3], jnp.float32)
    found = solve(lambda w, h, b: 0.5 * jnp.sum(slopes * (w - 1) ** 2), jnp.zeros(2, jnp.float32), DESCENT)
    assert found.status.name == "converged" and int(found.steps) > 5000
    assert_allclose(found.params, 1.0, atol=1.1e-3)
    slow = bl.FixedPointIteration(tol=5e-3, max_steps=10_000)
    start = lambda key, h: jnp.zeros((), jnp.float32)
    fixed = bl.InnerProblem.from_fixed_point(lambda w, h, b: jnp.float32(0.999) * w + 1, start, solver=slow)
    found = fixed.solve(0.0, None)
    assert found.status.name == "converged" and 5200 < int(found.steps) < 5400


def test_a_tolerance_below_the_floor_is_rounding_or_stalled():
    """From a start that is a million times too large, four epsilons of its gradient are no solution."""
    slopes = jnp.array([1.0, 0.1], jnp.float32)
    loss = lambda w, h, b: 0.5 * jnp.sum(slopes * (w - 1) ** 2)
    found = solve(loss, jnp.full(2, 1e6, jnp.float32), bl.GradientDescent(step_size=1.0, tol=1e-12, max_steps=3000))
    assert found.status.name == "converged"
    assert_allclose(found.params, 1.0, atol=1e-4)


IN_A_BOX = [bl.ProximalGradient(), bl.ActiveSetNewton(), bl.SpectralProximalGradient(), bl.LBFGSB()]


@pytest.mark.sample(1)
@pytest.mark.parametrize("solver", IN_A_BOX)
@pytest.mark.parametrize("constraint", [bl.NonNegative(), bl.Box(lower=0.0)])
def test_a_program_unbounded_on_a_set(solver, constraint):
    loss = lambda w, h, b: -w.sum() * h
    found = solve(loss, jnp.zeros(2), solver, constraint=constraint)
    assert found.status.name == "unbounded"
    assert float(found.residual) > 0.5


@pytest.mark.sample(1)
@pytest.mark.parametrize("solver", [bl.Newton(), bl.Auto(), bl.GradientDescent(max_steps=2000)])
def test_a_loss_falls_without_end_beside_a_coordinate_with_a_domain(solver):
    loss = lambda w, h, b: -w[0] * h - jnp.log(1 - w[1]) - jnp.log(w[1])
    found = solve(loss, jnp.array([0.0, 0.3]), solver)
    assert found.status.name == "unbounded"


@pytest.mark.sample(1)
@pytest.mark.parametrize("solver", [bl.ProximalGradient(), bl.ActiveSetNewton(), bl.ProjectedNewton()])
def test_a_loss_falls_without_end_in_a_set_beside_a_coordinate_with_a_domain(solver):
    loss = lambda w, h, b: -w[0] * h - jnp.log(1 - w[1]) - 2 * jnp.log(w[1])
    found = solve(loss, jnp.array([0.0, 0.3]), solver, constraint=bl.Box(lower=0.0))
    assert found.status.name == "unbounded"


@pytest.mark.sample(1)
@pytest.mark.parametrize("solver", IN_A_BOX[:3])
def test_a_penalty_of_negative_weight_falls_without_end(solver):
    """The smooth part alone rises on the way."""
    rng = np.random.default_rng(1)
    X, y = jnp.asarray(rng.normal(size=(40, 60))), jnp.asarray(rng.normal(size=40))
    loss = lambda w, h, b: 0.5 * jnp.mean((X @ w - y) ** 2) * h
    found = solve(loss, jnp.zeros(60), solver, penalty=bl.Ridge(weight=-0.1))
    assert found.status.name == "unbounded"


def test_rounding_far_away_is_no_curvature():
    """At 1e25 the residual of a set has half of its digits, and their rounding looked like a turn of a linear loss."""
    loss = lambda w, h, b: -w.sum() * h
    found = solve(loss, jnp.zeros(2), bl.ActiveSetNewton(), constraint=bl.NonNegative())
    assert found.status.name == "unbounded" and int(found.steps) < 100


@pytest.mark.sample(1)
@pytest.mark.parametrize("solver", IN_A_BOX)
def test_a_far_minimum_in_a_set_is_one(solver):
    """At 1e12 from a start at 0 the point is far by the same measure."""
    loss = lambda w, h, b: 0.5 * jnp.sum((w - 1e12) ** 2 * h)
    found = solve(loss, jnp.zeros(2), solver, constraint=bl.NonNegative())
    assert found.status.name == "converged"
    assert_allclose(found.params, 1e12, rtol=1e-5)


@pytest.mark.sample(1)
@pytest.mark.parametrize("solver", IN_A_BOX[2:])
def test_a_linear_loss_is_solved_at_a_far_vertex(solver):
    loss = lambda w, h, b: -w["a"].sum() - w["b"]
    start = {"a": jnp.zeros(2, jnp.float32), "b": jnp.zeros((), jnp.float32)}
    found = solve(loss, start, solver, constraint=bl.Box(lower=0.0, upper=1e6))
    assert found.status.name == "converged" and int(found.steps) < 20
    assert_allclose(found.params["a"], 1e6)
    assert_allclose(found.params["b"], 1e6)


def test_the_residual_of_large_params_does_not_round_to_zero():
    mapping = bl.InnerProblem(
        lambda w, h, b: -w["a"].sum() - w["b"], lambda key, h: None, constraint=bl.NonNegative()
    ).mapping

    def size(w):
        return float(trees.norm(mapping.natural_residual(w, 0.0, None)))

    for scale in (0.0, 1.0, 1e21, 1e200):
        assert_allclose(size({"a": jnp.full(2, scale), "b": jnp.asarray(scale)}), np.sqrt(3))


@pytest.mark.sample(1)
@pytest.mark.parametrize("solver", [bl.LBFGS(), bl.LBFGS(tol=1e-4)])
def test_separable_logistic_regression_has_no_minimum(solver):
    signs = np.sign(MATRIX[:, 0])
    found = solve(
        lambda w, h, b: jnp.mean(jnp.logaddexp(0.0, -signs * (jnp.asarray(MATRIX) @ w))), jnp.zeros(6), solver
    )
    assert found.status.name == "unbounded"


LOSSES = {
    "linear": lambda w, h, b: -jnp.sum(w),
    "concave": lambda w, h, b: -0.5 * jnp.sum((w - 0.1) ** 2),
    "logarithm": lambda w, h, b: -jnp.sum(jnp.log(1 + w)),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("solver", [bl.LBFGS(), bl.GradientDescent()])
def test_losses_without_a_minimum(solver, loss):
    assert solve(LOSSES[loss], jnp.zeros(2), solver).status.name == "unbounded"


@pytest.mark.parametrize(
    ("seed", "solver", "parts"),
    [(2, bl.LBFGS(), {}), (1, bl.SpectralProximalGradient(), {"constraint": bl.HalfSpace(np.ones(30), 2.0)})],
)
def test_a_steep_start_does_not_make_a_loss_unbounded(seed, solver, parts):
    """Poisson regression from a loss of 1e62 and 1e132, beside which every gradient on the way is nothing."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, 30))
    counts, start = 3 * np.abs(rng.normal(size=60)), 20 * rng.normal(size=30)
    loss = lambda w, h, b: jnp.mean(jnp.exp(X @ w) - counts * (X @ w)) + 0.5e-3 * w @ w
    found = solve(loss, jnp.asarray(start), solver, **parts)
    assert found.status.name == "converged"
    assert float(loss(found.params, None, None)) < 1.0


@pytest.mark.slow
def test_a_loss_of_1e20_in_single_precision_is_not_all_rounding():
    """The product of curvature and loss overflows there."""
    loss = lambda w, h, b: 0.5e20 * jnp.sum((w - 1) ** 2)
    found = solve(loss, jnp.zeros(4, jnp.float32), bl.GradientDescent(step_size=1e-21, max_steps=1))
    assert found.status.name == "max_steps"


@pytest.mark.slow
def test_too_long_steps_still_diverge():
    found = solve(lambda w, h, b: jnp.sum(w**2), jnp.ones(2), bl.GradientDescent(step_size=1.5))
    assert found.status.name == "diverged"


@pytest.mark.slow
def test_a_flat_bottom_is_a_solution():
    """A squared hinge is exactly zero, with a derivative that is, on a half-line."""
    loss = lambda w, h, b: jnp.sum(jnp.maximum(1 - w, 0) ** 2)
    assert solve(loss, jnp.zeros(2), bl.LBFGS()).status.name == "converged"


@pytest.mark.slow
def test_lanes_are_judged_one_by_one():
    """A solved start, a bad one, a good one and one without a solution in one batch; and in the lanes of a queue."""

    def loss(w, h, batch):
        bounded = batch > 0
        return bounded * jnp.sum((w - batch) ** 2 + 0.1 * (w - batch) ** 4) - ~bounded * jnp.sum(w)

    inner = bl.InnerProblem(loss, lambda key, h: jnp.zeros(2), solver=bl.LBFGS())
    batch = jnp.array([1e-17, 30.0, 1.0, -1.0])
    found = jax.jit(jax.vmap(lambda b: inner.solve(0.0, b)))(batch)
    assert repr(found.status) == "Status(['converged', 'converged', 'converged', 'unbounded'])"
    assert_allclose(found.params[:3, 0], batch[:3], atol=1e-6)
    queued = bl.solve_batch(inner, 0.0, batch, in_axes=(None, 0), lanes=2)
    assert repr(queued.status) == repr(found.status)
    assert_allclose(queued.params[:3], found.params[:3], atol=1e-12)


@pytest.mark.slow
def test_tolerances_compile_nothing_again():
    traces = []

    def loss(w, h, batch):
        traces.append(1)
        return 0.5 * jnp.sum((w - h) ** 2)

    inner = bl.InnerProblem(loss, lambda key, h: jnp.zeros(2))
    solve = jax.jit(lambda solver, h: inner.with_solver(solver).solve(h, None).params)
    solve(replace(bl.LBFGS(), tol=jnp.asarray(1e-3)), 1.0)
    before = len(traces)
    solve(replace(bl.LBFGS(), tol=jnp.asarray(1e-20)), 2.0)
    assert len(traces) == before


FAR_UP = {
    "Newton": (bl.Newton, {}),
    "ProximalNewton": (bl.ProximalNewton, {"penalty": bl.L1(1e-4)}),
    "ProximalNewton in a box": (bl.ProximalNewton, {"constraint": bl.Box(lower=-5.0)}),
    "ProjectedNewton": (bl.ProjectedNewton, {"constraint": bl.Box(lower=-5.0)}),
    "LBFGSB": (bl.LBFGSB, {"constraint": bl.Box(lower=-5.0)}),
    "InteriorPoint": (bl.InteriorPoint, {"constraint": bl.Functional(inequality=lambda w, h, b: -5 - w)}),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", FAR_UP)
def test_a_gradient_of_5e21_in_single_precision(name):
    """exp(w) - w from w = 50: the square of a gradient overflows, and every residual is small beside the loss. The
    solution is reached, and no point on the way to it is called one."""
    kind, stated = FAR_UP[name]
    loss = lambda w, h, b: jnp.sum(jnp.exp(w) - w)
    start = jnp.full(3, 50.0, jnp.float32)
    found = solve(loss, start, kind(), **stated)
    assert found.status.name == "converged"
    assert_allclose(found.params, 0, atol=1e-4)
    for steps in (1, 10):
        assert solve(loss, start, kind(max_steps=steps), **stated).status.name in ("max_steps", "diverged")


def test_a_start_that_solves_a_program_whose_loss_is_zero_there():
    """Nothing at 0 has a size, and the multiplier that the first step raised never becomes exactly 0."""
    ball = bl.Functional(inequality=lambda w, h, b: w @ w - 0.25)
    found = solve(lambda w, h, b: 0.5 * w @ w, jnp.zeros(2), bl.InteriorPoint(max_steps=200), constraint=ball)
    assert found.status.name == "converged"
    assert_allclose(found.params, 0, atol=1e-12)


TEMPERATURE = np.arange(50.0, 126.0, 5.0)
RESISTANCE = [34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872.0]
LEAST = 87.945855  # the sum of squares that the source certifies


def thermistor(w, h, batch):
    """MGH10 of NIST's Statistical Reference Datasets (Meyer and Roth, 1972), in the units of CUTEst's MGH10SLS."""
    model = 0.01 * w[0] * jnp.exp(1e3 * w[1] / (TEMPERATURE + 1e2 * w[2]))
    return jnp.sum((model - jnp.asarray(RESISTANCE)) ** 2)


def test_a_bent_valley_below_a_start_of_5e15_is_no_floor():
    """It was `stalled` at 66,407, because the gradient grew for three steps while the sum of squares fell. And at 94.8
    the gradient is 1e-10 of the first one, while Newton's steps still lower the sum."""
    found = solve(thermistor, jnp.array([200.0, 400.0, 250.0]), bl.Auto())
    assert found.status.name == "converged"
    assert_allclose(float(thermistor(found.params, None, None)), LEAST, rtol=1e-6)


@pytest.mark.sample(1)
@pytest.mark.parametrize("start", [[200.0, 400.0, 250.0], [2.0, 4.0, 2.5], [1.0, 8.0, 4.5]])
@pytest.mark.parametrize("solver", [bl.Newton(max_steps=1000), bl.LBFGS(), bl.ProximalNewton(max_steps=1000)], ids=str)
def test_a_bent_valley_by_the_other_solvers(solver, start):
    found = solve(thermistor, jnp.array(start), solver)
    assert found.status.name == "converged"
    assert_allclose(float(thermistor(found.params, None, None)), LEAST, rtol=1e-6)


@pytest.mark.sample(1)
@pytest.mark.parametrize("box", [bl.Box(lower=0.0, upper=1e4), bl.NonNegative()], ids=str)
def test_a_bent_valley_in_a_box(box):
    found = solve(thermistor, jnp.array([2.0, 4.0, 2.5]), bl.ProjectedNewton(max_steps=1000), constraint=box)
    assert found.status.name == "converged"
    assert_allclose(float(thermistor(found.params, None, None)), LEAST, rtol=1e-6)
