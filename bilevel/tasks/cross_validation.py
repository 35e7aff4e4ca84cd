"""Penalties chosen by cross-validation: all folds are columns of one inner problem."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO
from scipy.sparse import issparse

from bilevel import data as data_sets
from bilevel.batches import full_batch
from bilevel.foundation.compilation import Program
from bilevel.foundation.typing import Batch, HParams, Params, Scalar
from bilevel.losses.linear import Linear
from bilevel.penalties import L1, Zero
from bilevel.problem import InnerProblem
from bilevel.solvers import Auto, ProximalNewton, WorkingSet
from bilevel.task import Headline, Task
from bilevel.tasks import pictures
from bilevel.tasks.grids import lowest

LOSSES = ("squared", "logistic")
PENALTIES = ("ridge", "ridge_per_feature", "lasso", "elastic_net", "weighted_lasso")
SHOWN = 30  # features in the figure
WIDE = 1000  # features from which a sparse solution is sought on the columns that it needs, and the baseline ends early
# Columns of those, for each fold. A model of s columns costs n s^2 + s^3 / 3, so no size is twice as large as
# the one before. A fold of PCMAC needs 557 of the 3,289 words at the best penalty, and no more than it has samples.
SIZES = (256, 448, 640, 1024, 1536)
GRID = 31  # penalties of the baseline
WIDE_GRID = 16  # those of a WIDE sparse solution: about as many solves as a run has steps, because each takes long


def cross_validation(
    *,
    data: str = "breast_cancer",
    root: str = "",
    loss: str = "logistic",
    penalty: str = "ridge_per_feature",
    folds: int = 5,
    start: float = 0.1,
    shrinkage: float = 0.0,
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """Penalties on log scale for a linear model, by the mean validation loss over folds.

        inner:  sum_k [mean over the other folds of l(x'w_k, y) + 1/2 sum_j r_j w_jk^2 + sum_j a_j |w_jk|]
        outer:  mean_k mean over fold k of l(x'w_k, y) + shrinkage/2 sum_j (h_j - mean h)^2

    ``loss`` is "squared" (half the square) or "logistic" (two classes). ``penalty`` is "ridge" or "ridge_per_feature"
    (r = exp(h)), "lasso" (one a = exp(h)), "weighted_lasso" (one for each feature), or "elastic_net" (a and r).
    h starts at the logarithm of ``start`` times the smallest a for which w = 0. The K problems are one: the params are
    the matrix of all w_k, and a mask tells which samples each column is fitted to. Inputs are standardised, and targets
    of the squared loss centred, with the statistics of all samples; classes become -1 and 1. There is no intercept.
    Inputs that are too large for a dense array stay sparse, and are only divided by their deviations.
    Metrics: folds/spread (standard error of the mean over folds), folds/selected (mean number of nonzero coefficients).
    Baseline: one penalty for all features, the best of a grid of 31 by the same folds; of an elastic net both alike.
    The grid ends at a hundred-thousandth of the smallest a for which w = 0; with more than 1,000 features, where the
    loss begins to rise. For a lasso of so many features with the logistic loss it has 16 points down to a thousandth.

    Source: Bertrand et al., Implicit differentiation for fast hyperparameter selection in non-smooth convex learning,
    2022.
    """
    if not 0 < start < np.inf:
        raise ValueError(f"task.start={start}: take a positive number, because the penalties are on log scale.")
    if not 0 <= shrinkage < np.inf:
        raise ValueError(f"task.shrinkage={shrinkage}: take 0 or a positive number.")
    inputs, targets = samples(data, root, loss, penalty)
    number, features = inputs.shape
    if not 2 <= folds <= number or folds != int(folds):
        raise ValueError(f"task.folds={folds}: take from 2 to {number} folds, the number of samples.")
    fold = np.random.default_rng(seed).permutation(number) % folds
    held = fold[:, None] == np.arange(folds)
    fits, judges = ~held / (~held).sum(axis=0), held / held.sum(axis=0)
    largest = float(np.max(np.abs(inputs.T @ targets)) / number) * (1.0 if loss == "squared" else 0.5)
    wide = features > WIDE
    on_columns = wide and penalty.endswith("lasso") and loss == "logistic"
    shape = {"ridge_per_feature": (features, 1), "weighted_lasso": (features, 1), "elastic_net": (2, 1)}

    def design(batch: Batch) -> Any:
        return BCOO(batch[0], shape=(number, features)) if isinstance(batch[0], Entries) else batch[0]

    def each(z: jax.Array, targets: jax.Array) -> jax.Array:
        y = targets[:, None]
        return 0.5 * (z - y) ** 2 if loss == "squared" else jax.nn.softplus(-y * z)

    def bend(z: jax.Array, params: Params, hparams: HParams, batch: Batch) -> jax.Array:
        """The second derivative of `smooth` in z: folds do not meet, so that a sample's block (k, k) is diagonal."""
        each_bend = 1.0 if loss == "squared" else jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)
        return jnp.eye(folds) * (batch[2] * each_bend)[:, :, None]

    def smooth(z: jax.Array, params: Params, hparams: HParams, batch: Batch) -> Scalar:
        fitted = jnp.sum(batch[2] * each(z, batch[1]))
        if penalty in ("lasso", "weighted_lasso"):
            return fitted
        weight = hparams[1] if penalty == "elastic_net" else hparams
        return fitted + 0.5 * jnp.sum(jnp.exp(weight) * params**2)

    def by_fold(params: Params, batch: Batch) -> jax.Array:
        return jnp.sum(batch[2] * each(design(batch) @ params, batch[1]), axis=0)

    def evaluate(params: Params, hparams: HParams) -> dict[str, Any]:
        spread = jnp.std(by_fold(params, judged_on), ddof=1) / np.sqrt(folds)
        return {"folds/spread": spread, "folds/selected": jnp.sum(params != 0) / folds}

    # One weight for all is a number, because solvers that work on rows read an array as one weight for each row.
    lasso = L1(weight=lambda h: jnp.exp(h if penalty == "weighted_lasso" else h[0, 0]))
    inner = InnerProblem(
        loss=Linear(design=design, loss=smooth, curvature=bend),
        init=lambda key, hparams: jnp.zeros((features, folds)),
        penalty=Zero() if penalty.startswith("ridge") else lasso,
        # Folds do not meet, so each has a matrix of its own Hessian. Newton steps on the face of all folds by conjugate
        # gradients took 37,000 products from one penalty to the next, because each that misses the face costs hundreds
        # of proximal gradient steps.
        solver=WorkingSet(ProximalNewton(), sizes=SIZES, by_columns=True) if on_columns else Auto(),
    )
    stored = entries(inputs) if issparse(inputs) else inputs
    fitted_to, judged_on = (stored, targets, fits), (stored, targets, judges)

    def baselines() -> dict[str, Any]:
        grid = np.log(largest * (np.logspace(0, -3, WIDE_GRID) if on_columns else np.logspace(0, -5, GRID)))

        def fit(path: Path) -> Path:
            """The next smaller penalty from the solution before, which is near."""
            hparams = jnp.full(shape.get(penalty, (1, 1)), jnp.asarray(grid)[path.taken])
            params = inner.solve(hparams, fitted_to, init=path.params).params
            loss = jnp.mean(by_fold(params, judged_on))
            return Path(params, path.losses.at[path.taken].set(loss), path.taken + 1)

        begin = Path(inner.init(jax.random.key(0), jnp.asarray(grid[0])), jnp.zeros(len(grid)), jnp.int32(0))
        path = Program(lambda begin: jax.lax.while_loop(partial(goes_on, wide=wide), fit, begin))(begin)
        losses = path.losses[: int(path.taken)]
        best = lowest(list(losses), "the grid of penalties")
        return {"baseline/outer/loss": losses[best], "baseline/penalty": np.exp(grid[best])}

    return Task(
        inner=inner,
        outer_loss=lambda params, hparams, batch: jnp.mean(by_fold(params, batch)),
        init_hparams=lambda key: jnp.full(shape.get(penalty, (1, 1)), jnp.log(start * largest)),
        batches=full_batch(fitted_to, judged_on),
        evaluate=evaluate,
        baselines=baselines,
        headline=Headline(
            "outer/loss", "mean loss over folds", {"baseline/outer/loss": "by a grid of single penalties"}
        ),
        prior=lambda hparams: 0.5 * shrinkage * jnp.sum((hparams - jnp.mean(hparams)) ** 2),
        natural=lambda hparams: {"penalty": np.exp(np.asarray(hparams)).ravel()},
        figures={"coefficients": coefficients},
        precision=precision,
        name="cross_validation",
    )


class Entries(NamedTuple):
    """A sparse matrix as the arguments of `BCOO`, on the host, where no precision is chosen yet."""

    values: Any
    places: Any  # (n, 2): row, column


def entries(matrix: Any) -> Entries:
    """The entries of a SciPy matrix, row by row."""
    found = matrix.tocsr().tocoo()
    return Entries(found.data, np.stack([found.row, found.col], axis=1))


class Path(NamedTuple):
    """The baseline's grid, as far as it has been taken."""

    params: Params
    losses: jax.Array
    taken: jax.Array  # penalties


def goes_on(path: Path, wide: bool) -> jax.Array:
    """Whether a penalty is left. A wide problem ends where the loss has begun to rise, because solves below take ten
    times as many products: the classes become separable, or the targets interpolated, and the curvature vanishes."""
    before, last = path.losses[path.taken - 2], path.losses[path.taken - 1]
    rises = (path.taken >= 2) & (last > before)
    return (path.taken < len(path.losses)) & ~(rises & wide)


def samples(data: str, root: str, loss: str, penalty: str) -> tuple[Any, np.ndarray]:
    """Standardised inputs, dense or sparse, and targets."""
    for name, value, choices in (("loss", loss, LOSSES), ("penalty", penalty, PENALTIES)):
        if value not in choices:
            raise ValueError(f"task.{name}={value}: choose one of {', '.join(choices)}.")
    classes = data_sets.source_of(data, root).size.classes
    if classes not in ((0, 2) if loss == "squared" else (2,)):
        needed = "numbers, as diabetes has, or two classes" if loss == "squared" else "two, as breast_cancer has"
        raise ValueError(f"task.data={data} has {classes} classes: task.loss={loss} needs {needed}.")
    found = data_sets.classification(data, root, sparse=True) if classes else data_sets.load(data, root)
    none = found.take(np.arange(0))
    inputs = data_sets.standardise(data_sets.Splits(found, none, none, none)).train.inputs
    targets = 2.0 * found.targets - 1.0 if classes else np.asarray(found.targets, float)
    return inputs, targets - targets.mean() if loss == "squared" else targets


def coefficients(result: Any) -> Any:
    """The largest coefficients, their mean over the folds."""
    params = np.mean(np.asarray(result.params), axis=1)
    order = np.argsort(-np.abs(params))[:SHOWN]
    return pictures.bars([f"feature {j}" for j in order], params[order], "coefficient, mean over the folds")
