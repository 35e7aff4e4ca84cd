"""Our engines as a solver of benchopt's benchmark_bilevel: copy this file into its folder ``solvers``.

benchopt run benchmark_bilevel -s bilevel -d quadratic      with bilevel installed beside benchopt

The benchmark gives both levels as functions of (inner variable, outer variable, first sample, batch size). A sample of
such a level is its number, so the batches of `bl.minibatches` are batches of numbers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from benchopt import BaseSolver  # pyright: ignore[reportMissingImports]  # benchopt runs this file
from benchopt.stopping_criterion import SufficientProgressCriterion  # pyright: ignore[reportMissingImports]  # the same

import bilevel as bl
from bilevel.batches import Minibatch
from bilevel.engines import Point

ENGINES = ("SOBA", "MASOBA", "SABA", "SRBA", "FSLA", "TTSA", "BSA", "SUSTAIN", "MRBO", "VRBO", "AmIGO", "StocBiO")
FIRST_ORDER = ("F2SA", "BOME", "VPBGD", "MEHA")


def level(function: Any) -> Any:
    """A level of the benchmark as a loss of ours: each number of the batch is a batch of one."""

    def loss(params: Any, hparams: Any, batch: Minibatch) -> jax.Array:
        one = lambda number: function(params, hparams, number, batch_size=1)
        return jnp.mean(batch.weight * jax.vmap(one)(batch.data))

    return loss


class Solver(BaseSolver):
    """An engine of bilevel with gradient descent outside: step_size inside, step_size / outer_ratio outside."""

    name = "bilevel"
    stopping_criterion = SufficientProgressCriterion(patience=100, strategy="callback")
    requirements = ("pip:bilevel",)
    parameters = {  # noqa: RUF012  # benchopt reads a class attribute of this name
        "engine": [*ENGINES, *FIRST_ORDER],
        "step_size": [0.1],
        "outer_ratio": [1.0],
        "power": [0.0],
        "batch_size": [64],
        "eval_freq": [128],
        "random_state": [1],
    }

    @staticmethod
    def get_next(stop_val: int) -> int:
        return stop_val + 1

    def set_objective(self, f_inner: Any, f_outer: Any, inner_var0: Any, outer_var0: Any, **sizes: Any) -> None:
        """``sizes`` has n_inner_samples and n_outer_samples; the functions on all samples are not needed."""
        inner, outer = (jnp.arange(sizes[f"n_{name}_samples"]) for name in ("inner", "outer"))
        self.key = jax.random.key(self.random_state)
        self.start = outer_var0
        self.task = bl.Task(
            inner=bl.InnerProblem(loss=level(f_inner), init=lambda key, hparams: inner_var0),
            outer_loss=level(f_outer),
            init_hparams=lambda key: outer_var0,
            batches=bl.minibatches(inner, outer, self.batch_size),
        )
        self.run_once(2)

    def run(self, callback: Any) -> None:
        law = bl.PowerLaw(self.step_size, self.power)
        outer = bl.PowerLaw(self.step_size / self.outer_ratio, self.power)
        made: Any = getattr(bl, self.engine)
        engine = made(step_size=law) if self.engine in FIRST_ORDER else made(step_size=law, adjoint_step=law)

        def point(step: Any, hparams: Any) -> Point:
            return Point(hparams, *self.task.batches(self.key, step), key=self.key)

        def turn(step: jax.Array, state: tuple) -> tuple:
            hparams, carry = state
            _, grad, report = engine.hypergradient(self.task, point(step, hparams), carry)
            move = lambda leaf, slope: leaf - outer(step) * slope
            return jax.tree.map(move, hparams, grad), report.carry

        part = jax.jit(lambda first, state: jax.lax.fori_loop(first, first + self.eval_freq, turn, state))
        state, step = (self.start, engine.first_carry(self.task, point(jnp.int32(0), self.start))), jnp.int32(0)
        self.outer_var, self.inner_var = state[0], state[1].params
        while callback():
            state, step = part(step, state), step + self.eval_freq
            self.outer_var, self.inner_var = state[0], state[1].params

    def get_result(self) -> dict[str, Any]:
        return {"inner_var": self.inner_var, "outer_var": self.outer_var}
