"""Every number around a hypergradient is looked at: the outer loss, its gradient, the inner loss, the precision."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl

INNER = bl.InnerProblem(
    loss=lambda w, h, batch: 0.5 * (w - batch) ** 2 + 0.5 * jnp.exp(jnp.sum(h["penalty"])) * w**2,
    init=lambda key, h: jnp.zeros(()),
)
START = {"penalty": jnp.zeros(3), "other": jnp.zeros(2)}


def task(**more):
    """w* = 4 / (1 + exp(sum h)); "other" is seen by the prior alone."""
    statement = {
        "inner": INNER,
        "outer_loss": lambda w, h, batch: 0.5 * (w - batch) ** 2,
        "init_hparams": lambda key: START,
        "batches": bl.full_batch(4.0, 1.0),
        "prior": lambda h: 0.5 * jnp.sum((h["other"] - 1.0) ** 2),
    }
    return bl.Task(**{**statement, **more})


def spread(h):
    """A standard deviation has no derivative where all entries are equal: JAX gives NaN."""
    return 0.1 * jnp.std(h["penalty"]) + 0.5 * jnp.sum((h["other"] - 1.0) ** 2)


@pytest.mark.sample(1)
@pytest.mark.parametrize("policy", ["raise", "retry"])
def test_a_gradient_of_nan_is_a_failure_that_names_the_leaf_and_the_prior(policy):
    with pytest.raises(
        bl.ConvergenceError, match=r"derivative of the prior with respect to hparams\['penalty'\] is not"
    ) as at:
        bl.hypergradient(task(prior=spread), START, bl.Implicit(on_failure=policy))
    report = at.value.report
    assert (report.solved.name, report.outer_status.name, report.status.name) == ("converged", "nonfinite", "nonfinite")
    assert int(report.retries) == 0  # both solves ended well: harder ones are no cure


def test_warn_and_skip_say_it():
    with pytest.warns(UserWarning, match="derivative of the prior .* is not a finite number"):
        _, grad, report = bl.hypergradient(task(prior=spread), START, bl.Implicit(on_failure="warn"))
    assert np.isnan(grad["penalty"]).all() and np.isfinite(grad["other"]).all()
    _, grad, report = bl.hypergradient(task(prior=spread), START, bl.Implicit(on_failure="skip"))
    assert int(report.skipped) == 1 and np.isnan(grad["other"]).all()


@pytest.mark.sample(1)
@pytest.mark.parametrize("engine", [bl.Implicit(), bl.ClosedForm(), bl.Forward(), bl.OneStep(), bl.SOBA()])
def test_a_value_of_nan_is_a_failure_of_every_engine(engine):
    broken = task(outer_loss=lambda w, h, batch: 0.5 * (w - batch) ** 2 + jnp.where(batch > 0, jnp.nan, 0.0))
    with pytest.raises(bl.ConvergenceError, match="The value of the outer loss is not a finite number"):
        bl.hypergradient(broken, START, engine)


@pytest.mark.slow
def test_a_cotangent_of_nan_is_the_fault_of_the_outer_loss_and_not_of_the_adjoint_solve():
    """The value is 0, and the derivative infinity times 0."""
    kinked = task(outer_loss=lambda w, h, batch: jnp.sqrt(0.0 * w))
    with pytest.raises(
        bl.ConvergenceError, match="derivative of the outer loss with respect to params is not a finite"
    ):
        bl.hypergradient(kinked, START)


@pytest.mark.slow
def test_inside_a_trace_such_a_gradient_is_poisoned_lane_by_lane():
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + jnp.arange(leaf.size)]), START)
    _, grad, report = jax.jit(jax.vmap(lambda h: bl.hypergradient(task(prior=spread), h)))(both)
    assert report.outer_status.code.tolist() == [bl.Code.nonfinite, bl.Code.converged]
    assert np.isnan(grad["other"][0]).all() and np.isfinite(grad["other"][1]).all()


@pytest.mark.slow
def test_a_failed_solve_is_told_as_such_and_not_as_a_number():
    start = {**START, "penalty": jnp.full(3, 400.0)}  # exp(1200) overflows within the inner problem
    with pytest.raises(bl.ConvergenceError, match="inner solve ended with status nonfinite"):
        bl.hypergradient(task(), start)


class TestALossWithoutSamples:
    """The mean of nothing is NaN, and its gradient is 0: what a solver looks at is content with the start."""

    batch = (np.zeros((0, 2)), np.zeros(0))

    @staticmethod
    def error(w, h, batch):
        return 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2)

    def inner(self):
        return bl.InnerProblem(
            loss=lambda w, h, batch: self.error(w, h, batch) + 0.5 * jnp.exp(h) * jnp.sum(w**2),
            init=lambda key, h: jnp.zeros(2),
        )

    @pytest.mark.slow
    def test_is_no_solution(self):
        assert self.inner().solve(jnp.zeros(()), self.batch).status.name == "nonfinite"
        codes = jax.vmap(lambda h: self.inner().solve(h, self.batch).status.code)(jnp.zeros(2))
        assert codes.tolist() == [bl.Code.nonfinite] * 2

    @pytest.mark.sample(1)
    @pytest.mark.parametrize("engine", [bl.Implicit(), bl.Unrolled(), bl.SOBA()])
    def test_has_no_hypergradient(self, engine):
        batches = bl.full_batch(self.batch, (np.ones((3, 2)), np.ones(3)))
        empty = task(inner=self.inner(), outer_loss=self.error, batches=batches, prior=lambda h: jnp.zeros(()))
        with pytest.raises(bl.ConvergenceError, match="inner loss is not a finite number.*batch without samples"):
            bl.hypergradient(empty, jnp.zeros(()), engine)


@pytest.mark.slow
def test_a_task_that_is_made_within_a_trace_is_in_the_trace():
    """The data that its batches close over are then values of the trace, and nothing else need be."""
    made = jax.jit(lambda target: bl.hypergradient(task(batches=bl.full_batch(target, 1.0)), START)[1])
    np.testing.assert_allclose(made(4.0)["penalty"], bl.hypergradient(task(), START)[1]["penalty"], rtol=1e-9)


class TestPrecision:
    def exact(self):
        with jax.enable_x64(True):
            h = jnp.zeros(())
            return jax.value_and_grad(lambda h: 0.5 * (4 / (1 + jnp.exp(3 * h)) - 1) ** 2 + jnp.exp(h) * 1e-9)(h)

    def stated(self, **more):
        return task(prior=lambda h: jnp.sum(jnp.exp(h["penalty"])) * 1e-9 / 3 + jnp.sum(h["other"]), **more)

    @pytest.mark.slow
    def test_float64_is_honoured_where_jax_is_in_float32(self):
        with jax.enable_x64(False):
            h = jax.tree.map(jnp.zeros_like, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), START))
            value, grad, report = bl.hypergradient(self.stated(), h)
            assert jax.tree.leaves(grad)[0].dtype == value.dtype == jnp.float32  # as the hyperparameters
            assert report.params.dtype == jnp.float64
            assert float(report.error_estimate) < 1e-13
            _, again, _ = bl.hypergradient(self.stated(), h, carry=report.carry)
        np.testing.assert_allclose(np.asarray(grad["penalty"]) * 3, self.exact()[1], rtol=1e-7)
        np.testing.assert_array_equal(again["penalty"], grad["penalty"])

    def test_digits_of_numpy_survive_where_jax_is_in_float32(self):
        task = self.stated()
        fine = {"penalty": np.full(3, 0.1), "other": np.zeros(2)}  # 0.1 is rounded by 1.5e-9 in float32
        with jax.enable_x64(False):
            _, _, report = bl.hypergradient(task, fine)
        np.testing.assert_allclose(report.params, 4 / (1 + np.exp(0.3)), rtol=1e-12)

    @pytest.mark.slow
    def test_float32_is_honoured_where_jax_is_in_float64(self):
        _, grad, report = bl.hypergradient(self.stated(precision="float32"), START)
        assert report.params.dtype == jnp.float32
        assert grad["penalty"].dtype == START["penalty"].dtype

    @pytest.mark.slow
    def test_a_trace_in_float32_says_so(self):
        with jax.enable_x64(False):
            with pytest.warns(UserWarning, match="computes in float32.*jax_enable_x64"):
                jax.jit(lambda h: bl.hypergradient(self.stated(), h)[1])(
                    jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), START)
                )
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                jax.eval_shape(lambda h: bl.hypergradient(self.stated(precision="float32"), h)[1], START)
