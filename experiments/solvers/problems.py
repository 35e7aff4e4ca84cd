"""The problems of the solver benchmark: each an inner problem, its hyperparameter, its data, and suitable solvers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import forms
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import bilevel as bl


@dataclass(frozen=True, eq=False)
class Problem:
    inner: bl.InnerProblem
    hparams: Any
    batch: Any
    solvers: tuple[bl.Solver, ...]
    form: forms.Form  # for other packages


def linear(loss: Callable) -> bl.Linear:
    return bl.Linear(design=lambda batch: batch[0], loss=loss)


def squares(z, w, h, batch):
    return 0.5 * jnp.mean((z - batch[1]) ** 2)


def logistic(z, w, h, batch):
    return jnp.mean(jnp.logaddexp(0.0, -jnp.sign(batch[1]) * z))


def with_ridge(loss: Callable) -> Callable:
    return lambda z, w, h, batch: loss(z, w, h, batch) + 0.5 * jnp.exp(h) * jnp.sum(w**2)


def regression(rows: int, columns: int, support: int = 10, correlation: float = 0.0, spread: float = 0.0) -> tuple:
    """Gaussian design with AR(1) correlation, columns scaled from 10^-spread to 10^spread, and a sparse truth."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(rows, columns))
    for j in range(1, columns):
        matrix[:, j] = correlation * matrix[:, j - 1] + np.sqrt(1 - correlation**2) * matrix[:, j]
    truth = np.zeros(columns)
    truth[rng.choice(columns, support, replace=False)] = rng.normal(size=support)
    target = matrix @ truth
    target = target + 0.1 * np.std(target) * rng.normal(size=rows)
    return jnp.array(matrix * np.logspace(-spread, spread, columns)), jnp.array(target)


def zeros(*shape: int) -> Callable:
    return lambda key, h: jnp.zeros(shape)


def weight(batch: tuple, share: float) -> float:
    """The logarithm of a share of the least l1 weight at which the lasso solution is zero."""
    return float(np.log(share * jnp.max(jnp.abs(batch[0].T @ batch[1])) / len(batch[1])))


def lasso(batch: tuple, share: float, loss: Callable = squares, ridge: bool = False) -> Problem:
    whole = with_ridge(loss) if ridge else loss
    inner = bl.InnerProblem(linear(whole), zeros(batch[0].shape[1]), penalty=bl.L1(weight=jnp.exp))
    h = weight(batch, share)
    return Problem(inner, h, batch, SPARSE, linear_form(loss, batch, l1=np.exp(h), ridge=ridge * np.exp(h)))


def smooth(batch: tuple, loss: Callable, h: float, *shape: int) -> Problem:
    inner = bl.InnerProblem(linear(with_ridge(loss)), zeros(batch[0].shape[1], *shape))
    return Problem(inner, h, batch, SMOOTH, linear_form(loss, batch, l1=0.0, ridge=np.exp(h)))


def linear_form(loss: Callable, batch: tuple, l1: float, ridge: float) -> forms.Form:
    numbers = {"X": batch[0], "y": batch[1], "l1": l1, "ridge": ridge}
    if loss is softmax:
        return forms.form("softmax", **numbers, labels=np.argmax(batch[1], axis=1))
    if loss is logistic:
        return forms.form("logistic", **(numbers | {"y": np.sign(batch[1])}))
    return forms.form("lasso" if l1 else "ridge", **numbers)


def digits(number: int) -> tuple:
    pixels, labels = load_digits(return_X_y=True)
    return jnp.array(pixels[:number] / 16.0), jnp.array(np.eye(10)[labels[:number]])


def softmax(z, w, h, batch):
    return -jnp.mean(jnp.sum(batch[1] * (z - jnp.log(jnp.sum(jnp.exp(z), axis=1, keepdims=True))), axis=1))


def svm_dual() -> Problem:
    """The multiclass support vector machine of the paper: one simplex for each sample."""
    pixels, labels = digits(300)
    loss = bl.Linear(
        design=lambda batch: batch[0].T,
        loss=lambda z, w, h, batch: (
            0.5 * jnp.exp(-h) * jnp.sum((batch[0].T @ batch[1] - z) ** 2) + jnp.sum(w * batch[1])
        ),
    )
    inner = bl.InnerProblem(loss, lambda key, h: jnp.full((300, 10), 0.1), constraint=bl.Simplex())
    form = forms.svm(pixels, labels, float(np.exp(-3.0)))
    return Problem(inner, 3.0, (pixels, labels), (*ROWS, bl.MirrorDescent()), form)


def multitask() -> Problem:
    matrix, target = regression(200, 300, 15)
    targets = target[:, None] * jnp.array([1.0, 0.5, -0.3, 0.2]) + 0.1
    inner = bl.InnerProblem(linear(squares), zeros(300, 4), penalty=bl.GroupLasso(weight=jnp.exp))
    return Problem(
        inner,
        -3.0,
        (matrix, targets),
        SPARSE,
        forms.form("group lasso", X=matrix, y=targets, l1=np.exp(-3.0), ridge=0.0),
    )


def quadratic(size: int, condition: float) -> tuple:
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    return jnp.array((basis * np.logspace(0, np.log10(condition), size)) @ basis.T), jnp.array(
        10 * rng.normal(size=size)
    )


def by_matrix(w, h, batch):
    return 0.5 * w @ (batch[0] @ w) - jnp.exp(h) * batch[1] @ w


def box(batch: tuple, low: float, high: float) -> Problem:
    inner = bl.InnerProblem(by_matrix, zeros(batch[1].size), constraint=bl.Box(low, high))
    return Problem(inner, 0.0, batch, BOXED, forms.box(batch[0], -batch[1], low, high))


def nonnegative(batch: tuple) -> Problem:
    inner = bl.InnerProblem(linear(squares), zeros(batch[0].shape[1]), constraint=bl.NonNegative())
    return Problem(inner, 0.0, batch, (*ROWS, bl.LBFGSB()), forms.nonnegative(*batch))


def portfolio(batch: tuple) -> Problem:
    size = batch[1].size
    inner = bl.InnerProblem(by_matrix, lambda key, h: jnp.full(size, 1 / size), constraint=bl.Simplex())
    return Problem(inner, 0.0, batch, (*COMPOSITE, bl.MirrorDescent()), forms.simplex(batch[0], -batch[1]))


def isotonic() -> Problem:
    rng = np.random.default_rng(0)
    target = jnp.array(np.linspace(0, 3, 500) ** 2 + rng.normal(size=500))
    inner = bl.InnerProblem(lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2), zeros(500), constraint=bl.Isotonic())
    return Problem(inner, 0.0, target, COMPOSITE, forms.isotonic(target))


def polytope() -> Problem:
    matrix, target = quadratic(60, 1e3)
    rows = jnp.array(np.random.default_rng(2).normal(size=(90, 60)))
    constraint = bl.Functional(
        equality=lambda w, h, batch: jnp.sum(w) - 1.0, inequality=lambda w, h, batch: rows @ w - 1.0
    )
    inner = bl.InnerProblem(by_matrix, zeros(60), constraint=constraint, solver=bl.InteriorPoint())
    program = forms.qp(matrix, -target, A=np.ones((1, 60)), b=np.ones(1), G=np.asarray(rows), h=np.ones(90))
    return Problem(inner, 0.0, (matrix, target), PROGRAMS, forms.form("qp", **program))


def nonlinear() -> Problem:
    """min sum exp(-w_i) over a ball and a nonlinear inequality."""
    constraint = bl.Functional(
        inequality=lambda w, h, batch: jnp.stack([jnp.sum(w**2) - 4.0, jnp.sum(jnp.sin(w[:5])) - 0.5])
    )
    inner = bl.InnerProblem(
        lambda w, h, batch: jnp.sum(jnp.exp(-batch * w)), zeros(40), constraint=constraint, solver=bl.InteriorPoint()
    )
    rates = jnp.linspace(0.5, 2.0, 40)
    return Problem(inner, 0.0, rates, PROGRAMS, forms.form("nonlinear", rates=rates))


def equilibrium() -> Problem:
    """A deep-equilibrium layer: z = tanh(W z + U x), spectral norm of W 0.95, 64 units, a batch of 32."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(64, 64))
    weights = jnp.array(0.95 * weights / np.linalg.norm(weights, 2))
    inputs = jnp.array(0.3 * rng.normal(size=(32, 64)))
    inner = bl.InnerProblem.from_fixed_point(lambda z, h, batch: jnp.tanh(z @ batch[0].T + batch[1]), zeros(32, 64))
    solvers = (bl.FixedPointIteration(), bl.Anderson(), bl.Broyden(), bl.Newton())
    return Problem(inner, 0.0, (weights, inputs), solvers, forms.form("equilibrium", W=weights, U=inputs))


COMPOSITE = (bl.ProximalGradient(), bl.ActiveSetNewton())
ROWS = (*COMPOSITE, bl.BlockCoordinateDescent())
SPARSE = (*ROWS, bl.WorkingSet(bl.BlockCoordinateDescent()))
BOXED = (*COMPOSITE, bl.LBFGSB())
PROGRAMS = (bl.InteriorPoint(), bl.OperatorSplitting())
SMOOTH = (bl.GradientDescent(), bl.LBFGS(), bl.Newton())

PROBLEMS: dict[str, Callable[[], Problem]] = {
    "ridge": lambda: smooth(regression(500, 50), squares, -4.0),
    "ridge wide": lambda: smooth(regression(200, 2000), squares, -4.0),
    "logistic": lambda: smooth(regression(1000, 50), logistic, -4.0),
    "softmax digits": lambda: smooth(digits(600), softmax, -5.0, 10),
    "lasso": lambda: lasso(regression(200, 2000), 0.1),
    "lasso correlated": lambda: lasso(regression(300, 500, 30, correlation=0.95), 0.01),
    "lasso badly scaled": lambda: lasso(regression(200, 100, spread=4.0), 1e-6),
    "lasso logistic": lambda: lasso(regression(300, 1000), 0.01, logistic),
    "elastic net": lambda: lasso(regression(300, 400, correlation=0.9), 0.05, ridge=True),
    "group lasso": multitask,
    "SVM dual": svm_dual,
    "box QP": lambda: box(quadratic(200, 1e4), -1.0, 1.0),
    "NNLS": lambda: nonnegative(regression(300, 200, 60, 0.7)),
    "portfolio": lambda: portfolio(quadratic(200, 1e3)),
    "isotonic": isotonic,
    "QP": polytope,
    "nonlinear program": nonlinear,
    "equilibrium layer": equilibrium,
}  # fmt: skip
