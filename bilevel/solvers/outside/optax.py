"""Any optax transformation as an inner solver, or as a training whose settings are hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from bilevel.foundation import trees
from bilevel.foundation.typing import Batch, Counts, HParams, Key, Params, PyTree
from bilevel.solvers.base import SPARING, Solver, State, needs_smooth, settings
from bilevel.solvers.instance import Instance

Draw: TypeAlias = Callable[[Key, jax.Array, Batch], Batch]


def every_sample(key: Key, step: jax.Array, batch: Batch) -> Batch:
    """The whole inner batch at every step."""
    return batch


class Memory(NamedTuple):
    gradient: PyTree  # at the params, on the batch of the next step
    inside: PyTree  # the state of the transformation
    steps: jax.Array


@settings
@dataclass(frozen=True)
class Optax(Solver):
    """w <- w + update(grad loss(w)), with the updates of an ``optax.GradientTransformation``.

    ``transformation`` is one, or a function of the hyperparameters that returns one: learning rates, schedules,
    momentum and decay may then depend on them. One that takes ``value``, ``grad`` or ``value_fn`` (``optax.lbfgs``,
    ``polyak_sgd``, ``reduce_on_plateau``) gets them.

    ``steps`` makes the solver a training: w is what exactly so many steps from the cold start lead to, ``max_steps``
    and ``tol`` are ignored, and the status is ``truncated``. `bl.Unrolled` and `bl.Forward` differentiate all of these
    steps, `bl.Truncated` the last ones. Engines that need a solution refuse, because a training does not look for one.
    With 0 the steps go on until the gradient vanishes, and no solution depends on the settings.

    ``draw(key, step, batch)`` gives the batch of a step, a pure function (`bl.draw_samples`); it needs ``steps``. The
    key is the key of the cold start: the same at each outer step, unless the task has ``warm_start=False``. The
    residual is measured on the whole inner batch, so the loss has to take that too.

    The derivative of ``optax.adam`` is NaN where a gradient was always 0: give it an ``eps_root``. A line search has a
    loop that `bl.Unrolled` cannot differentiate in reverse mode; use `bl.Forward`.

    >>> import jax.numpy as jnp, optax, bilevel as bl
    >>> training = bl.Optax(lambda hparams: optax.sgd(hparams["rate"]), steps=2)
    >>> task = bl.Task(inner=bl.InnerProblem(loss=lambda w, h, batch: 0.5 * (w - batch) ** 2,
    ...                                      init=lambda key, h: jnp.zeros(()), solver=training),
    ...                outer_loss=lambda w, h, batch: w, init_hparams=lambda key: {"rate": jnp.array(0.25)},
    ...                batches=bl.full_batch(1.0, 0.0))
    >>> value, grad, _ = bl.hypergradient(task, {"rate": jnp.array(0.25)}, bl.Unrolled())
    >>> float(value), float(grad["rate"])  # of 1 - (1 - rate)^2
    (0.4375, 1.5)
    """

    transformation: optax.GradientTransformation | Callable[[HParams], optax.GradientTransformation] = optax.sgd(0.1)
    max_steps: int = 1000
    tol: float | jax.Array = 1e-6
    steps: int = 0
    draw: Draw = field(default=every_sample, metadata={"of_data": True})

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(
                f"bl.Optax(steps={self.steps}): train for 1, 2, ... steps; 0: until the gradient vanishes."
            )
        if self.draw is not every_sample and not self.steps:
            raise ValueError(
                "bl.Optax(draw=...) needs steps=..., because gradients on drawn batches do not vanish and would never "
                "stop the solver."
            )

    @property
    def budget(self) -> int:
        return self.steps

    def init(self, instance: Instance, params: Params) -> State:
        gradient = self._seen(instance, jnp.int32(0)).gradient(params)
        memory = Memory(gradient, self._at(instance).init(params), jnp.int32(0))
        return State(params, trees.norm(gradient), Counts(gradients=1), memory)

    def step(self, instance: Instance, state: State) -> State:
        memory: Memory = state.memory
        seen = self._seen(instance, memory.steps)
        asked = {"value": seen.value(state.params), "grad": memory.gradient, "value_fn": seen.value}
        update = self._at(instance).update
        updates, inside = update(memory.gradient, memory.inside, state.params, **asked)
        # Hyperparameters of a wider type than the params would widen the state of the transformation.
        inside = jax.tree.map(lambda new, old: jnp.asarray(new, jnp.result_type(old)), inside, memory.inside)
        params: PyTree = optax.apply_updates(state.params, updates)
        gradient = self._seen(instance, memory.steps + 1).gradient(params)
        searched = optax.tree.get_all_with_path(inside, "num_linesearch_steps")
        counts = state.counts.plus(gradients=1 + sum(number for _, number in searched))
        memory = Memory(gradient, inside, memory.steps + 1)
        return State(params, trees.norm(gradient), counts, memory, derivative=SPARING)

    def refresh(self, instance: Instance, state: State) -> State:
        gradient = self._seen(instance, state.memory.steps).gradient(state.params)
        return state._replace(memory=state.memory._replace(gradient=gradient), counts=state.counts.plus(gradients=1))

    def refuse(self, instance: Instance) -> None:
        needs_smooth(self, instance)

    def _at(self, instance: Instance) -> optax.GradientTransformationExtraArgs:
        """The transformation at the hyperparameters."""
        made = self.transformation
        made = made if isinstance(made, optax.GradientTransformation) else made(instance.hparams)
        return optax.with_extra_args_support(made)

    def _seen(self, instance: Instance, step: jax.Array) -> Instance:
        """The problem on the batch of a step."""
        if self.draw is every_sample:
            return instance
        key = jax.random.key(0) if instance.key is None else instance.key
        return instance.with_values(instance.hparams, self.draw(key, step, instance.batch))
