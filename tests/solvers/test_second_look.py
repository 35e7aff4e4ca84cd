"""A residual that is small because other coordinates have larger units proves no minimum: the objective tells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.solvers.curvature import convex_in_predictions, is_told_by_predictions
from bilevel.solvers.lanczos import PRODUCTS

UNITS = np.array([1e8, 1.0, 1e-8, 1.0])
LANES = 6


def design(seed, units, rows=30):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, units.size)) * units
    return X, 3 * rng.normal(size=rows) + X @ (np.where(np.arange(units.size) == 3, 0, 1) / units)


def loss(w, h, batch):
    X, y = batch
    return 0.5 * jnp.mean((X @ w["v"] - y) ** 2)


def problem(units, solver, **parts):
    return bl.InnerProblem(loss=loss, init=lambda key, h: {"v": jnp.zeros(units.size)}, solver=solver, **parts)


SOLVERS = [bl.ProximalGradient(), bl.ProximalGradient(tol=1e-5), bl.SpectralProximalGradient()]


@pytest.mark.sample(1)
@pytest.mark.parametrize("solver", SOLVERS, ids=["accelerated", "loose", "spectral"])
def test_a_lasso_with_columns_in_units_of_their_own_is_solved_or_says_no(solver):
    """Each of these was `converged` at least 14 % above the minimum, in some of the lanes."""
    even = np.ones(4)
    weight = lambda units: bl.L1(weight={"v": jnp.asarray(0.1 * units)})
    data = [jnp.stack(part) for part in zip(*(design(seed, UNITS) for seed in range(LANES)), strict=True)]
    uneven = problem(UNITS, solver, penalty=weight(UNITS))
    found = jax.vmap(lambda *batch: uneven.solve(1.0, batch))(*data)
    right = problem(even, bl.Auto(), penalty=weight(even))
    for lane in range(LANES):
        X, y = data[0][lane] / UNITS, data[1][lane]
        best = right.solve(1.0, (X, y)).params["v"]
        objective = lambda v, X=X, y=y: float(loss({"v": v}, 1.0, (X, y)) + 0.1 * jnp.sum(jnp.abs(v)))
        above = objective(found.params["v"][lane] * UNITS) - objective(best)
        assert above <= 0.02 * (objective(np.zeros(4)) - objective(best)) or found.status.code[lane] != 0
    assert np.any(np.asarray(found.status.code) == 0)


def test_many_unknowns_in_units_of_their_own():
    """Beyond the sizes where a matrix is built: no point is `converged` more than 1 % above."""
    units = 10.0 ** np.random.default_rng(5).integers(-4, 5, size=40)
    X, y = design(0, units, rows=80)
    least = 0.5 * np.mean((X / units @ np.linalg.lstsq(X / units, y)[0] - y) ** 2)
    fall = 0.5 * np.mean(y**2) - least
    for solver in (bl.ProximalGradient(max_steps=2000), bl.SpectralProximalGradient(max_steps=2000)):
        inner = problem(units, solver, penalty=bl.L1(weight=0.0))
        found = inner.solve(1.0, (X, y))
        assert float(loss(found.params, 1.0, (X, y))) - least <= 0.02 * fall or found.status.name == "max_steps"


def test_well_scaled_problems_are_judged_as_before():
    """One look, no further steps, in float32 too."""
    X, y = design(1, np.ones(40), rows=80)
    inner = problem(np.ones(40), bl.ProximalGradient(tol=1e-3), penalty=bl.L1(weight=0.1))
    found = inner.solve(1.0, (X, y))
    assert found.status.name == "converged" and float(found.residual) > 1e-6
    assert int(found.counts.hessian_products) <= PRODUCTS + 6


def test_a_set_keeps_the_point_of_the_step_feasible():
    units = np.array([1e4, 1.0])
    X, y = design(2, units)
    inner = problem(units, bl.ProximalGradient(), constraint=bl.Box(lower=0.0, upper=1.5))
    found = inner.solve(1.0, (X, y))
    w = np.asarray(found.params["v"])
    assert np.all(w >= 0) and np.all(w <= 1.5)
    slope = np.asarray(jax.grad(loss)(found.params, 1.0, (X, y))["v"])
    left = np.clip(w - slope / units**2, 0, 1.5) - w
    assert found.status.name == "max_steps" or np.max(np.abs(left)) < 1e-6


def least_objective(X, y, weight):
    """The minimum of the lasso, by proximal gradient steps in NumPy on columns of one unit."""
    w, step = np.zeros(X.shape[1]), len(y) / np.linalg.norm(X, 2) ** 2
    for _ in range(1000):
        w = w - step * X.T @ (X @ w - y) / len(y)
        w = np.sign(w) * np.maximum(np.abs(w) - step * weight, 0)
    return 0.5 * np.mean((X @ w - y) ** 2) + weight * np.sum(np.abs(w))


@pytest.mark.sample(1)
@pytest.mark.parametrize("solver", [bl.ProximalGradient(), bl.SpectralProximalGradient()])
def test_in_single_precision_too_no_lasso_is_converged_far_above_its_minimum(solver):
    """Lane by lane: columns of one unit are `converged`, and columns of 1e3 and 1e-3 are solved or say no."""
    units = np.array([1e3, 1.0, 1e-3, 1.0], np.float32)
    uneven = [design(seed, units) for seed in range(LANES)]
    lanes = [(X / units, y, scale) for X, y in uneven for scale in (units, np.ones_like(units))]
    with jax.enable_x64(False):
        inner = bl.InnerProblem(
            loss=lambda w, h, batch: loss(w, h, batch[:2]),
            init=lambda key, h: {"v": jnp.zeros(units.size)},
            penalty=bl.L1(weight=lambda h: {"v": 0.1 * h}),
            solver=solver,
        )
        data = [jnp.asarray(np.stack(part), jnp.float32) for part in zip(*lanes, strict=True)]
        found = jax.vmap(lambda X, y, scale: inner.solve(scale, (X * scale, y)))(*data)
    for (X, y, scale), w, code in zip(lanes, np.asarray(found.params["v"]), np.asarray(found.status.code), strict=True):
        even = np.float64(w) * scale
        objective = 0.5 * np.mean((X @ even - y) ** 2) + 0.1 * np.sum(np.abs(even))
        least = least_objective(X, y, 0.1)
        close = objective - least <= 0.02 * (0.5 * np.mean(y**2) - least)
        solved = (code == bl.Code.converged) if np.all(scale == 1) else (code <= bl.Code.stalled)
        assert close if solved else np.any(scale != 1), (code, objective - least)


@pytest.mark.parametrize("power", [1.5, 2.0])
def test_beside_a_hessian_that_is_not_finite_a_lack_of_progress_is_no_floor(power):
    """Steps of no length, from a start that is solved to half of the digits: only beside a finite Hessian `stalled`."""

    def flat(w, h, batch):
        # The derivative of x**1.5 at 0 is 0, and its second derivative infinite.
        return 0.5 * jnp.sum((w["a"] - 1) ** 2) + jnp.sum(jnp.maximum(w["b"], 0) ** power)

    start = {"a": jnp.zeros(2), "b": -jnp.ones(1)}
    inner = bl.InnerProblem(flat, lambda key, h: start, solver=bl.GradientDescent(step_size=1e-20, tol=1e-12))
    near = lambda away: start | {"a": jnp.ones(2) + away}
    found = jax.vmap(lambda away: inner.solve(1.0, None, init=near(away)))(jnp.array([1e-9, 0.0]))
    expected = bl.Code.max_steps if power == 1.5 else bl.Code.stalled
    assert found.status.code.tolist() == [expected, bl.Code.converged]


@pytest.mark.sample(1)
@pytest.mark.parametrize("power", [1.5, 2.0])
@pytest.mark.parametrize("solver", [bl.Newton(), bl.Newton(linear_solve=bl.CG()), bl.LBFGS(), bl.ProjectedNewton()])
def test_no_method_of_second_order_blames_the_precision_for_a_hessian_that_is_not_finite(power, solver):
    def flat(w, h, batch):
        return 0.5 * jnp.sum((w["a"] - 1) ** 2) + jnp.sum(jnp.maximum(w["b"], 0) ** power)

    start = {"a": jnp.zeros(2), "b": -jnp.ones(1)}
    bounds = bl.Box(-5.0, 5.0) if isinstance(solver, bl.ProjectedNewton) else bl.Free()
    inner = bl.InnerProblem(flat, lambda key, h: start, solver=solver, constraint=bounds)
    near = lambda away: start | {"a": jnp.ones(2) + away}
    found = jax.vmap(lambda away: inner.solve(1.0, None, init=near(away)))(jnp.array([1e-9, 0.0]))
    codes = found.status.code.tolist()
    assert codes[1] == bl.Code.converged
    assert codes[0] == bl.Code.converged or (power == 1.5 and codes[0] > bl.Code.stalled)


@pytest.mark.parametrize("solver", [bl.Newton(tol=1e-12), bl.Broyden(tol=1e-12)])
def test_a_root_beside_a_jacobian_that_is_not_finite_is_no_floor(solver):
    """The derivative of the root of max(b, 0) is NaN at b = -1, by infinity times 0."""

    def residual(w, h, batch):
        return {"a": w["a"] - 1, "b": w["b"] + 1 + jnp.sqrt(jnp.maximum(w["b"], 0))}

    inner = bl.InnerProblem.from_residual(residual, lambda key, h: {"a": jnp.zeros(2), "b": jnp.zeros(1)}, solver)
    near = {"a": jnp.ones(2) + 1e-9, "b": -jnp.ones(1)}
    assert inner.solve(1.0, None, init=near).status.name == "nonfinite"


def squares(z, w, h, batch):
    return 0.5 * jnp.mean((z - batch[1]) ** 2)


def weighted(z, w, h, batch):
    return squares(z, w, h, batch) + 0.05 * jnp.sum(w**2)


def coupled(z, w, h, batch):
    """Bends up, but neighbours in z meet."""
    return squares(z, w, h, batch) + 0.1 * jnp.mean((z[1:] - z[:-1]) ** 2)


def meeting(z, w, h, batch):
    """Each of the first entries of z meets the entry of w with its number."""
    return squares(z, w, h, batch) + 1e-3 * jnp.sum(z[: w.size] * w) + jnp.sum(w**2)


def pair(z, w, h, batch):
    """Two samples meet, more than they bend up."""
    return squares(z, w, h, batch) + z[7] * z[8]


def weighted_samples(z, w, h, batch):
    return 0.5 * jnp.mean(jnp.where(jnp.arange(z.size) < 40, 1.0, 1e-8) * (z - batch[1]) ** 2)


def weighted_params(z, w, h, batch):
    return 1e-6 * squares(z, w, h, batch) + 0.5 * jnp.sum(jnp.where(jnp.arange(w.size) < 20, 1.0, 1e-6) * w**2)


def wells(z, w, h, batch):
    """A saddle at z = 0, with a minimum on both sides."""
    return jnp.mean(z**4 / 4 - z**2 / 2) + 0.05 * jnp.sum(w**2)


def bent(z, w, h, batch):
    """Bends up in z and down in w, along which the gradient of the whole still grows."""
    return squares(z, w, h, batch) - 1e-3 * jnp.sum(w**2)


def linear(loss, size=40, **parts):
    stated = bl.Linear(design=lambda batch: batch[0], loss=loss)
    return bl.InnerProblem(loss=stated, init=lambda key, h: jnp.zeros(size), **parts)


@pytest.mark.parametrize("loss", [squares, weighted])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_linear_model_whose_loss_bends_up_needs_no_products(loss, dtype):
    """What X does is not looked at; where its columns have units of their own, it is."""
    X, y = (jnp.asarray(part, dtype) for part in design(1, np.ones(40), rows=80))
    start, stated = jnp.zeros(40, dtype), bl.Linear(design=lambda batch: batch[0], loss=loss)
    solver = bl.ProximalGradient(tol=1e-3)
    inner = bl.InnerProblem(stated, lambda key, h: start, penalty=bl.L1(weight=0.1), solver=solver)
    found, uneven = (inner.solve(1.0, (X * units, y)) for units in (1.0, jnp.where(start.at[3].set(1), 20, 1)))
    assert found.status.name == "converged" and found.order == "second order" and float(found.curvature) == 0
    assert int(found.counts.hessian_products) == 0 and found.params.dtype == dtype
    assert int(uneven.counts.hessian_products) >= PRODUCTS


class Dented(bl.Penalty):
    """A term of which nothing is known but its prox and value."""

    def prox(self, point, step_size, hparams):
        return point

    def value(self, params, hparams):
        return jnp.zeros(())


@pytest.mark.parametrize(
    ("loss", "penalty", "size", "known"),
    [
        (squares, bl.L1(weight=0.1), 40, True),
        (weighted, bl.Parts(bl.L1(weight=0.1)), 40, True),
        (squares, bl.Parts(bl.L2Sphere()), 40, False),
        (squares, bl.L2Sphere(), 40, False),
        (squares, bl.SparseSimplex(max_nonzeros=2), 40, False),
        (squares, Dented(), 40, False),
        (squares, bl.Ridge(weight=0.1), 40, True),
        (squares, bl.Ridge(weight=-0.1), 40, False),
        (squares, bl.Ridge(weight=jnp.ones(40).at[3].set(-0.1)), 40, False),
        (wells, bl.Zero(), 40, False),
        (bent, bl.Zero(), 40, False),
        (coupled, bl.Zero(), 40, False),
        (meeting, bl.Zero(), 40, False),
        (pair, bl.Zero(), 40, False),
        (weighted_params, bl.Zero(), 40, False),
        (squares, bl.Zero(), 20, False),
    ],
    ids=[
        "lasso",
        "ridge beside",
        "a sphere in parts",
        "sphere",
        "sparse",
        "unknown",
        "ridge",
        "negative ridge",
        "one negative weight",
        "wells",
        "bent",
        "neighbours",
        "z and w",
        "a pair",
        "weights of params",
        "few unknowns",
    ],
)
def test_what_counts_as_known_to_bend_up(loss, penalty, size, known):
    X, y = design(1, np.ones(size), rows=80)
    instance, w = linear(loss, size, penalty=penalty).at(1.0, (jnp.asarray(X), jnp.asarray(y))), jnp.zeros(size)
    assert (is_told_by_predictions(instance, w) and bool(convex_in_predictions(instance, w))) == known


def test_columns_that_only_light_samples_see_have_units_of_their_own():
    """The columns have one length, and the curvature along them differs by 1e8."""
    X, y = design(1, np.ones(40), rows=80)
    X = np.where((np.arange(80)[:, None] < 40) == (np.arange(40) < 20), X, 0)
    instance = linear(weighted_samples).at(1.0, (jnp.asarray(X), jnp.asarray(y)))
    assert not convex_in_predictions(instance, jnp.zeros(40))


def test_outputs_side_by_side_and_designs_of_integers():
    X = np.random.default_rng(0).integers(-100, 100, size=(90, 40)).astype(np.int8)
    y = jnp.asarray(X[:, :3], float)
    stated = bl.Linear(design=lambda batch: batch[0], loss=squares)
    inner = bl.InnerProblem(stated, lambda key, h: jnp.zeros((40, 3)), penalty=bl.L1(weight=0.1))
    assert convex_in_predictions(inner.at(1.0, (jnp.asarray(X), y)), jnp.zeros((40, 3)))


@pytest.mark.parametrize("size", [1e30, np.nan])
def test_columns_whose_length_is_not_finite_are_looked_at(size):
    X, y = (jnp.asarray(part, jnp.float32) for part in design(1, np.ones(40), rows=80))
    instance = linear(squares).at(1.0, (size * X, y))
    assert not convex_in_predictions(instance, jnp.zeros(40, jnp.float32))


@pytest.mark.parametrize("solver", [bl.LBFGS(), bl.GradientDescent(max_steps=3000)])
def test_a_saddle_of_a_linear_model_is_left(solver):
    X, y = design(1, np.ones(40), rows=80)
    found = linear(wells, solver=solver).solve(1.0, (X, y))
    hessian = jax.hessian(lambda w: wells(X @ w, w, 1.0, (X, y)))(found.params)
    assert found.status.name == "converged" and float(jnp.linalg.norm(found.params)) > 0.1
    assert float(jnp.linalg.eigvalsh(hessian)[0]) > -1e-6


@pytest.mark.parametrize("solver", [bl.LBFGS(), bl.GradientDescent()])
def test_a_long_row_whose_sample_bends_down_is_no_minimum(solver):
    """A curvature of -1e-8 in a prediction is one of -100 along params, through a row of length 1e4."""
    rng = np.random.default_rng(1)
    half, y = rng.normal(size=(40, 40)), rng.uniform(0, 0.9, 40)
    half[0], y[0] = 1e4 * np.sign(rng.normal(size=40)), 1e4  # a pair of outliers with leverage
    batch = (jnp.asarray(np.concatenate([half, half])), jnp.asarray(np.concatenate([y, -y])))
    cauchy = lambda z, w, h, b: jnp.sum(jnp.log1p((z - b[1]) ** 2))
    stated = bl.Linear(design=lambda batch: batch[0], loss=cauchy)
    inner = bl.InnerProblem(stated, lambda key, h: jnp.ones(40), solver=solver)
    found = inner.solve(1.0, batch, init=jnp.zeros(40))
    assert found.status.name != "converged" or float(jnp.linalg.norm(found.params)) > 0


def test_narrow_types_are_looked_at_in_full():
    """Rounding in bfloat16 is as large as many a curvature."""
    X, y = (jnp.asarray(part, jnp.bfloat16) for part in design(1, np.ones(40), rows=80))
    instance = linear(squares).at(1.0, (X, y))
    assert is_told_by_predictions(instance, jnp.zeros(40))
    assert not is_told_by_predictions(instance, jnp.zeros(40, jnp.bfloat16))


class Operator:
    """No array, but it has a product."""

    shape = (60, 40)

    def __matmul__(self, w):
        return jnp.ones((60, 40)) @ w


@pytest.mark.parametrize("rows", [jnp.zeros((0, 40)), Operator()], ids=["no rows", "an operator"])
def test_designs_that_are_not_looked_at_by_columns(rows):
    loss = lambda z, w, h, b: 0.5 * jnp.sum((z - 1) ** 2) + 0.05 * jnp.sum(w**2)
    inner = bl.InnerProblem(bl.Linear(lambda batch: rows, loss), lambda key, h: jnp.zeros(40), solver=bl.LBFGS())
    assert inner.solve(1.0, None).status.name == "converged"
