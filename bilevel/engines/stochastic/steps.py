"""The step sizes of stochastic engines: numbers, power laws, or schedules of optax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from bilevel.engines.base import Engine, check_policy

StepSize: TypeAlias = Any  # a number, or a function of the outer step: `PowerLaw`, a schedule of optax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PowerLaw:
    """first / (1 + step / after)^power, a step size that decreases with the number of the outer step (0, 1, ...).

    ``power`` 0.5 is the rule of stochastic gradient descent, and a negative one lets a weight grow; ``after`` is the
    number of steps that the first size lasts. All three are traced: another value compiles nothing again. It is a
    schedule of optax too: ``optax.sgd(bl.PowerLaw(0.1))``.

    >>> sizes = PowerLaw(first=0.4, power=0.5, after=10.0)
    >>> round(float(sizes(0)), 6), round(float(sizes(30)), 6)
    (0.4, 0.2)
    """

    first: float | jax.Array = 0.1
    power: float | jax.Array = 0.5
    after: float | jax.Array = 1.0

    def __call__(self, step: Any) -> jax.Array:
        return self.first / (1 + jnp.asarray(step, jnp.result_type(float)) / self.after) ** self.power


@jax.tree_util.register_static
@dataclass(frozen=True)
class Stated:
    """A schedule that is a plain function: compared by identity, and a part of the compiled program."""

    schedule: Callable[[Any], Any]

    def __call__(self, step: jax.Array | int) -> Any:
        return self.schedule(step)


def size_at(size: StepSize, step: jax.Array) -> Any:
    """The step size in outer step ``step``.

    >>> size_at(0.1, jnp.int32(7))
    0.1
    """
    return size(step) if callable(size) else size


class Stepping(Engine):
    """An engine that is carried from step to step. Abstract.

    Its step sizes and weights are numbers or functions of the outer step: `bl.PowerLaw`, or a schedule of optax. State
    a schedule once, because a new function is a new program. Its memory has the fields ``reference``, the norm of the
    first inner direction, and ``step``, the outer steps so far.
    """

    stochastic = True

    def __post_init__(self) -> None:
        check_policy(self.on_failure)
        for one in fields(self):  # type: ignore[arg-type]  # the subclasses are dataclasses
            value = getattr(self, one.name)
            if callable(value) and not isinstance(value, PowerLaw | Stated):  # a function is no leaf of a pytree
                object.__setattr__(self, one.name, Stated(value))
