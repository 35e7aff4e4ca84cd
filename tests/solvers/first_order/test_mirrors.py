"""Mirror descent beyond the rows of one simplex; Anderson acceleration of steps; steps from values; line searches."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl

TARGET = {"a": np.array([0.7, 0.5, -1.0]), "b": np.array([[1.0, 0.2], [0.1, 0.9]]), "c": np.array([0.3, -2.0])}


def distance(w, h, batch):
    terms = jax.tree.map(lambda a, b: 0.5 * jnp.sum((a - b) ** 2), w, h)
    return jnp.sum(jnp.stack(jax.tree.leaves(terms)))


def solve(problem, h):
    return problem.solve(h, None)


@pytest.mark.slow
def test_a_product_of_simplices_an_orthant_and_a_free_part():
    parts = {"a": bl.Simplex(), "b": bl.Simplex(scale=2.0), "c": bl.NonNegative(), "d": bl.Zero()}
    target = {**TARGET, "d": np.array([-3.0])}
    start = lambda key, h: jax.tree.map(jnp.ones_like, h)
    solver = bl.MirrorDescent(tol=1e-9, max_steps=20_000)
    problem = bl.InnerProblem(distance, start, penalty=bl.Parts(parts), solver=solver)
    found = solve(problem, target)
    wanted = {name: part.prox(target[name], 1.0, None) for name, part in parts.items()}
    assert found.status.name == "converged"
    for name in parts:
        assert_allclose(found.params[name], wanted[name], atol=1e-7)
    moved = jax.jacobian(lambda c: solve(problem, {**target, "c": c}).params["c"])(target["c"])
    assert_allclose(moved, np.diag([1.0, 0.0]), atol=1e-7)


@pytest.mark.slow
def test_the_orthant_from_zero():
    """A coordinate that starts at zero and should grow does; one that should not stays."""
    loss = lambda w, h, batch: jnp.sum(jnp.array([1.0, 50.0, 1.0]) * (w - h) ** 2)
    problem = bl.InnerProblem(
        loss, lambda key, h: jnp.zeros(3), constraint=bl.NonNegative(), solver=bl.MirrorDescent(tol=1e-8)
    )
    found = solve(problem, jnp.array([2.0, 1.0, -1.0]))
    assert_allclose(found.params, [2.0, 1.0, 0.0], atol=1e-6)
    assert found.status.name == "converged"


@pytest.mark.slow
def test_a_mirror_map_of_the_users():
    """The hyperbolic tangent maps the box (-1, 1) from its dual space; weights make the losses of the sides differ."""
    condition = bl.optimality.MirrorDescent(
        lambda w, h, batch: jnp.sum(jnp.array([1.0, 3.0]) * (w - h) ** 2), lambda y, *args: jnp.tanh(y), jnp.arctanh
    )
    problem = bl.InnerProblem(
        condition.loss, lambda key, h: jnp.zeros(2), optimality=condition, solver=bl.MirrorDescent(tol=1e-9)
    )
    h = jnp.array([0.5, -0.3])
    assert_allclose(solve(problem, h).params, h, atol=1e-8)
    assert_allclose(jax.jacobian(lambda h: solve(problem, h).params)(h), np.eye(2), atol=1e-6)


def test_mirror_descent_refuses_what_it_cannot_keep():
    problem = bl.InnerProblem(
        distance, lambda key, h: h, penalty=bl.Parts({"a": bl.L2Ball()}), solver=bl.MirrorDescent()
    )
    with pytest.raises(ValueError, match="would ignore Parts"):
        problem.solve({"a": jnp.ones(2)}, None)
    free = bl.InnerProblem(distance, lambda key, h: h, solver=bl.MirrorDescent())
    with pytest.raises(ValueError, match="would ignore Zero|would ignore Free"):
        free.solve(jnp.ones(2), None)


CURVES = np.geomspace(1.0, 300.0, 6)


def ill_conditioned(w, h, batch):
    return 0.5 * jnp.sum(CURVES * (w["a"] - h) ** 2) + 0.5 * jnp.sum(w["b"] ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("constraint", [bl.Free(), bl.Box(upper=0.4)])
def test_anderson_steps_of_another_solver(constraint):
    start = lambda key, h: {"a": jnp.zeros(6), "b": jnp.ones(2)}
    plain = bl.ProximalGradient(step_size=1 / 300, acceleration=False, tol=1e-9, max_steps=20_000)
    steps = {}
    for name, solver in {"plain": plain, "accelerated": bl.AndersonWrapper(plain, tol=1e-9)}.items():
        problem = bl.InnerProblem(ill_conditioned, start, constraint=constraint, solver=solver)
        found = problem.solve(jnp.linspace(0.1, 0.6, 6), None)
        assert found.status.name == "converged"
        assert_allclose(found.params["a"], constraint.project(jnp.linspace(0.1, 0.6, 6), None), atol=1e-6)
        steps[name] = int(found.steps)
    assert steps["accelerated"] < 0.2 * steps["plain"]
    moved = jax.jacobian(lambda h: problem.solve(h, None).params["a"])(jnp.full(6, 0.2))
    assert_allclose(moved, np.eye(6), atol=1e-6)


@pytest.mark.slow
def test_anderson_steps_pass_jit_and_vmap():
    problem = bl.InnerProblem(
        ill_conditioned,
        lambda key, h: {"a": jnp.zeros(6), "b": jnp.ones(2)},
        solver=bl.AndersonWrapper(bl.GradientDescent(), tol=1e-8),
    )
    several = jnp.linspace(0.1, 0.6, 12).reshape(2, 6)
    found = jax.jit(jax.vmap(lambda h: problem.solve(h, None)))(several)
    assert np.all(np.asarray(found.status.code) <= bl.Code.stalled)
    assert_allclose(found.params["a"], several, atol=1e-6)
    assert np.max(found.steps) <= 20  # as for a fixed step size; the steps of the solver alone do not end in 1,000


DESIGN = np.random.default_rng(0).standard_normal((30, 8)) * np.geomspace(1, 10, 8)
TARGETS = np.random.default_rng(1).standard_normal(30)


def squares(w, h, batch):
    return 0.5 * jnp.mean((DESIGN.astype(w.dtype) @ w - TARGETS.astype(w.dtype) - h) ** 2)


def wrapped_problems(dtype):
    """Each solver to wrap with a problem of its kind, and the share of its own steps that is enough."""
    zeros, uniform = lambda key, h: jnp.zeros(8, dtype), lambda key, h: jnp.full(8, 1 / 8, dtype)
    linear = bl.Linear(lambda batch: DESIGN.astype(dtype), lambda z, w, h, batch: 0.5 * jnp.mean((z - h) ** 2))
    contraction = 0.9 * np.linalg.qr(DESIGN)[1].astype(dtype) / np.linalg.norm(DESIGN, 2).astype(dtype)
    plain = bl.ProximalGradient(acceleration=False)
    return {
        "gradient": (bl.GradientDescent(), bl.InnerProblem(squares, zeros), 0.2),
        "l1": (plain, bl.InnerProblem(squares, zeros, penalty=bl.L1(weight=0.05)), 0.5),
        "box": (plain, bl.InnerProblem(squares, zeros, constraint=bl.Box(lower=0.0)), 0.5),
        "momentum": (bl.ProximalGradient(), bl.InnerProblem(squares, zeros, penalty=bl.L1(weight=0.05)), 1.0),
        "mirror": (bl.MirrorDescent(), bl.InnerProblem(squares, uniform, constraint=bl.Simplex()), 0.5),
        "blocks": (bl.BlockCoordinateDescent(), bl.InnerProblem(linear, zeros, penalty=bl.L1(weight=0.05)), 1.0),
        "fixed point": (
            bl.FixedPointIteration(),
            bl.InnerProblem.from_fixed_point(lambda w, h, batch: jnp.tanh(contraction @ w) + h, zeros),
            0.7,
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("dtype, tol", [(np.float64, 1e-9), (np.float32, 1e-4)])
@pytest.mark.parametrize("kind", wrapped_problems(np.float64))
def test_accelerated_steps_lead_where_those_of_the_solver_lead(kind, dtype, tol):
    """Under jit and vmap, with steps that are searched: in fewer steps to the same point, with the same derivative."""
    solver, statement, share = wrapped_problems(dtype)[kind]
    several = jnp.asarray([-0.2, 0.1, 0.3], dtype)
    found = {}
    for name, chosen in {"own": solver, "accelerated": bl.AndersonWrapper(solver, max_steps=6000)}.items():
        problem = replace(statement, solver=replace(chosen, tol=tol, max_steps=6000))
        found[name] = jax.jit(jax.vmap(lambda h, problem=problem: problem.solve(h, None)))(several)
        assert np.all(np.asarray(found[name].status.code) <= bl.Code.stalled)
        assert found[name].params.dtype == dtype
        slopes = jax.vmap(jax.jacobian(lambda h, problem=problem: problem.solve(h, None).params))(several)
        found[name] = found[name], slopes
    (own, own_slopes), (accelerated, slopes) = found["own"], found["accelerated"]
    assert_allclose(accelerated.params, own.params, atol=200 * tol)
    assert_allclose(slopes, own_slopes, atol=1e-3 if dtype == np.float32 else 1e-6)
    assert np.max(accelerated.steps) <= share * np.max(own.steps)


@pytest.mark.slow
def test_accelerated_blocks_keep_the_parts_of_the_loss_where_steps_are_unrolled():
    linear = bl.Linear(lambda batch: DESIGN, lambda z, w, h, batch: 0.5 * jnp.mean((z - TARGETS - h) ** 2))
    gradients = []
    for solver in (bl.BlockCoordinateDescent(), bl.AndersonWrapper(bl.BlockCoordinateDescent(), max_steps=100)):
        task = bl.Task(
            inner=bl.InnerProblem(linear, lambda key, h: jnp.zeros(8), penalty=bl.L1(weight=0.05), solver=solver),
            outer_loss=lambda w, h, batch: jnp.sum((w - 1) ** 2),
            init_hparams=lambda key: jnp.array(0.1),
            batches=bl.full_batch(None, None),
        )
        gradients.append(bl.hypergradient(task, jnp.array(0.1), engine=bl.Unrolled())[1])
    assert_allclose(gradients[1], gradients[0], rtol=1e-6)


@pytest.mark.parametrize("solver", [bl.PolyakSGD(tol=1e-7), bl.ArmijoSGD(tol=1e-7), bl.ArmijoSGD(momentum=0.5)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_steps_from_values(solver, dtype):
    start = lambda key, h: {"a": jnp.zeros(6, dtype), "b": jnp.ones(2, dtype)}
    gentle = lambda w, h, batch: 0.5 * jnp.sum((w["a"] - h) ** 2) + jnp.sum(w["b"] ** 2)
    problem = bl.InnerProblem(gentle, start, solver=solver)
    h = jnp.linspace(0.1, 0.6, 6, dtype=dtype)
    found = problem.solve(h, None)
    assert bool(found.status.ok)
    assert_allclose(found.params["a"], h, atol=1e-4)
    assert found.params["a"].dtype == dtype


def test_polyak_steps_never_climb_below_the_stated_least_value():
    problem = bl.InnerProblem(
        lambda w, h, batch: jnp.sum(w**2), lambda key, h: jnp.ones(2), solver=bl.PolyakSGD(least=1.0, max_steps=50)
    )
    assert float(jnp.sum(problem.solve(None, None).params ** 2)) <= 2.0


@pytest.mark.parametrize("condition", ["armijo", "wolfe", "strong-wolfe"])
def test_a_line_search_satisfies_its_condition(condition):
    loss = lambda w: jnp.sum(jnp.array([1.0, 3.0]) * w["x"] ** 4 - w["x"] ** 2)
    start = {"x": jnp.array([2.0, -1.0])}
    slope_of = jax.grad(loss)
    direction = jax.tree.map(jnp.negative, slope_of(start))
    slope = -float(jnp.sum(direction["x"] ** 2))
    for first in (1e-4, 1.0, 100.0):
        found = bl.line_search(loss, start, direction, first=first, condition=condition, sufficient=1e-3, curvature=0.5)
        assert bool(found.accepted)
        assert_allclose(found.params["x"], start["x"] + found.step * direction["x"])
        assert float(found.value) <= float(loss(start)) + 1e-3 * float(found.step) * slope
        after = float(jnp.vdot(slope_of(found.params)["x"], direction["x"]))
        assert condition == "armijo" or after >= 0.5 * slope
        assert condition != "strong-wolfe" or abs(after) <= 0.5 * abs(slope)


def test_a_line_search_is_bounded_jitted_and_refuses():
    falling = lambda w: -w
    found = jax.jit(lambda: bl.line_search(falling, jnp.array(0.0), jnp.array(1.0), largest=7.0))()
    assert float(found.step) == 7.0
    uphill = bl.line_search(jnp.square, jnp.array(1.0), jnp.array(1.0))
    assert not bool(uphill.accepted)
    assert float(uphill.step) == 0.0
    with pytest.raises(ValueError, match="armijo, wolfe, strong-wolfe"):
        bl.line_search(jnp.square, jnp.array(1.0), jnp.array(1.0), condition="goldstein")
