"""Products of the adjoint solves of eight outer steps with and without recycled directions: bl.Implicit(recycle=40).

    python -m experiments.reuse.recycling [--smoke]        # about 2 minutes

The problems of `benchmark.py` with L-BFGS (20 pairs) and CG at tolerances of 1e-6, warm-started, along one path of Adam
at rate 0.1. Processor seconds are of whole evaluations, the arms in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import bilevel as bl
from bilevel.tasks import hyperclean
from experiments import common
from experiments.reuse.benchmark import TOL, logistic, ridge

COLUMNS = ("problem", "arm", "adjoint_products", "cpu_seconds", "gradient_distance")
STEPS = 8
ARMS = {"plain": {}, "reuse": {"reuse": True}, "recycle 10": {"recycle": 10}, "recycle 40": {"recycle": 40}}


def main() -> None:
    settings = common.parser(__doc__, "hyper-cleaning only").parse_args()
    jax.config.update("jax_enable_x64", True)
    out = common.folder(settings, Path(__file__).parent)
    common.write(out / "recycling.csv", COLUMNS, [])
    makers: dict[str, Callable[[], bl.Task]] = {
        "hyperclean": hyperclean,
        "ijcnn1": lambda: logistic("ijcnn1"),
        "a9a": lambda: logistic("a9a"),
        "ridge": lambda: ridge(1000),
    }
    print(("{:>18}" * len(COLUMNS)).format(*COLUMNS))
    for name in list(makers)[:1] if settings.smoke else makers:
        for row in descended(makers[name]()):
            common.append(out / "recycling.csv", [name, *row])
            print(("{:>18}" * len(COLUMNS)).format(name, *row), flush=True)


def descended(task: bl.Task) -> list[list[object]]:
    """A row an arm: products and seconds of all steps, and how far its gradients are from the plain ones."""
    task = replace(task, inner=task.inner.with_solver(bl.LBFGS(tol=TOL, memory=20, max_steps=5000)))
    engines = {
        name: bl.Implicit(linear_solve=bl.CG(tol=TOL), accuracy="residual", **more) for name, more in ARMS.items()
    }
    hparams, optimizer = task.init_hparams(jax.random.key(0)), optax.adam(0.1)
    memory = optimizer.init(hparams)
    for engine in engines.values():
        bl.hypergradient(task, hparams, engine)
    carries, products = dict.fromkeys(ARMS), dict.fromkeys(ARMS, 0)
    seconds, distance = dict.fromkeys(ARMS, 0.0), dict.fromkeys(ARMS, 0.0)
    for _ in range(STEPS):
        grads = {}
        for name, engine in engines.items():
            began = time.process_time()
            _, grads[name], report = bl.hypergradient(task, hparams, engine, carry=carries[name])
            jax.block_until_ready(grads[name])
            seconds[name] += time.process_time() - began
            carries[name], products[name] = report.carry, products[name] + int(report.adjoint_steps)
        for name, grad in grads.items():
            apart = jnp.linalg.norm(grad - grads["plain"]) / jnp.linalg.norm(grads["plain"])
            distance[name] = max(distance[name], float(apart))
        updates, memory = optimizer.update(grads["plain"], memory, hparams)
        hparams = optax.apply_updates(hparams, updates)
    return [[name, products[name], f"{seconds[name]:.2f}", f"{distance[name]:.0e}"] for name in ARMS]


if __name__ == "__main__":
    main()
