"""The inner losses of `scripts/adversary.py`, twice: for bilevel in jax, and their gradients by hand in numpy.

A batch is (X, y, c): samples, targets, and a direction. Every loss is  f(w; X, y) + exp(ridge)/2 ||w||^2 + shift c'w.
The numpy gradients take complex numbers, for derivatives by complex steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bilevel as bl


@dataclass(frozen=True, eq=False)
class Loss:
    """``value(w, X, y)`` in jax and ``gradient(w, X, y)`` in numpy of a flat w; ``link(z, y)`` if it is one of Xw."""

    name: str
    value: Callable[..., Any]
    gradient: Callable[..., np.ndarray]
    convex: bool = True
    link: Callable[..., Any] | None = None
    labels: bool = False  # targets are -1 and 1
    counts: bool = False  # targets are 0, 1, 2, ...


def of_map(name: str, link: Callable, slope: Callable, **facts: bool) -> Loss:
    """mean over samples of link(x'w, y)."""
    return Loss(
        name,
        value=lambda w, X, y: jnp.mean(link(X @ w, y)),
        gradient=lambda w, X, y: X.T @ slope(X @ w, y) / len(y),
        link=link,
        **facts,  # type: ignore[arg-type]  # three fields that are all bool
    )


def wells(w, X, y):
    return jnp.sum(w**4 / 4 - w**2 / 2) + 0.05 * jnp.mean((X @ w - y) ** 2)


def wells_gradient(w, X, y):
    return w**3 - w + 0.1 * X.T @ (X @ w - y) / len(y)


def product(w, X, y):
    """Two factors: mean of ((X u)(X v) - y)^2 / 2, which has a saddle at 0."""
    k = max(w.size // 2, 1)
    left, right = X[:, :k] @ w[:k], X[:, :k] @ w[-k:]
    return 0.5 * jnp.mean((left * right - y) ** 2)


def product_gradient(w, X, y):
    k = max(w.size // 2, 1)
    left, right = X[:, :k] @ w[:k], X[:, :k] @ w[-k:]
    error, gradient = (left * right - y) / len(y), np.zeros_like(w)
    gradient[:k] += X[:, :k].T @ (error * right)
    gradient[-k:] += X[:, :k].T @ (error * left)
    return gradient


def network(w, X, y):
    """One hidden layer of tanh on two inputs, three weights a unit."""
    units = w[: w.size // 3 * 3].reshape(3, -1)
    return 0.5 * jnp.mean((jnp.tanh(X[:, :1] * units[0] + X[:, -1:] * units[1]) @ units[2] - y) ** 2)


def network_gradient(w, X, y):
    units = w[: w.size // 3 * 3].reshape(3, -1)
    hidden = np.tanh(X[:, :1] * units[0] + X[:, -1:] * units[1])
    error = (hidden @ units[2] - y) / len(y)
    back = error[:, None] * (1 - hidden**2) * units[2]
    parts = [X[:, 0] @ back, X[:, -1] @ back, hidden.T @ error]
    return np.concatenate([*parts, np.zeros(w.size % 3)])


LOSSES = {
    loss.name: loss
    for loss in (
        of_map("squares", lambda z, y: 0.5 * (z - y) ** 2, lambda z, y: z - y),
        of_map(
            "logistic",
            lambda z, y: jnp.logaddexp(0, -y * z),
            lambda z, y: -y * (1 - np.tanh(y * z / 2)) / 2,
            labels=True,
        ),
        of_map("log-cosh", lambda z, y: jnp.logaddexp(z - y, y - z), lambda z, y: np.tanh(z - y)),
        of_map("poisson", lambda z, y: jnp.exp(z) - y * z, lambda z, y: np.exp(z) - y, counts=True),
        of_map("quartic", lambda z, y: 0.25 * (z - y) ** 4, lambda z, y: (z - y) ** 3),
        of_map(
            "cauchy",
            lambda z, y: 0.5 * jnp.log1p((z - y) ** 2),
            lambda z, y: (z - y) / (1 + (z - y) ** 2),
            convex=False,
        ),
        of_map(
            "welsch",
            lambda z, y: 0.5 * (1 - jnp.exp(-((z - y) ** 2))),
            lambda z, y: (z - y) * np.exp(-((z - y) ** 2)),
            convex=False,
        ),
        Loss("wells", wells, wells_gradient, convex=False),
        Loss("product", product, product_gradient, convex=False),
        Loss("network", network, network_gradient, convex=False),
    )
}
LINEAR = Loss("linear", lambda w, X, y: 0 * jnp.sum(w), lambda w, X, y: 0 * w)  # shift c'w alone: often without a bound


def flat(tree: Any) -> jax.Array:
    """The leaves of a tree as one vector, in their order."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def terms(w: Any, hparams: dict, batch: tuple) -> Any:
    """What stands beside every loss."""
    w = flat(w)
    result = hparams["shift"] * (batch[2] @ w)
    return result + 0.5 * jnp.exp(hparams["ridge"]) * (w @ w) if "ridge" in hparams else result


def stated(loss: Loss, linear: bool) -> Any:
    """The inner loss as bilevel gets it: an opaque function, or a `bl.Linear`."""
    if linear:
        assert loss.link is not None
        link = loss.link
        return bl.Linear(
            design=lambda batch: batch[0],
            loss=lambda z, w, hparams, batch: jnp.mean(link(z, batch[1])) + terms(w, hparams, batch),
        )
    return lambda w, hparams, batch: loss.value(flat(w), batch[0], batch[1]) + terms(w, hparams, batch)


def outer(w: Any, hparams: dict, batch: tuple) -> Any:
    """The outer loss, which depends on the hyperparameters directly, too; batch is (target, direction)."""
    w = flat(w)
    return 0.5 * jnp.mean((w - batch[0]) ** 2) + 0.1 * jnp.sin(batch[1] @ w) + 0.3 * hparams["shift"] ** 2


def outer_value(w, shift, batch):
    """The same in numpy."""
    return 0.5 * np.mean((w - batch[0]) ** 2) + 0.1 * np.sin(batch[1] @ w) + 0.3 * shift**2
