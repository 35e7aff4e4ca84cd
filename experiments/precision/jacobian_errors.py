"""The error of the Jacobian of a solution, at the iterates of a first-order method: several kinds, and the bound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import data as data_sets
from bilevel.foundation.typing import Batch, HParams, Loss, Params, Scalar
from bilevel.implicit.attach import attach
from bilevel.linear_solve import Dense
from bilevel.penalties import L1, Penalty, Zero
from bilevel.problem import InnerProblem
from bilevel.solvers import Newton, ProximalGradient

CURVATURE = 1 / (6 * np.sqrt(3.0))  # the largest slope of s (1 - s), s the logistic function
WINDOW = (1e-10, 1e-3)  # errors of the iterate, relative to the solution, between which slopes are fitted
ROUNDING = 1e-12  # of a Jacobian, relative to its norm
AT_ONCE = 50  # iterates at which Jacobians are computed in one batch
SPARSE = 0.3  # the L1 weight, as a share of the one that makes all coordinates zero


class Curves(NamedTuple):
    """Errors at each iterate x of a first-order method: ||x - x*||, and ||J - J*|| (spectral) of several Jacobians."""

    iterate: jax.Array
    implicit: jax.Array  # J = -A(x)^-1 B(x)
    refined: jax.Array  # the same after one Newton step on x
    unrolled: jax.Array  # the derivative of x through the steps
    bound: jax.Array  # the theorem's, of ``implicit``; infinite where its assumptions fail
    scale: jax.Array  # ||J*||
    size: jax.Array  # ||x*||

    def between(self, low: float, high: float) -> np.ndarray:
        """Which iterates have an error between ``low`` and ``high`` times the size of the solution."""
        relative = np.asarray(self.iterate / self.size)
        return (relative >= low) & (relative <= high) & np.isfinite(np.asarray(self.bound))

    def slope(self, errors: jax.Array) -> float:
        """The slope of log ``errors`` against the log of the iterate's, by least squares where both are above rounding;
        NaN where fewer than three are."""
        usable = self.between(*WINDOW) & (np.asarray(errors) > ROUNDING * float(self.scale))
        if usable.sum() < 3:
            return float("nan")
        x, y = np.asarray(self.iterate)[usable], np.asarray(errors)[usable]
        return float(np.polyfit(np.log(x), np.log(y), 1)[0])

    def violations(self) -> int:
        """Iterates at which the implicit Jacobian is worse than its bound by more than rounding."""
        return int(np.sum(np.asarray(self.implicit > self.bound + ROUNDING * self.scale)))

    def advantage(self, absolute: float = 1e-4) -> float:
        """The least of unrolled / implicit where the iterate's error is below ``absolute`` and above rounding."""
        chosen = self.between(1e-10, np.inf) & np.asarray(self.iterate < absolute)
        ratios = np.asarray(self.unrolled / self.implicit)[chosen]
        return float(ratios.min()) if ratios.size else float("nan")


def precision_curves(
    problem: str, data: str = "diabetes", root: str = "", penalty: float = 1.0, iterations: int = 300
) -> Curves:
    """The errors of the Jacobian of argmin f(x) + 1/2 sum_j penalty_j x_j^2 in the penalties, all equal ``penalty``.

    ``problem`` is "ridge" (f = 1/2 ||X x - y||^2 with centred y and columns of X of mean 0 and norm 1), "l1" (the same
    with an L1 norm) or "logistic" (f the mean logistic loss on standardised inputs). The theorem's bound for the error
    e of the iterate is beta e / alpha + gamma R e / alpha^2 with beta = 1, R = max |x*|, alpha a lower bound of the
    Hessian within e of x*, and gamma a Lipschitz constant of the Hessian: 0 for least squares. For "l1" it holds where
    the iterate has the support of x*, and alpha is that of the support.
    """
    if problem not in STUDIED:
        raise ValueError(f"There is no study of {problem!r}: choose one of {', '.join(STUDIED)}.")
    found = data_sets.regression(data, root)
    inputs = (found.inputs - found.inputs.mean(axis=0)) / found.inputs.std(axis=0)
    stated = STUDIED[problem](inputs, found.targets)
    return jax.jit(measured, static_argnums=(0, 3))(
        stated, jnp.full(inputs.shape[1], penalty), tuple(map(jnp.asarray, stated.batch)), iterations
    )


@dataclass(frozen=True, eq=False)
class Stated:
    """A problem of the study: its loss and penalty, data, and the constants of the theorem."""

    loss: Loss
    penalty: Penalty
    batch: tuple[np.ndarray, np.ndarray]
    lipschitz: float  # of the gradient, without the ridge term
    gamma: float  # of the Hessian


def least_squares(params: Params, hparams: HParams, batch: Batch) -> Scalar:
    inputs, targets = batch
    return 0.5 * jnp.sum((inputs @ params - targets) ** 2) + 0.5 * jnp.sum(hparams * params**2)


def logistic_loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
    inputs, signs = batch
    return jnp.mean(jnp.logaddexp(0.0, -signs * (inputs @ params))) + 0.5 * jnp.sum(hparams * params**2)


def _ridge(inputs: np.ndarray, targets: np.ndarray) -> Stated:
    columns = inputs / np.sqrt(len(inputs))
    return Stated(least_squares, Zero(), (columns, targets - targets.mean()), largest(columns), 0.0)


def _logistic(inputs: np.ndarray, targets: np.ndarray) -> Stated:
    signs = np.where(targets > np.median(targets), 1.0, -1.0)
    curvature = largest(inputs) / len(inputs)
    gamma = CURVATURE * float(np.linalg.norm(inputs, axis=1).max()) * curvature
    return Stated(logistic_loss, Zero(), (inputs, signs), curvature / 4, gamma)


def _l1(inputs: np.ndarray, targets: np.ndarray) -> Stated:
    smooth = _ridge(inputs, targets)
    columns, centred = smooth.batch
    return replace(smooth, penalty=L1(weight=SPARSE * float(np.abs(columns.T @ centred).max())))


STUDIED = {"ridge": _ridge, "logistic": _logistic, "l1": _l1}


def largest(matrix: np.ndarray) -> float:
    """The largest eigenvalue of the Gram matrix."""
    return float(np.linalg.norm(matrix, 2) ** 2)


def measured(stated: Stated, penalties: jax.Array, batch: Batch, iterations: int) -> Curves:
    """The curves of one problem."""
    solver = Newton(tol=1e-14) if stated.penalty.smooth else ProximalGradient(tol=1e-14, max_steps=20_000)
    inner = InnerProblem(
        loss=stated.loss, init=lambda key, hparams: jnp.zeros_like(hparams), penalty=stated.penalty, solver=solver
    )
    step_size = 1 / (stated.lipschitz + jnp.max(penalties))

    def step(params: Params, hparams: HParams) -> Params:
        at = inner.at(hparams, batch)
        return at.prox(params - step_size * at.gradient(params), step_size)

    def path(hparams: HParams) -> jax.Array:
        advance = lambda params, _: (step(params, hparams),) * 2
        return jax.lax.scan(advance, jnp.zeros_like(hparams), length=iterations)[1]

    def implicit(params: Params) -> jax.Array:
        mapping = inner.mapping
        return jax.jacobian(lambda hparams: attach(mapping, Dense(), params, (hparams, batch)))(penalties)

    def corrected(params: Params) -> Params:
        """One Newton step on the optimality condition, on the face of ``params``."""
        gradient = inner.at(penalties, batch).gradient
        face = (params != 0).astype(params.dtype) if not stated.penalty.smooth else jnp.ones_like(params)
        forces = face * (gradient(params) + jax.grad(stated.penalty.value)(params, penalties))
        hessian = face[:, None] * jax.jacobian(gradient)(params) * face + jnp.diag(1 - face)
        return params - jnp.linalg.solve(hessian, forces)

    iterates, unrolled = path(penalties), jax.jacfwd(path)(penalties)
    solution = inner.solve(penalties, batch).params
    corrections = jax.lax.map(corrected, jnp.concatenate([iterates, solution[None]]), batch_size=AT_ONCE)
    refined, solution = corrections[:-1], corrections[-1]
    jacobians = jax.lax.map(implicit, jnp.concatenate([iterates, refined, solution[None]]), batch_size=AT_ONCE)
    exact = jacobians[-1]
    error = jnp.linalg.norm(iterates - solution, axis=1)
    alpha = curvature(inner, solution, penalties, batch) - stated.gamma * error
    alpha = jnp.maximum(alpha, jnp.min(penalties))  # which bounds it everywhere
    bound = error / alpha + stated.gamma * jnp.max(jnp.abs(solution)) * error / alpha**2
    same_face = jnp.all((iterates != 0) == (solution != 0), axis=1) | stated.penalty.smooth
    return Curves(
        iterate=error,
        implicit=spectral(jacobians[:iterations] - exact),
        refined=spectral(jacobians[iterations:-1] - exact),
        unrolled=spectral(unrolled - exact),
        bound=jnp.where(same_face, bound, jnp.inf),
        scale=spectral(exact),
        size=jnp.linalg.norm(solution),
    )


def curvature(inner: InnerProblem, solution: Params, penalties: jax.Array, batch: Batch) -> jax.Array:
    """The least eigenvalue of the Hessian of the loss on the support of the solution."""
    hessian = jax.hessian(inner.loss)(solution, penalties, batch)
    face = (solution != 0).astype(hessian.dtype)
    large = jnp.trace(hessian) * (1 - face)
    return jnp.linalg.eigvalsh(face[:, None] * hessian * face + jnp.diag(large))[0]


def spectral(matrices: jax.Array) -> jax.Array:
    return jnp.linalg.norm(matrices, ord=2, axis=(-2, -1))
