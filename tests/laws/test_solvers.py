"""Laws of the solvers, over the product of solvers and the problems that each can do.

The value is that of a proximal gradient method written here in NumPy, its derivative that of finite differences of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
from numpy.testing import assert_allclose

import bilevel as bl

TOL = 1e-10
RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(30, 6))
TARGET = MATRIX @ np.array([1.5, -2.0, 0.0, 0.7, 0.0, -0.05]) + 0.1 * RNG.normal(size=30)
COUPLING = RNG.normal(size=(6, 6)) / 4
TARGETS = TARGET[:, None] * np.array([0.6, 0.2, 0.1])


# What NumPy knows of each problem: the gradient of the smooth part and the prox of the rest, at hyperparameter h.


def soft(x: np.ndarray, t: float) -> np.ndarray:
    return np.sign(x) * np.maximum(np.abs(x) - t, 0)


def simplex_rows(x: np.ndarray, total: float) -> np.ndarray:
    descending = -np.sort(-x, axis=1)
    excess = (np.cumsum(descending, axis=1) - total) / np.arange(1, x.shape[1] + 1)
    last = np.sum(descending > excess, axis=1) - 1
    return np.maximum(x - excess[np.arange(len(x)), last][:, None], 0)


def shrunk_rows(x: np.ndarray, t: float) -> np.ndarray:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x * np.maximum(1 - t / np.maximum(length, 1e-300), 0)


def squares_slope(w: np.ndarray) -> np.ndarray:
    return MATRIX.T @ (MATRIX @ w - TARGET) / 30


def tempered_slope(w: np.ndarray) -> np.ndarray:
    signs = np.sign(TARGET)
    return -MATRIX.T @ (signs / (1 + np.exp(signs * (MATRIX @ w)))) / 30 + 0.1 * w


def rows_slope(w: np.ndarray) -> np.ndarray:
    return MATRIX[:, :2].T @ (MATRIX[:, :2] @ w - TARGETS) / 90


def numpy_solution(gradient: Callable, prox: Callable, start: np.ndarray, step: float = 0.3) -> np.ndarray:
    w = start
    for _ in range(4000):
        w = prox(w - step * gradient(w), step)
    return w


def numpy_equilibrium(h: float) -> np.ndarray:
    w = np.zeros(6)
    for _ in range(300):
        w = np.tanh(COUPLING @ w + np.exp(h) * TARGET[:6])
    return w


ZEROS, ROWS = np.zeros(6), np.ones((2, 3)) / 3
WITNESSES: dict[str, Callable[[float], np.ndarray]] = {
    "ridge": lambda h: np.linalg.solve(MATRIX.T @ MATRIX / 30 + np.exp(h) * np.eye(6), MATRIX.T @ TARGET / 30),
    "lasso": lambda h: numpy_solution(squares_slope, lambda x, s: soft(x, s * np.exp(h)), ZEROS),
    "least squares": lambda h: WITNESSES["ridge"](h),
    "boxed least squares": lambda h: WITNESSES["box"](h),
    "logistic": lambda h: numpy_solution(tempered_slope, lambda x, s: soft(x, s * np.exp(h)), ZEROS),
    "box": lambda h: numpy_solution(squares_slope, lambda x, s: np.clip(x, -0.5, np.exp(h)), ZEROS),
    "simplex": lambda h: numpy_solution(rows_slope, lambda x, s: simplex_rows(x, np.exp(h)), ROWS, 1.5),
    "group": lambda h: numpy_solution(rows_slope, lambda x, s: shrunk_rows(x, s * np.exp(h)), ROWS, 1.5),
    "equilibrium": numpy_equilibrium,
}


@dataclass(frozen=True, eq=False)
class Case:
    inner: bl.InnerProblem
    hparams: float
    far: Any  # a start far away, not feasible
    batch: Any


def case(name: str) -> Case:
    """The problem in JAX, in the precision of the test that asks for it."""
    batch = (jnp.asarray(MATRIX), jnp.asarray(TARGET))
    zeros = lambda key, h: jnp.zeros(6)
    far, far_rows = 100.0 * jnp.ones(6), jnp.array([[100.0, -3.0, 2.0], [0.0, 1.0, 50.0]])

    def of(loss: Callable) -> bl.Linear:
        return bl.Linear(design=lambda batch: batch[0], loss=loss)

    def squares(z, w, h, batch):
        return 0.5 * jnp.mean((z - batch[1]) ** 2)

    def tempered(z, w, h, batch):  # neither quadratic nor a function of z alone
        return jnp.mean(jnp.logaddexp(0.0, -jnp.sign(batch[1]) * z)) + 0.05 * jnp.sum(w**2)

    def ridge(w, h, batch):
        return squares(batch[0] @ w, w, h, batch) + 0.5 * jnp.exp(h) * jnp.sum(w**2)

    def residuals(w, h, batch):
        return {"fit": (batch[0] @ w - batch[1]) / np.sqrt(30), "ridge": jnp.exp(0.5 * h) * w}

    def fit(w, h, batch):
        return residuals(w, h, batch)["fit"]

    def contraction(w, h, batch):
        return jnp.tanh(jnp.asarray(COUPLING) @ w + jnp.exp(h) * batch[1][:6])

    by_rows = bl.Linear(
        design=lambda batch: batch[0][:, :2],
        loss=lambda z, w, h, batch: 0.5 * jnp.mean((z - batch[1][:, None] * jnp.array([[0.6, 0.2, 0.1]])) ** 2),
    )
    box, simplex = bl.Box(lower=-0.5, upper=jnp.exp), bl.Simplex(scale=jnp.exp)
    uniform = lambda key, h: jnp.exp(h) * jnp.ones((2, 3)) / 3
    problem = bl.InnerProblem
    return {
        "ridge": lambda: Case(problem(ridge, zeros), np.log(0.3), far, batch),
        "lasso": lambda: Case(problem(of(squares), zeros, bl.L1(jnp.exp)), np.log(0.2), far, batch),
        "least squares": lambda: Case(problem(bl.LeastSquares(residuals), zeros), np.log(0.3), far, batch),
        "boxed least squares": lambda: Case(
            problem(bl.LeastSquares(fit), zeros, constraint=box), np.log(0.8), far, batch
        ),
        "logistic": lambda: Case(problem(of(tempered), zeros, bl.L1(jnp.exp)), np.log(0.05), far, batch),
        "box": lambda: Case(problem(of(squares), zeros, constraint=box), np.log(0.8), far, batch),
        "simplex": lambda: Case(problem(by_rows, uniform, constraint=simplex), np.log(1.2), far_rows, batch),
        "group": lambda: Case(problem(by_rows, uniform, bl.GroupLasso(jnp.exp)), np.log(0.1), far_rows, batch),
        "equilibrium": lambda: Case(problem.from_fixed_point(contraction, zeros), np.log(0.5), 0.1 * far, batch),
    }[name]()


def on_the_host(w: np.ndarray, h: Any, batch: Any) -> np.ndarray:
    return WITNESSES["ridge"](float(h))


SOLVERS: dict[str, bl.Solver] = {
    "GradientDescent": bl.GradientDescent(max_steps=5000, tol=TOL),
    "LBFGS": bl.LBFGS(tol=TOL),
    "Newton": bl.Newton(tol=TOL),
    "Broyden": bl.Broyden(tol=TOL),
    "ProximalGradient": bl.ProximalGradient(tol=TOL),
    "SpectralProximalGradient": bl.SpectralProximalGradient(tol=TOL),
    "ActiveSetNewton": bl.ActiveSetNewton(tol=TOL),
    "BlockCoordinateDescent": bl.BlockCoordinateDescent(tol=TOL),
    "WorkingSet": bl.WorkingSet(bl.BlockCoordinateDescent(), sizes=(3,), tol=TOL),
    "WorkingSet-Newton": bl.WorkingSet(sizes=(3,), tol=TOL),
    "ProximalNewton": bl.ProximalNewton(tol=TOL),
    "LBFGSB": bl.LBFGSB(tol=TOL),
    "MirrorDescent": bl.MirrorDescent(tol=1e-9),
    "FixedPointIteration": bl.FixedPointIteration(tol=TOL),
    "Anderson": bl.Anderson(tol=TOL),
    "Host": bl.Host(on_the_host, tol=TOL),
    "SciPy-BFGS": bl.SciPy("BFGS", tol=1e-7),
    "SciPy-LBFGSB": bl.SciPy("L-BFGS-B", tol=1e-7),
    "SciPy-hybr": bl.SciPy("hybr", tol=1e-9),
    "Optimistix": bl.Optimistix(optimistix.BFGS(rtol=1e-10, atol=1e-10), tol=1e-7),
    "Auto": bl.Auto(),
}
# Solvers of programs, those that take an object of another package, and those whose steps follow from values of the
# loss, which need a known minimum or more steps than the laws allow: tests of their own.
ELSEWHERE = (
    "ArmijoSGD", "PolyakSGD", "Clarabel", "FIRE", "InteriorPoint", "OperatorSplitting", "Optax", "ScikitLearn",
)  # fmt: skip
COMPOSITE = (
    "ProximalGradient", "SpectralProximalGradient", "ActiveSetNewton", "BlockCoordinateDescent", "WorkingSet",
    "WorkingSet-Newton", "Auto",
)  # fmt: skip
CAN = {
    "ridge": (
        "GradientDescent", "LBFGS", "Newton", "Broyden", "ActiveSetNewton", "SciPy-BFGS", "Optimistix", "Host", "Auto",
    ),
    "least squares": ("LBFGS", "Newton", "Auto"),
    "boxed least squares": ("LBFGSB", "ActiveSetNewton", "Auto"),
    "lasso": (*COMPOSITE, "ProximalNewton"),
    "logistic": (*COMPOSITE, "ProximalNewton"),
    "box": (*COMPOSITE, "ProximalNewton", "LBFGSB", "SciPy-LBFGSB"),
    "simplex": (*COMPOSITE, "MirrorDescent"),
    "group": COMPOSITE,
    "equilibrium": ("FixedPointIteration", "Anderson", "Broyden", "Newton", "SciPy-hybr", "Auto"),
}  # fmt: skip


def listed_nowhere() -> dict[str, bl.Solver]:
    """The solvers that the package exports and no table here lists, by their names: with their default settings."""
    known = {type(solver) for solver in SOLVERS.values()} | {getattr(bl, name) for name in ELSEWHERE}
    classes = (getattr(bl, name) for name in bl.solvers.__all__ if hasattr(bl, name))
    found = [one for one in classes if inspect.isclass(one) and issubclass(one, bl.Solver) and one not in known]
    return {one.__name__: one() for one in found if one is not bl.Solver}


def takes(solver: bl.Solver, name: str) -> bool:
    """Whether the problem is to minimise and the solver does not refuse it."""
    at = case(name)
    if at.inner.optimality is not None:
        return False  # stated by a residual: such solvers are listed
    try:
        solver.refuse(at.inner.at(jnp.asarray(at.hparams), at.batch))
    except ValueError:
        return False
    return True


SOLVERS |= (LISTED_NOWHERE := listed_nowhere())  # obey the laws on every problem that they do not refuse
CAN = {
    name: (*solvers, *(own for own, solver in LISTED_NOWHERE.items() if takes(solver, name)))
    for name, solvers in CAN.items()
}


def pairs(*, only: Callable[[str], bool] = lambda solver: True) -> list:
    """All pairs of a problem and a solver that can do it."""
    return [
        pytest.param(name, solver, id=f"{name}-{solver}")
        for name, solvers in CAN.items()
        for solver in solvers
        if only(solver)
    ]


def true_residual(inner: bl.InnerProblem, params: Any, hparams: float, batch: Any) -> float:
    """The natural residual by another way than the solver's: relative to that of the cold start."""
    size = lambda w: float(jnp.linalg.norm(inner.mapping.natural_residual(w, hparams, batch)))
    return size(params) / size(inner.init(jax.random.key(0), hparams))


@pytest.mark.sample(1)
@pytest.mark.parametrize(("name", "solver"), pairs())
def test_value_status_residual_and_starts(name, solver):
    at = case(name)
    inner = at.inner.with_solver(SOLVERS[solver])
    solve = jax.jit(lambda h, start: inner.solve(h, at.batch, init=start))
    cold = solve(at.hparams, inner.init(jax.random.key(0), at.hparams))
    exact = WITNESSES[name](at.hparams)
    tol = SOLVERS[solver].tol
    assert cold.status.name == "converged"
    assert_allclose(cold.params, exact, atol=100 * float(tol))
    assert float(cold.residual) <= float(tol)
    assert_allclose(float(cold.residual), true_residual(inner, cold.params, at.hparams, at.batch), atol=1e-14)
    warm = solve(at.hparams, cold.params)
    assert int(warm.steps) <= 1 and warm.status.name == "converged"
    far = solve(at.hparams, at.far)
    assert far.status.name == "converged"
    assert_allclose(far.params, exact, atol=100 * float(tol))


@pytest.mark.slow
@pytest.mark.sample(5)
@pytest.mark.parametrize(("name", "solver"), pairs(only=lambda solver: solver != "Auto"))
def test_the_status_is_honest_when_steps_run_out(name, solver):
    at = case(name)
    inner = at.inner.with_solver(replace(SOLVERS[solver], max_steps=1))
    solution = inner.solve(at.hparams, at.batch, init=at.far)
    residual = true_residual(inner, solution.params, at.hparams, at.batch)
    assert_allclose(float(solution.residual), residual, rtol=1e-6, atol=1e-14)
    assert solution.status.name == ("converged" if residual <= SOLVERS[solver].tol else "max_steps")


@pytest.mark.sample(1)
@pytest.mark.parametrize(("name", "solver"), pairs())
def test_derivative_and_vmap(name, solver):
    at = case(name)
    inner = at.inner.with_solver(SOLVERS[solver])
    lanes = jnp.array([at.hparams, at.hparams - 0.2, at.hparams + 0.1])
    batched = jax.jit(jax.vmap(jax.jacrev(lambda h: inner.solve(h, at.batch).params)))(lanes)
    values = jax.jit(jax.vmap(lambda h: inner.solve(h, at.batch).params))(lanes)
    scale = 1e3 * float(SOLVERS[solver].tol)
    for lane, h in enumerate(np.asarray(lanes)):
        assert_allclose(values[lane], WITNESSES[name](h), atol=scale)
        slope = (WITNESSES[name](h + 1e-5) - WITNESSES[name](h - 1e-5)) / 2e-5
        assert_allclose(batched[lane], slope, atol=1e-8 + scale)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("name", "solver"), pairs(only=lambda name: name != "Auto" and SOLVERS[name].unrolls and name != "Newton")
)
def test_unrolled_is_implicit(name, solver):
    at = case(name)
    inner = at.inner.with_solver(replace(SOLVERS[solver], max_steps=100))
    task = bl.Task(
        inner=inner,
        outer_loss=lambda w, h, batch: jnp.sum(jnp.sin(w)),
        init_hparams=lambda key: jnp.asarray(at.hparams),
        batches=bl.full_batch(at.batch, None),
    )
    exact = np.sum(
        np.cos(WITNESSES[name](at.hparams))
        * (WITNESSES[name](at.hparams + 1e-5) - WITNESSES[name](at.hparams - 1e-5)) / 2e-5
    )  # fmt: skip
    _, slope, _ = bl.hypergradient(task, jnp.asarray(at.hparams), bl.Unrolled())
    assert_allclose(slope, exact, atol=1e-6)


@pytest.mark.sample(1)
@pytest.mark.parametrize("check", ["rank promotion", "leaks"])
@pytest.mark.parametrize(("name", "solver"), pairs())
def test_traces_are_clean(name, solver, check):
    """Of a batch of gradients, under JAX's own checks; nothing is compiled."""
    at = case(name)
    inner = at.inner.with_solver(SOLVERS[solver])
    guard = jax.numpy_rank_promotion("raise") if check == "rank promotion" else jax.checking_leaks()
    with guard:
        total = jax.grad(lambda h: jnp.sum(inner.solve(h, at.batch).params))
        jax.jit(jax.vmap(total)).trace(jnp.array([at.hparams, at.hparams]))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "solver"), pairs())
def test_no_nan_is_made_on_the_way(name, solver):
    """Of a value and a gradient, in eager calls: within one compiled program JAX looks at the results alone."""
    at = case(name)
    inner = at.inner.with_solver(SOLVERS[solver])
    with jax.debug_nans(True):
        total, slope = jax.value_and_grad(lambda h: jnp.sum(inner.solve(h, at.batch).params))(jnp.asarray(at.hparams))
    assert_allclose(total, np.sum(WITNESSES[name](at.hparams)), atol=1e3 * float(SOLVERS[solver].tol))
    assert np.isfinite(slope)


@pytest.mark.parametrize("solver", [name for name, solver in SOLVERS.items() if not solver.unrolls])
def test_solvers_that_do_not_unroll_say_so(solver):
    name = next(name for name, solvers in CAN.items() if solver in solvers)
    at = case(name)
    task = bl.Task(
        inner=at.inner.with_solver(SOLVERS[solver]),
        outer_loss=lambda w, h, batch: jnp.sum(w),
        init_hparams=lambda key: jnp.asarray(at.hparams),
        batches=bl.full_batch(at.batch, None),
    )
    with pytest.raises(ValueError, match=r"differentiates the steps of the solver.*Use bl.Implicit"):
        bl.hypergradient(task, jnp.asarray(at.hparams), bl.Unrolled())
