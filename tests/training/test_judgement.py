"""What the result of a run is chosen by, and whether its last point is stationary."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.batches import same_at_every_step, whole_batch
from bilevel.training.judgement import judge_of, mean_outer_loss, projected_gradient_norm

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(120, 8))
Y = X @ RANDOM.normal(size=8) * 0.3 + RANDOM.normal(size=120)
TRAIN, VALIDATION = (X[:40], Y[:40]), (X[40:], Y[40:])


def error(w, h, batch):
    return 0.5 * jnp.mean(batch.weight * (batch[0] @ w - batch[1]) ** 2)


def ridge(batches, **more):
    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: error(w, h, batch) + 0.5 * jnp.exp(h) * jnp.sum(w**2),
            init=lambda key, h: jnp.zeros(8),
        ),
        outer_loss=error,
        init_hparams=lambda key: jnp.array(-3.0),
        batches=batches,
        **more,
    )


def whole(h):
    """The outer loss over all samples, at the solution of the whole inner problem."""
    x, y = TRAIN
    w = np.linalg.solve(x.T @ x / 40 + np.exp(float(h)) * np.eye(8), x.T @ y / 40)
    return 0.5 * np.mean((VALIDATION[0] @ w - VALIDATION[1]) ** 2)


MINI = bl.minibatches(TRAIN, VALIDATION, 5)


@pytest.mark.slow
def test_minibatches_do_not_choose_the_luckiest():
    engine = bl.SABA(step_size=0.05, adjoint_step=0.05)
    result = bl.Trainer(optimizer=optax.adam(0.05), steps=400, engine=engine).fit(ridge(MINI))
    losses = [line["outer/loss"] for line in result.metrics]
    best = min(whole(h) for h in np.linspace(-4, 3, 71))
    assert whole(result.hparams) < best + 0.01
    assert float(result.hparams) == float(result.last_hparams)
    assert result.summary["chosen_by"] == "last step"
    assert min(losses) < 0.5 * best  # what a single batch would have promised
    assert result.summary["best_outer_loss"] == pytest.approx(whole(result.hparams), abs=0.02)


@pytest.mark.slow
def test_a_second_hold_out_chooses_on_minibatches_too():
    task = ridge(MINI, evaluate=lambda w, h: {"stop/loss": (h + 2.5) ** 2})
    result = bl.Trainer(optimizer=optax.adam(0.1), steps=20, engine=bl.SOBA(step_size=0.05)).fit(task)
    assert result.summary["chosen_by"] == "stop/loss"
    assert abs(float(result.hparams) + 2.5) == min(
        abs(float(result.hparams) + 2.5), abs(float(result.last_hparams) + 2.5)
    )


@pytest.mark.slow
def test_a_batch_that_stays_the_same_chooses_by_its_loss():
    full = bl.full_batch(whole_batch(TRAIN), whole_batch(VALIDATION))
    result = bl.Trainer(optimizer=optax.adam(0.3), steps=30).fit(ridge(full))
    assert result.summary["chosen_by"] == "outer/loss"
    assert result.summary["best_outer_loss"] <= min(line["outer/loss"] for line in result.metrics)
    assert whole(result.hparams) == pytest.approx(result.summary["best_outer_loss"], abs=1e-5)


def test_whether_batches_stay_is_read_from_its_program():
    key = jax.random.key(0)
    assert not same_at_every_step(lambda key, step: (MINI(key, step)[0], VALIDATION), key)
    assert not same_at_every_step(MINI, key)
    assert not same_at_every_step(lambda key, step: (0.0, jax.random.normal(jax.random.fold_in(key, step))), key)
    assert same_at_every_step(lambda key, step: (0.0, jax.random.normal(key)), key)
    assert judge_of(ridge(MINI), key, {"stop/loss": 0.0}) == "stop/loss"


@pytest.mark.slow
def test_the_mean_over_an_epoch_is_that_of_the_data():
    w, h, key = jnp.ones(8), jnp.array(0.3), jax.random.key(3)
    task = ridge(bl.minibatches(TRAIN, VALIDATION, 7), prior=lambda h: h**2)  # 80 samples: the last batch is not full
    expected = 0.5 * np.mean((VALIDATION[0] @ np.ones(8) - VALIDATION[1]) ** 2) + 0.09
    assert mean_outer_loss(task, key, w, h) == pytest.approx(expected, rel=1e-12)
    assert mean_outer_loss(ridge(bl.full_batch(TRAIN, VALIDATION)), key, w, h) is None


def test_patience_on_losses_that_are_not_comparable_is_refused():
    with pytest.raises(ValueError, match=r"trainer\.patience=5 .*stop/loss"):
        bl.Trainer(steps=20, patience=5, engine=bl.SOBA()).fit(ridge(MINI))


@pytest.mark.slow
def test_a_hold_out_that_is_never_a_number_leaves_the_last_step(caplog):
    full = bl.full_batch(whole_batch(TRAIN), whole_batch(VALIDATION))
    task = ridge(full, evaluate=lambda w, h: {"stop/loss": jnp.nan * h})
    result = bl.Trainer(optimizer=optax.adam(0.1), steps=5).fit(task)
    assert result.summary["chosen_by"] == "last step"
    assert float(result.hparams) == float(result.last_hparams) != -3.0
    assert "stop/loss was not a finite number at any step" in caplog.text


class TestStationarity:
    """The example of Shimizu and Aiyoshi: 225 at x = (20, 5), on the edge x1 + x2 = 25."""

    A, b = jnp.array([[-1.0, -2.0], [1.0, 1.0], [0.0, 1.0]]), jnp.array([-30.0, 25.0, 15.0])

    def task(self):
        nothing = (jnp.zeros((0, 2)), jnp.zeros(0))
        return bl.Task(
            inner=bl.InnerProblem(
                loss=lambda y, x, batch: jnp.sum((x - y) ** 2),
                init=lambda key, x: jnp.zeros(2),
                constraint=bl.Box(lower=0.0, upper=10.0),
            ),
            outer_loss=lambda y, x, batch: (x[0] - 30) ** 2 + (x[1] - 20) ** 2 - 20 * y[0] + 20 * y[1],
            init_hparams=lambda key: jnp.array([15.6, 9.4]),
            feasible=lambda x: bl.projections.polyhedron(x, *nothing, self.A, self.b),
            batches=bl.full_batch(None, None),
        )

    @pytest.mark.slow
    def test_a_projection_that_undoes_the_steps_is_told(self, caplog):
        result = bl.Trainer(optimizer=optax.adam(0.1), steps=60).fit(self.task())
        assert result.summary["blocked"] and result.summary["best_outer_loss"] > 300
        assert result.summary["projected_grad_norm"] > 10
        assert "undoes the optimiser's steps" in caplog.text

    @pytest.mark.slow
    def test_steps_along_the_gradient_end_at_a_stationary_point(self, caplog):
        result = bl.Trainer(optimizer=optax.sgd(0.05), steps=60).fit(self.task())
        np.testing.assert_allclose(result.hparams, [20.0, 5.0], atol=1e-6)
        assert result.summary["best_outer_loss"] == pytest.approx(225.0)
        assert not result.summary["blocked"]
        assert result.summary["projected_grad_norm"] < 1e-6 < result.summary["final_grad_norm"]
        assert "undoes" not in caplog.text

    @pytest.mark.parametrize("size", [1e-3, 1.0, 1e6])
    def test_the_projected_gradient_is_the_part_along_the_edge(self, size):
        at, grad = jnp.array([18.0, 7.0]), size * jnp.array([-3.0, -1.0])
        found = projected_gradient_norm(self.task(), at, grad)
        assert found == pytest.approx(size * np.sqrt(2.0), rel=1e-5)  # of (3, 1), less its part along (1, 1)

    def test_where_all_is_feasible_it_is_the_gradient(self):
        assert projected_gradient_norm(ridge(MINI), jnp.zeros(2), jnp.array([3.0, 4.0])) == pytest.approx(5.0)
