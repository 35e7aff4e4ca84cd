"""Each penalty in an inner problem: the prox minimises the value, and the solution has the right derivative."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel import penalties
from bilevel.constraints.parametric import ParametricSet, Projection
from bilevel.penalties import extent

Q = np.random.default_rng(0).normal(size=(6, 6))
Q = Q @ Q.T / 6 + np.eye(6)
TARGET = np.array([1.5, -0.8, 0.4, 2.5, 1.7, 0.3])

PENALTIES = {
    "L1": bl.L1(weight=lambda h: h),
    "NonNegativeL1": bl.NonNegativeL1(weight=lambda h: h),
    "ElasticNet": bl.ElasticNet(l1=lambda h: h, l2=lambda h: 0.5 * h),
    "Ridge": bl.Ridge(weight=lambda h: h),
    "NonNegativeRidge": bl.NonNegativeRidge(weight=lambda h: h),
    "GroupLasso": bl.GroupLasso(weight=lambda h: 0.4 * h),
    "LInf": bl.LInf(weight=lambda h: h),
    "TotalVariation": bl.TotalVariation(weight=lambda h: 0.4 * h),
    "SortedL1": bl.SortedL1(weights=lambda h: h * jnp.linspace(1.0, 0.2, 6)),
    "Huber": bl.Huber(weight=lambda h: h, delta=0.5),
    "LogBarrier": bl.LogBarrier(weight=lambda h: 0.1 * h),
}
FAST = ("L1", "GroupLasso", "TotalVariation")


def problem(penalty):
    return bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * (w - TARGET) @ Q @ (w - TARGET),
        init=lambda key, h: jnp.full(6, 0.5),
        penalty=penalty,
        solver=bl.ProximalGradient(tol=1e-13, max_steps=20_000),
    )


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in PENALTIES]
)
def test_the_derivative_of_the_solution(name):
    inner, h, step = problem(PENALTIES[name]), 0.7, 1e-5
    solve = jax.jit(lambda h: inner.solve(h, None))
    assert bool(solve(h).status.ok)
    differences = (solve(h + step).params - solve(h - step).params) / (2 * step)
    forward = jax.jit(jax.jacfwd(lambda h: inner.solve(h, None).params))(h)
    np.testing.assert_allclose(forward, differences, rtol=1e-6, atol=1e-7)
    weights = np.cos(np.arange(6.0))
    backward = jax.jit(jax.grad(lambda h: weights @ inner.solve(h, None).params))(h)
    np.testing.assert_allclose(backward, weights @ np.asarray(forward), rtol=1e-9)


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", PENALTIES)
def test_the_prox_minimises_what_value_says(name):
    penalty, h, step = PENALTIES[name], 0.7, 0.8
    point = jnp.asarray(TARGET)
    nearest = penalty.prox(point, step, h)

    def objective(w):
        return step * penalty.value(w, h) + 0.5 * jnp.sum((w - point) ** 2)

    directions = np.random.default_rng(5).normal(size=(40, 6)) * np.where(
        np.asarray(nearest) > 0, 1.0, 0.0 if "NonNegative" in name else 1.0
    )
    nearby = jax.vmap(objective)(nearest + 1e-3 * directions)
    assert float(objective(nearest)) <= float(jnp.min(nearby))


@pytest.mark.slow
def test_parts_leave_the_intercept_alone():
    x = np.random.default_rng(1).normal(size=(20, 3))
    y = 5.0 + x[:, 0]

    def loss(w, h, batch):
        return 0.5 * jnp.mean((x @ w["coef"] + w["intercept"] - y) ** 2)

    inner = bl.InnerProblem(
        loss=loss,
        init=lambda key, h: {"coef": jnp.zeros(3), "intercept": jnp.zeros(())},
        penalty=bl.Parts({"coef": bl.L1(weight=jnp.exp), "intercept": bl.Zero()}),
        solver=bl.ProximalGradient(tol=1e-12),
    )
    params = jax.jit(lambda h: inner.solve(h, None).params)(3.0)
    np.testing.assert_allclose(params["coef"], 0.0)
    np.testing.assert_allclose(params["intercept"], y.mean(), rtol=1e-9)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"bl.Parts.* does not fit params"):
        bl.Parts({"coef": bl.Zero()}).prox({"other": jnp.zeros(2)}, 1.0, None)


def test_values_of_penalties_with_a_weight_for_each_pair_or_rank():
    assert float(bl.TotalVariation(jnp.array([1.0, 2.0])).value(jnp.array([0.0, 1.0, 3.0]), None)) == 5.0
    assert float(bl.SortedL1(jnp.array([1.0, 2.0])).value(jnp.array([-3.0, 1.0]), None)) == 7.0


@pytest.mark.slow
def test_an_unpenalised_coordinate_that_is_zero_has_the_derivative_of_least_squares():
    """The intercept of centred data: of the mean of n targets the derivative in each is 1 / n."""
    design = jnp.array([[1.0, 1.0], [1.0, -1.0], [1.0, 2.0], [1.0, -2.0]])

    def intercept(targets):
        return (
            bl.InnerProblem(
                loss=lambda w, h, batch: 0.5 * jnp.mean((design @ w - batch) ** 2),
                init=lambda key, h: jnp.zeros(2),
                penalty=bl.L1(weight=jnp.array([0.0, 0.1])),
            )
            .solve(None, targets)
            .params[0]
        )

    gradient = jax.jit(jax.grad(intercept))(jnp.array([1.0, -1.0, -1.0, 1.0]))
    np.testing.assert_allclose(gradient, np.full(4, 0.25), atol=1e-12)


@pytest.mark.sample(1)
@pytest.mark.parametrize("penalty", [bl.L1(jnp.exp), bl.GroupLasso(jnp.exp)])
def test_float32_params_with_float64_hyperparameters_are_solved_in_float32(penalty):
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2) + 0.1 * jnp.sum(w) ** 2,
        init=lambda key, h: jnp.zeros(3, jnp.float32),
        penalty=penalty,
    )
    solution = jax.jit(lambda h: inner.solve(h, jnp.array([3.0, -1.0, 0.5], jnp.float32)))(jnp.float64(-1.0))
    assert solution.params.dtype == jnp.float32
    assert bool(solution.status.ok)


SHAPES = [(), (1,), (1, 1), (2,), (1, 2), (3,), (3, 1), (3, 2), (4,), (1, 3, 2), (2, 3, 2)]
ENTRIES_OF_SETS = ("Box", "Hypercube", "LInfBall")
WEIGHTED = [name for name in penalties.__all__ if hasattr(getattr(penalties, name), "operator")]


@pytest.mark.parametrize("name", [*WEIGHTED, *ENTRIES_OF_SETS])
def test_a_parameter_of_any_shape_broadcasts_or_is_refused_by_name(name):
    """Shapes alone are looked at, so nothing is compiled."""
    kind, point = getattr(bl, name), jax.ShapeDtypeStruct((3, 2), jnp.float64)
    fields = [field.name for field in dataclasses.fields(kind)]
    for field in fields:
        accepted = []
        for shape in SHAPES:

            def values(w, parameter, field=field):
                entry = kind(**{**dict.fromkeys(fields, 1.0), field: parameter})
                return entry.prox(w, 0.5, None), entry.value(w, None), entry.kinks(w, 0.5, None)

            try:
                found, value, _ = jax.eval_shape(values, point, jax.ShapeDtypeStruct(shape, jnp.float64))
            except ValueError as error:
                assert field in str(error) and f"bl.{name}" in str(error) and str(shape) in str(error)
                continue
            accepted.append(shape)
            assert found.shape == (3, 2) and value.shape == ()
        assert () in accepted and (4,) not in accepted and (1, 3, 2) not in accepted


def test_a_term_and_a_set_of_the_users_own_keep_float32_params_under_float64_hyperparameters():
    @dataclasses.dataclass(frozen=True, eq=False)
    class Spring(bl.penalties.ParametricPenalty):
        weight: bl.penalties.Parameter = np.float64(2.0)
        separable = True
        reach = staticmethod(extent.entries)
        operator = staticmethod(lambda x, step, weight: x / (1 + step * weight))
        term = staticmethod(lambda x, weight: 0.5 * jnp.sum(weight * x**2))
        distance = staticmethod(lambda x, step, weight: jnp.full_like(x, jnp.inf))

    @dataclasses.dataclass(frozen=True, eq=False)
    class Below(ParametricSet):
        upper: bl.penalties.Parameter = np.float64(0.5)
        separable = True
        projection = Projection(extent.entries, jnp.minimum, lambda x, upper: jnp.abs(x - upper))

    point = jnp.ones(3, jnp.float32)
    for found, expected in ((Spring().prox(point, jnp.float64(0.5), None), 0.5), (Below().project(point, None), 0.5)):
        assert found.dtype == jnp.float32 and found.tolist() == [expected] * 3
