"""Milliseconds of one short outer step, with one step in a call of the compiled program and with many.

python scripts/steps_per_call.py [--steps 2000] [--many 50]       # a quarter of a minute
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import bilevel as bl


def ridge() -> bl.Task:
    """Four unknowns, one penalty: a step of microseconds."""
    x = np.random.default_rng(0).normal(size=(30, 4))
    y = x @ np.ones(4) + 0.5

    def error(params: Any, batch: Any) -> Any:
        return 0.5 * jnp.mean((batch[0] @ params - batch[1]) ** 2)

    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: error(w, batch) + 0.5 * jnp.exp(h) * w @ w, init=lambda key, h: jnp.zeros(4)
        ),
        outer_loss=lambda w, h, batch: error(w, batch),
        init_hparams=lambda key: jnp.array(1.0),
        batches=bl.full_batch((x[:20], y[:20]), (x[20:], y[20:])),
    )


def median(steps: int, steps_per_call: int) -> float:
    """Milliseconds of the median step of a run after another one, which compiled its program."""
    trainer = bl.Trainer(optimizer=optax.adam(0.01), steps=steps, steps_per_call=steps_per_call)
    trainer.fit(ridge())
    return 1e3 * statistics.median(line["seconds"] for line in trainer.fit(ridge()).metrics)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--many", type=int, default=50)
    settings = parser.parse_args()
    for number in (1, settings.many):
        print(f"{number} steps a call: {median(settings.steps, number):.3f} ms a step", flush=True)


if __name__ == "__main__":
    main()
