"""Seconds of a lasso's solution and hypergradient with a sparse design on the device (BCOO) and on the host.

    python scripts/sparse_designs.py [--smoke]

Rows of normal entries at random places, 1 in 200 columns matters; and the texts of reuters, half for training and half
for validation, where BILEVEL_DATA has them (columns scaled to length sqrt(samples)). Squared loss, a tenth and a
thirtieth of the largest penalty; cold start, float64, tolerances of 1e-8, ``accuracy="residual"``; medians of three
runs in turn. The error is relative to the closed form on the support of the solution, in NumPy.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.experimental.sparse import BCOO

import bilevel as bl

SIZES = ((2_000, 100_000, 1e-3), (20_000, 100_000, 1e-3))
SMOKE = ((200, 2_000, 2e-2),)
SHARES = (10, 30)
KEPT: dict[str, Callable] = {"BCOO": BCOO.from_scipy_sparse, "host": bl.HostMatrix}
TOL, REPEATS = 1e-8, 3


def planted(*size: Any) -> list:
    rng = np.random.default_rng(0)
    return [half(rng, *size) for _ in range(2)]


def half(rng: np.random.Generator, samples: int, features: int, density: float) -> tuple[Any, np.ndarray]:
    shape = {"density": density, "rng": rng, "format": "csr", "data_rvs": rng.standard_normal}
    design = scipy.sparse.random(samples, features, **shape)
    return design, design @ np.where(np.arange(features) % 200 == 0, 3.0, 0.0) + 0.1 * rng.standard_normal(samples)


def reuters() -> list:
    found: Any = bl.data.load("reuters")
    inputs = found.inputs.tocsc()
    lengths = np.sqrt(np.asarray(inputs.multiply(inputs).mean(axis=0)).ravel())
    inputs = (inputs @ scipy.sparse.diags_array(1 / np.where(lengths > 0, lengths, 1))).tocsr()
    signs = np.where(np.asarray(found.targets) > 0, 1.0, -1.0)
    order = np.random.default_rng(0).permutation(len(signs))
    return [(inputs[part], signs[part]) for part in np.array_split(order, 2)]


def squares(z: jax.Array, params: jax.Array, hparams: jax.Array, batch: tuple) -> jax.Array:
    return 0.5 * jnp.mean((z - batch[1]) ** 2)


def hypergradient(kept: Callable, halves: list, at: float) -> Callable[[], tuple]:
    loss = bl.Linear(lambda batch: batch[0], squares)
    features = halves[0][0].shape[1]
    inner = bl.InnerProblem(
        loss, lambda key, h: jnp.zeros(features), penalty=bl.L1(weight=jnp.exp), solver=bl.Auto(tol=TOL)
    )
    batches = bl.full_batch(*((kept(design), jnp.asarray(target)) for design, target in halves))
    task = bl.Task(inner, outer_loss=loss, init_hparams=lambda key: jnp.zeros(()), batches=batches)
    engine = bl.Implicit(linear_solve=bl.AutoLinear(tol=TOL), accuracy="residual")
    return lambda: jax.block_until_ready(bl.hypergradient(task, jnp.asarray(at), engine))


def exact(halves: list, at: float, params: np.ndarray) -> float:
    """The derivative in the log of the penalty by the closed form on the support and signs of ``params``."""
    (x, y), (v, t) = halves
    support = np.flatnonzero(params)
    columns, held_out, signs = x.tocsc()[:, support], v.tocsc()[:, support], np.sign(params[support])
    gram = (columns.T @ columns).toarray() / len(y)
    solution = np.linalg.solve(gram, columns.T @ y / len(y) - np.exp(at) * signs)
    adjoint = np.linalg.solve(gram, held_out.T @ (held_out @ solution - t) / len(t))
    return float(-np.exp(at) * signs @ adjoint)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one small problem")
    settings = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print("samples features entries penalty support design first_s median_s error", flush=True)
    problems = [partial(planted, *size) for size in (SMOKE if settings.smoke else SIZES)]
    try:
        problems += [] if settings.smoke else [partial(list, reuters())]
    except bl.data.DataError as missing:
        print(f"Left out: {missing}", flush=True)
    for problem in problems:
        halves = problem()
        design, target = halves[0]
        largest = float(np.max(np.abs(design.T @ target))) / design.shape[0]
        for share in SHARES:
            report(halves, float(np.log(largest / share)), share)


def report(halves: list, at: float, share: int) -> None:
    arms = {name: hypergradient(kept, halves, at) for name, kept in KEPT.items()}
    first, seconds, found = {}, {name: [] for name in arms}, {}
    for number in range(REPEATS + 1):
        for name, run in arms.items():
            began = time.perf_counter()
            found[name] = run()
            took = time.perf_counter() - began
            if number:
                seconds[name].append(took)
            else:
                first[name] = took
    design = halves[0][0]
    for name, (_, grad, result) in found.items():
        params = np.asarray(result.params)
        error = abs(float(grad) / exact(halves, at, params) - 1)
        line = (*design.shape, design.nnz, f"1/{share}", np.count_nonzero(params), name)
        print(*line, f"{first[name]:.1f} {statistics.median(seconds[name]):.3g} {error:.1e}", flush=True)


if __name__ == "__main__":
    main()
