"""The penalty of a multiclass support vector machine, through its dual: constraints, and free choice of solver and
optimality condition."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.batches import full_batch
from bilevel.constraints import Simplex
from bilevel.data import DataSet
from bilevel.data.embedded import made
from bilevel.foundation.typing import Batch, HParams, Params, Scalar
from bilevel.losses.duals import crammer_singer, crammer_singer_weights
from bilevel.optimality import Entropy, MirrorDescent
from bilevel.problem import InnerProblem
from bilevel.solvers import (
    ActiveSetNewton,
    BlockCoordinateDescent,
    MirrorDescent as MirrorDescentSolver,
    ProximalGradient,
    Solver,
)
from bilevel.task import Headline, Task
from bilevel.tasks.grids import lowest

SOLVERS: dict[str, Callable[..., Solver]] = {
    "mirror_descent": MirrorDescentSolver,
    "projected_gradient": ProximalGradient,
    "block_coordinate_descent": BlockCoordinateDescent,
    "active_set_newton": ActiveSetNewton,
}
MAPPINGS = ("projected_gradient", "mirror_descent")
FORMS = ("gram", "features")
GRID = np.arange(-1.0, 7.0)  # log of the penalties of the baseline


def svm(
    *,
    features: int = 100,
    train: int = 700,
    validation: int = 200,
    test: int = 200,
    classes: int = 5,
    solver: str = "projected_gradient",
    mapping: str = "projected_gradient",
    form: str = "gram",
    max_steps: int = 2500,
    tol: float = 1e-6,
    start: float = 2.0,
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """The penalty theta = exp(h) of a Crammer-Singer support vector machine, in the dual.

        inner:  min over x, rows in the simplex, of theta/2 ||W(x)||^2 + <x, Y>,   W(x) = X'(Y - x) / theta
        outer:  1/2 ||X_val W(x) - Y_val||^2 / (number of validation samples)

    Data: a made-up problem of ``classes`` classes with a tenth of ``features`` informative. ``solver`` is one of
    mirror_descent, projected_gradient (accelerated), block_coordinate_descent and active_set_newton, ``mapping`` the
    optimality condition that is differentiated: projected_gradient or mirror_descent, whatever the solver. ``form``
    "features" multiplies by X at each inner step; "gram" by a factor of X X', whose cost does not depend on
    ``features``. Inputs are divided by the square root of ``features``. Metrics: theta, test/loss, test/accuracy.
    Baseline: the penalty of a grid of 8 that is the best on the validation set.

    Source: Crammer and Singer, 2001; Blondel et al., 2021, section 4.1.
    """
    check(solver, mapping, form)
    found = made_up(train + validation + test, features, classes, seed)
    inputs = np.split(found.inputs / np.sqrt(features), np.cumsum([train, validation]))
    labels = np.split(found.targets, np.cumsum([train, validation]))
    answers = [np.eye(classes)[part] for part in labels]
    design, towards = factor(inputs[0], inputs[1:], form)

    def scores(params: Params, hparams: HParams, design: Any, towards: Any) -> jax.Array:
        return towards @ crammer_singer_weights(params, design, answers[0], jnp.exp(hparams))

    def outer_loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        design, towards, answers = batch
        return 0.5 * jnp.sum((scores(params, hparams, design, towards) - answers) ** 2) / len(answers)

    def evaluate(params: Params, hparams: HParams) -> dict[str, Scalar]:
        return measured(params, hparams, design, towards[1])

    def measured(params: Params, hparams: HParams, design: Any, towards: Any) -> dict[str, Scalar]:
        tested = scores(params, hparams, design, towards)
        right = jnp.argmax(tested, axis=1) == labels[2]
        return {
            "theta": jnp.exp(hparams),
            "test/loss": 0.5 * jnp.sum((tested - answers[2]) ** 2) / len(labels[2]),
            "test/accuracy": jnp.mean(right, dtype=params.dtype),
        }

    def baselines() -> dict[str, Any]:
        design, towards = factor(inputs[0], inputs[1:], "gram")  # whose cost does not depend on ``features``
        fits = jax.jit(lambda points, batch: jax.lax.map(lambda h: inner.solve(h, batch).params, points))(
            jnp.asarray(GRID), (design, answers[0])
        )
        losses = [outer_loss(x, h, (design, towards[0], answers[1])) for x, h in zip(fits, GRID, strict=True)]
        best = lowest(losses, "the grid of penalties")
        found = measured(fits[best], GRID[best], design, towards[1])
        return {"baseline/validation_loss": losses[best], **{f"baseline/{name}": one for name, one in found.items()}}

    dual = crammer_singer(jnp.exp)
    solvers: Any = SOLVERS[solver]
    inner = InnerProblem(
        loss=dual,
        init=lambda key, hparams: jnp.full((train, classes), 1 / classes),
        constraint=Simplex(),
        solver=solvers(max_steps=max_steps, tol=tol),
        optimality=MirrorDescent(dual, Entropy()) if mapping == "mirror_descent" else None,
    )
    return Task(
        inner=inner,
        outer_loss=outer_loss,
        init_hparams=lambda key: jnp.asarray(start, jnp.result_type(float)),
        batches=full_batch((design, answers[0]), (design, towards[0], answers[1])),
        evaluate=evaluate,
        baselines=baselines,
        precision=precision,
        name="svm",
        headline=Headline("test/accuracy", against={"baseline/test/accuracy": "by a grid of penalties"}),
        natural=lambda hparams: {"theta": np.exp(hparams)},
    )


@functools.lru_cache(maxsize=1)
def made_up(samples: int, features: int, classes: int, seed: int) -> DataSet:
    """The data; kept, so that comparing solvers on one problem makes it once."""
    return made(samples, features, classes, max(math.ceil(math.log2(classes)), features // 10), seed)


def check(solver: str, mapping: str, form: str) -> None:
    for name, value, choices in (("solver", solver, SOLVERS), ("mapping", mapping, MAPPINGS), ("form", form, FORMS)):
        if value not in choices:
            raise ValueError(f"task.{name}={value}: choose one of {', '.join(choices)}.")


def factor(inputs: np.ndarray, others: list[np.ndarray], form: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """R with R'R = X X', and for each of ``others`` the matrix T with T R = other X'; by X' = Q R.

    >>> x = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
    >>> design, (towards,) = factor(x, [x], "gram")
    >>> design.shape, bool(np.allclose(design.T @ design, x @ x.T)), bool(np.allclose(towards @ design, x @ x.T))
    ((2, 2), True, True)
    """
    if form == "features":
        return inputs.T, others
    orthogonal, design = np.linalg.qr(inputs.T)
    return design, [other @ orthogonal for other in others]
