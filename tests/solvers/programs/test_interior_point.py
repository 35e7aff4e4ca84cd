"""The interior-point solver on problems constrained by functions: solutions, statuses, engines, warm starts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from numpy.testing import assert_allclose

import bilevel as bl

MEANS = np.array([0.3, -0.8, 0.5, 1.2])
RISK = np.array([[1.0, 0.2, 0.0, 0.1], [0.2, 0.6, 0.1, 0.0], [0.0, 0.1, 0.8, -0.2], [0.1, 0.0, -0.2, 1.5]])
SOLVER = bl.InteriorPoint(max_steps=40)

portfolio = bl.InnerProblem(
    loss=lambda w, h, batch: -batch @ w + 0.05 * jnp.sum(jnp.exp(w)),
    init=lambda key, h: jnp.zeros(4),
    constraint=bl.Functional(
        equality=lambda w, h, batch: jnp.sum(w) - 1.0,
        inequality=lambda w, h, batch: {"risk": w @ RISK @ w - jnp.exp(h["risk"]), "short": -w - h["short"]},
    ),
    solver=SOLVER,
)
LEVELS = {"risk": np.asarray(-0.9), "short": np.asarray(0.1)}
solve = jax.jit(lambda h, batch: portfolio.solve(h, batch))


def quadratic(data: dict) -> bl.InnerProblem:
    n = data["q"].size
    return bl.InnerProblem(
        loss=lambda w, h, t: 0.5 * w @ t["Q"] @ w + t["q"] @ w,
        init=lambda key, h: jnp.zeros(n),
        constraint=bl.Functional(inequality=lambda w, h, t: t["G"] @ w - t["h"]),
        solver=SOLVER,
    )


@pytest.mark.slow
def test_a_smooth_convex_program_against_scipy():
    found = solve(LEVELS, MEANS)
    assert found.status.name == "converged"

    def loss(w):
        return float(-MEANS @ w + 0.05 * np.sum(np.exp(w)))

    rules = [
        {"type": "eq", "fun": lambda w: np.sum(w) - 1},
        {"type": "ineq", "fun": lambda w: float(np.exp(-0.9)) - w @ np.asarray(RISK) @ w},
        {"type": "ineq", "fun": lambda w: w + 0.1},
    ]
    witness = scipy.optimize.minimize(loss, np.full(4, 0.25), constraints=rules, options={"ftol": 1e-14})
    assert_allclose(found.params, witness.x, atol=1e-6)
    assert found.dual.inequality_dual["short"].shape == (4,)
    assert float(found.dual.inequality_dual["risk"]) > 1e-3  # the curved constraint is active


@pytest.mark.slow
def test_derivatives_of_params_and_duals_equal_finite_differences():
    def read(h):
        found = solve(h, MEANS)
        return found.params, found.dual

    step, jvp = 1e-5, jax.jit(lambda h, d: jax.jvp(read, (h,), (d,))[1])
    weights = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(1.0, leaf.size + 1)).reshape(leaf.shape), read(LEVELS))

    def weighted(h):
        return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), read(h), weights)))

    gradient = jax.jit(jax.grad(weighted))(LEVELS)
    for name in LEVELS:
        up, down = (read({**LEVELS, name: LEVELS[name] + sign * step}) for sign in (1, -1))
        slope = jax.tree.map(lambda a, b: (a - b) / (2 * step), up, down)
        along = {key: jnp.asarray(float(key == name)) for key in LEVELS}
        jax.tree.map(lambda a, b: assert_allclose(a, b, atol=2e-5), jvp(LEVELS, along), slope)
        total = sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), slope, weights)))
        assert_allclose(gradient[name], total, atol=1e-4)


@pytest.mark.slow
def test_vmap_is_a_loop():
    risks = np.array([-1.0, -0.5, 0.5])
    together = jax.jit(jax.vmap(lambda r: portfolio.solve({**LEVELS, "risk": r}, MEANS).params))(risks)
    for risk, params in zip(risks, together, strict=True):
        assert_allclose(params, solve({**LEVELS, "risk": risk}, MEANS).params, atol=1e-8)


ENGINES = [bl.Implicit(), bl.Unrolled(), bl.Forward(), bl.OneStep()]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: type(engine).__name__)
def test_every_engine_gives_the_same_hypergradient(engine):
    task = bl.Task(
        inner=portfolio,
        outer_loss=lambda w, h, batch: jnp.sum((w - 0.2) ** 2) + batch @ w,
        init_hparams=lambda key: LEVELS,
        batches=bl.full_batch(MEANS, MEANS[::-1]),
    )
    expected = jax.jit(jax.grad(lambda h: task.outer_loss(portfolio.solve(h, MEANS).params, h, MEANS[::-1])))(LEVELS)
    _, grad, report = bl.hypergradient(task, LEVELS, engine=engine)
    assert report.params.shape == (4,)  # the report shows the params, the carry keeps the multipliers
    assert isinstance(report.carry.params, bl.PrimalDual)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-5, atol=1e-6), grad, expected)


@pytest.mark.slow
def test_a_warm_start_takes_fewer_steps():
    found = solve(LEVELS, MEANS)
    near = {**LEVELS, "risk": LEVELS["risk"] + 1e-3}
    start = bl.PrimalDual(found.params, *found.dual)
    warm = jax.jit(lambda h, start: portfolio.solve(h, MEANS, init=start))(near, start)
    cold = solve(near, MEANS)
    assert int(warm.steps) < int(cold.steps)
    assert_allclose(warm.params, cold.params, atol=1e-8)


@pytest.mark.slow
def test_infeasible_unbounded_and_solved_lanes_are_told_apart():
    data = {"Q": jnp.diag(jnp.array([1.0, 0.0])), "G": jnp.array([[1.0, 0], [-1, 0], [0, -1]])}
    q = jnp.array([[2.0, 1], [1, -1], [1, 1]])
    h = jnp.array([[1.0, 1, 0], [1, 1, 0], [-1, -1, 0]])
    inner = quadratic({**data, "q": q[0]})
    run = jax.jit(jax.vmap(lambda q, h: inner.solve(None, {**data, "q": q, "h": h})))
    found = run(q, h)
    assert [bl.Code(int(code)).name for code in found.status.code] == ["converged", "unbounded", "infeasible"]
    assert_allclose(found.params[0], [-1, 0], atol=1e-9)


@pytest.mark.slow
def test_a_rank_deficient_hessian_with_redundant_rows():
    data = {"Q": jnp.zeros((2, 2)), "q": jnp.array([-1.0, -2.0]), "G": jnp.array([[1.0, 0], [0, 1], [0, 2], [1, 1]])}
    data["h"] = jnp.array([1.0, 1.0, 2.0, 4.0])
    found = jax.jit(lambda t: quadratic(t).solve(None, t))(data)
    assert bool(found.status.ok)
    assert_allclose(found.params, [1, 1], atol=1e-8)


@pytest.mark.slow
def test_a_nonconvex_program_ends_at_a_minimum():
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: w[0] * w[1],
        init=lambda key, h: jnp.array([0.3, -0.4]),
        constraint=bl.Functional(inequality=lambda w, h, batch: jnp.sum(w**2) - h),
        solver=SOLVER,
    )
    found = inner.solve(2.0, None)
    assert found.status.name == "converged"
    assert_allclose(jnp.abs(found.params), [1, 1], atol=1e-8)
    assert_allclose(found.params[0] * found.params[1], -1, atol=1e-8)


ROUGH = {  # of Hock and Schittkowski, 1981: (loss, equality, inequality, start, minimum)
    "29: a start far inside, indefinite": (
        lambda w: -w[0] * w[1] * w[2],
        None,
        lambda w: w[0] ** 2 + 2 * w[1] ** 2 + 4 * w[2] ** 2 - 48,
        [1.0, 1.0, 1.0],
        -16 * np.sqrt(2),
    ),
    "39: equalities, and no multipliers yet": (
        lambda w: -w[0],
        lambda w: jnp.array([w[1] - w[0] ** 3 - w[2] ** 2, w[0] ** 2 - w[1] - w[3] ** 2]),
        None,
        [2.0, 2.0, 2.0, 2.0],
        -1.0,
    ),
    "8: as many equalities as unknowns": (
        lambda w: -1.0 + 0 * w[0],
        lambda w: jnp.array([w[0] ** 2 + w[1] ** 2 - 25, w[0] * w[1] - 9]),
        None,
        [2.0, 1.0],
        -1.0,
    ),
    "17: multipliers that reach zero first": (
        lambda w: 100 * (w[1] - w[0] ** 2) ** 2 + (1 - w[0]) ** 2,
        None,
        lambda w: jnp.array([w[0] - w[1] ** 2, w[1] - w[0] ** 2, -0.5 - w[0], w[0] - 0.5, w[1] - 1]),
        [-2.0, 1.0],
        1.0,
    ),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name[0] in "381")) for name in ROUGH])
def test_rough_starts_of_problems_that_are_not_convex(name):
    value, equality, inequality, start, least = ROUGH[name]
    rows = {
        role: lambda w, h, batch, function=function: jnp.atleast_1d(function(w))
        for role, function in (("equality", equality), ("inequality", inequality))
        if function is not None
    }
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: value(w),
        init=lambda key, h: jnp.array(start),
        constraint=bl.Functional(**rows),
    )
    found = inner.solve(None, None)
    assert found.status.name == "converged" and int(found.steps) < 100
    assert_allclose(value(found.params), least, rtol=1e-6)


@pytest.mark.slow
def test_float32():
    with jax.enable_x64(False):
        levels = {name: jnp.asarray(value, jnp.float32) for name, value in LEVELS.items()}
        inner = bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2),
            init=lambda key, h: jnp.zeros(3, jnp.float32),
            constraint=bl.Functional(inequality=lambda w, h, batch: w - h["short"]),
            solver=bl.InteriorPoint(max_steps=40, tol=1e-5),
        )
        found = inner.solve(levels, jnp.array([1.0, -1.0, 0.5], jnp.float32))
        assert found.params.dtype == jnp.float32 and bool(found.status.ok)
        assert_allclose(found.params, [0.1, -1.0, 0.1], atol=1e-4)


@pytest.mark.slow
def test_single_precision_params_with_double_precision_data():
    """The multipliers are of the type of the params, whatever the rows return."""
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * jnp.sum((w["a"] - batch) ** 2) + 0.5 * w["b"] ** 2,
        init=lambda key, h: {"a": jnp.zeros(3, jnp.float32), "b": jnp.zeros((), jnp.float32)},
        constraint=bl.Functional(
            equality=lambda w, h, batch: jnp.sum(w["a"]) + w["b"] - h, inequality=lambda w, h, batch: w["a"] - h
        ),
        solver=SOLVER,
    )
    batch = jnp.array([1.0, 0.2, 0.1])
    slope, found = jax.jit(
        jax.jacfwd(lambda h: (lambda s: (s.params["a"], (s.params["b"], s.dual)))(inner.solve(h, batch)), has_aux=True)
    )(jnp.asarray(0.3))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    assert_allclose(slope, [1.0, 0.0, 0.0], atol=1e-5)
    assert_allclose(found[0], -0.1, atol=1e-5)


def test_auto_chooses_it_and_says_why():
    inner = portfolio.with_solver(bl.Auto())
    assert inner.explain(LEVELS, MEANS).startswith("bl.InteriorPoint: the set is stated by functions")


@pytest.mark.parametrize("start", [[0.0, 0.0], [0.0, 0.4]])
def test_a_saddle_is_not_a_solution(start):
    """The gradient at zero is zero, and no step from the axis leaves the axis."""
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * (w[1] - h) ** 2 - 0.5 * w[0] ** 2,
        init=lambda key, h: jnp.array(start),
        constraint=bl.Functional(inequality=lambda w, h, batch: w @ w - 1.0),
    )
    found = inner.solve(jnp.array(0.2 if start[1] else 0.0), None)
    assert found.status.name == "indefinite"
    away = replace(inner, init=lambda key, h: jnp.array([1e-3, 0.1])).solve(jnp.array(0.2), None)
    assert away.status.ok
    assert_allclose(away.params, [0.99**0.5, 0.1], atol=1e-7)


def test_refusals():
    with pytest.raises(ValueError, match=r"bl\.LBFGS cannot keep to constraints .* bl\.InteriorPoint"):
        portfolio.with_solver(bl.LBFGS())
    free = bl.InnerProblem(loss=lambda w, h, b: jnp.sum(w**2), init=lambda k, h: jnp.ones(2), solver=SOLVER)
    with pytest.raises(ValueError, match=r"constrained by functions, and this one has none"):
        free.solve(None, None)
    with pytest.raises(ValueError, match=r"bl\.Functional is known by its functions"):
        portfolio.constraint.project(jnp.zeros(4), LEVELS)
