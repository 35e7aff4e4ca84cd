"""Many cotangents of one solution: `bl.CG` lane by lane, and `bl.BlockCG` in one Krylov space.

    python scripts/many_cotangents.py [--unknowns 1000] [--cotangents 4 16 64] [--repeats 1] [--block 64] [--only NAME]

Pulls cotangents of standard normal entries back through the solution of a regression with one regularisation weight for
each unknown (`jax.vmap` over `bl.root_vjp`), to a relative residual of 1e-8. Prints a row for each system and number of
cotangents: the products of the adjoint solve (the largest count of a lane), the seconds of one evaluation, compiled
before (medians of interleaved repetitions), and their ratio.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

import bilevel as bl

TOL, MAX_STEPS = 1e-8, 2000


def spectrum(unknowns: int, condition: float, outliers: bool) -> np.ndarray:
    """Eigenvalues from 1 / condition to 1: logarithmically even, or all but 16 of them within a factor of 2."""
    if not outliers:
        return np.logspace(-np.log10(condition), 0, unknowns)
    return np.concatenate([np.linspace(1.0, 2.0, unknowns - 16) / condition, np.logspace(-0.5, 0, 16)])


def dense(unknowns: int, eigenvalues: np.ndarray) -> jax.Array:
    """A square design X with the given eigenvalues of X'X."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(unknowns, unknowns)))[0] for _ in range(2))
    return jnp.asarray((left * np.sqrt(eigenvalues)) @ right.T)


def sparse(unknowns: int) -> BCOO:
    """Twice as many rows as unknowns, with five standard normal entries each."""
    rng, rows = np.random.default_rng(0), 2 * unknowns
    entries = rng.normal(size=5 * rows)
    places = np.stack([np.repeat(np.arange(rows), 5), rng.integers(unknowns, size=5 * rows)], axis=1)
    return BCOO((jnp.asarray(entries), jnp.asarray(places)), shape=(rows, unknowns))


def systems(unknowns: int) -> dict[str, tuple[jax.Array | BCOO, float, bool]]:
    """Design, regularisation, and whether the targets are labels of a logistic regression."""
    rng = np.random.default_rng(1)
    found: dict = {}
    for condition in (1e2, 1e4, 1e6):
        found[f"ridge, condition {condition:.0e}"] = (dense(unknowns, spectrum(unknowns, condition, False)), 0.0, False)
    found["ridge, 16 outliers, condition 1e4"] = (dense(unknowns, spectrum(unknowns, 1e4, True)), 0.0, False)
    found["logistic, normal data"] = (jnp.asarray(rng.normal(size=(2 * unknowns, unknowns))), 1.0, True)
    found["ridge, sparse design"] = (sparse(unknowns), 1.0, False)
    found["ridge, diagonal"] = (BCOO.fromdense(jnp.diag(jnp.linspace(1.0, 3.0, unknowns))), 0.0, False)
    return found


def pulled(design: jax.Array | BCOO, weight: float, labels: bool, solver: bl.LinearSolver) -> Callable:
    """cotangents -> their pullbacks to the regularisation weights, at given params: only the system counts."""
    unknowns = design.shape[1]
    params = 0.1 * jnp.cos(jnp.arange(1.0 * unknowns))
    floor = 1e-9 if weight == 0 else weight

    def residual(params: jax.Array, scales: jax.Array, design: Any) -> jax.Array:
        margin = design @ params
        slopes = jax.nn.sigmoid(margin) - 0.5 if labels else margin - 1.0
        return design.T @ slopes + floor * jnp.exp(scales) * params

    def pull(design: jax.Array | BCOO, cotangents: jax.Array) -> jax.Array:
        def one(cotangent: jax.Array) -> jax.Array:
            argument = (jnp.zeros(unknowns), design)
            return bl.root_vjp(residual, params, argument, cotangent, solve=solver)[0]

        return jax.vmap(one)(cotangents)

    return jax.jit(pull)


def products(design: jax.Array | BCOO, weight: float, labels: bool, solver: bl.LinearSolver) -> Callable:
    """cotangents -> products and worst status of the same solves."""
    params = 0.1 * jnp.cos(jnp.arange(1.0 * design.shape[1]))
    floor = 1e-9 if weight == 0 else weight

    def count(design: jax.Array | BCOO, cotangents: jax.Array) -> tuple[jax.Array, jax.Array]:
        margin = design @ params
        curvature = jax.nn.sigmoid(margin) * jax.nn.sigmoid(-margin) if labels else jnp.ones_like(margin)
        operator = bl.Operator(lambda v: design.T @ (curvature * (design @ v)) + floor * v, symmetric=True)
        solution = jax.vmap(lambda v: solver(operator, v))(cotangents)
        return jnp.max(solution.products), jnp.max(solution.status.code)

    return jax.jit(count)


def seconds(functions: list[Callable], arguments: tuple, repeats: int) -> list[float]:
    """Medians of interleaved evaluations, after one that compiles."""
    times: list[list[float]] = [[] for _ in functions]
    for repeat in range(repeats + 1):
        for function, kept in zip(functions, times, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            if repeat:
                kept.append(time.perf_counter() - began)
    return [float(np.median(kept)) for kept in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unknowns", type=int, default=1000)
    parser.add_argument("--cotangents", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    solvers = (bl.CG(TOL, MAX_STEPS), bl.BlockCG(TOL, MAX_STEPS, block=options.block))
    print("| system | cotangents | products, CG | BlockCG | seconds, CG | BlockCG | ratio |")
    for name, system in systems(options.unknowns).items():
        if options.only not in name:
            continue
        for cotangents in options.cotangents:
            vectors = jnp.asarray(np.random.default_rng(2).normal(size=(cotangents, options.unknowns)))
            counted = [products(*system, solver)(system[0], vectors) for solver in solvers]
            marks = [
                f"{int(count)}" + ("" if code <= 2 else f" ({bl.Code(int(code)).name})") for count, code in counted
            ]
            taken = seconds([pulled(*system, solver) for solver in solvers], (system[0], vectors), options.repeats)
            cells = [*marks, *(f"{one:.3f}" for one in taken), f"{taken[1] / taken[0]:.2f}"]
            print(f"| {name} | {cotangents} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
