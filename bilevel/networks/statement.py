"""Inner problems with networks: a flax module and a loss in, a `bl.InnerProblem` out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import optax

from bilevel.foundation.typing import HParams, Key, PyTree
from bilevel.networks.flavours import network_of
from bilevel.networks.trained import Trained, shapes_of, start_of
from bilevel.networks.training import Training
from bilevel.networks.training_loss import PRODUCTS, TrainingLoss
from bilevel.problem import InnerProblem


def as_drawn(weights: PyTree, hparams: HParams) -> PyTree:
    """The weights that the module's own initialisers drew."""
    return weights


def inner_problem(
    module: Any,
    loss: Callable[..., Any],
    optimizer: optax.GradientTransformation | Callable[[HParams], optax.GradientTransformation] = optax.sgd(0.1),
    *,
    example: Sequence[Any] = (),
    streams: Sequence[str] = (),
    start: Callable[[PyTree, HParams], PyTree] = as_drawn,
    batch_size: int = 0,
    has_aux: bool = False,
    products: str = "float32",
    max_steps: int = 1000,
    tol: float = 1e-6,
) -> InnerProblem:
    """minimise over the weights w of ``module``   loss(model, hparams, batch)   by an optax transformation.

    ``module`` is a ``flax.linen`` module, a ``flax.nnx`` module, or a function of ``nnx.Rngs`` that makes one. The loss
    calls ``model`` as flax's users do: ``model(x)``, or ``model(x, train=True)`` where a linen module takes a mode. The
    params are a `Trained`: ``params.weights`` is the unknown, and the state (statistics of BatchNorm, keys of dropout)
    is carried from step to step and has the derivative zero. ``params.model()`` is the model for an outer loss.

    ``example``: arguments of a call that shows a linen module its shapes. ``streams``: the random streams of a linen
    module, as ``("dropout",)``. ``start(weights, hparams)``: the weights at the start, from the drawn ones.
    ``optimizer`` may be a function of the hyperparameters. ``batch_size``: samples of the inner batch that each step
    draws anew; 0 takes all. ``has_aux``: the loss returns (value, {name: number}), and the log shows the numbers as
    ``train/NAME``. ``products="bfloat16"``: factors of products are rounded to bfloat16 and summed in float32, where
    the device does so (XLA on a CPU keeps float32). With randomness or ``batch_size`` no step finds a stationary point:
    use ``bl.Unrolled(steps=...)``. ValueError for a module of another kind.

    >>> import jax, jax.numpy as jnp, optax, bilevel as bl
    >>> from flax import nnx
    >>> def loss(model, hparams, batch):
    ...     x, y = batch
    ...     size = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    ...     return jnp.mean((model(x) - y) ** 2) + jnp.exp(hparams) * size
    >>> inner = bl.networks.inner_problem(lambda rngs: nnx.Linear(1, 1, rngs=rngs), loss, optax.sgd(0.3))
    >>> data = jnp.array([[-1.0], [1.0]]), jnp.array([[-2.0], [4.0]])
    >>> params = inner.solve(0.0, data).params
    >>> params.model()(jnp.array([[1.0]])).round(3).tolist()
    [[2.0]]
    """
    if products not in PRODUCTS:
        raise ValueError(f"bl.networks: products={products!r} is not one of {', '.join(PRODUCTS)}.")
    network, draws = network_of(module, example, streams), batch_size > 0
    shapes = shapes_of(network, draws)
    stated = TrainingLoss(loss, has_aux, batch_size, products)

    def init(key: Key, hparams: HParams) -> Trained:
        drawn = start_of(network, shapes, key, draws)
        return replace(drawn, weights=start(drawn.weights, hparams))

    return InnerProblem(stated, init, solver=Training(optimizer, stated.advanced, max_steps, tol))
