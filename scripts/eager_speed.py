"""What an eager call costs: its first one (tracing and compiling), and each later one.

    python scripts/eager_speed.py [--calls 1000]

No compilation cache is used. "first" is wall seconds, "later" the median of the later calls in milliseconds.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import bilevel as bl


def cases() -> dict[str, Callable[[], jax.Array]]:
    """Name -> an eager call."""
    random = np.random.default_rng(0)
    Q, q = jnp.eye(5), jnp.asarray(random.normal(size=5))
    G, h = jnp.asarray(random.normal(size=(4, 5))), jnp.ones(4)
    program = lambda q: bl.quadratic_program(Q, q, G=G, h=h).params
    total = lambda q: jnp.sum(program(q))
    samples = jnp.asarray(random.normal(size=(100, 20)))
    labels = jnp.asarray(np.sign(random.normal(size=100)))
    logistic = bl.InnerProblem(
        loss=lambda w, h, batch: jnp.mean(jnp.log1p(jnp.exp(-batch[1] * (batch[0] @ w)))) + 0.5 * jnp.exp(h) * w @ w,
        init=lambda key, h: jnp.zeros(20),
    )
    solved = lambda h: logistic.solve(h, (samples, labels)).params
    return {
        "quadratic program, 5 unknowns": lambda: program(q),
        "its gradient": lambda: jax.grad(total)(q),
        "its gradient, a batch of 16": lambda: jax.vmap(jax.grad(total))(jnp.tile(q, (16, 1))),
        "logistic regression, 20 unknowns": lambda: solved(jnp.array(0.0)),
        "its derivative": lambda: jax.grad(lambda h: jnp.sum(solved(h)))(jnp.array(0.0)),
        "projection on the simplex": lambda: bl.projections.simplex(q),
        "root_vjp": lambda: bl.root_vjp(_condition, jnp.sqrt(q**2), (q**2,), q)[0],
    }


def _condition(w: jax.Array, theta: jax.Array) -> jax.Array:
    return w**2 - theta


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    calls = parser.parse_args().calls
    jax.config.update("jax_enable_x64", True)
    jnp.ones(3).block_until_ready()  # the start of the backend is nobody's
    for name, call in cases().items():
        begin = time.perf_counter()
        call().block_until_ready()
        first = time.perf_counter() - begin
        seconds, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(calls):
            begin = time.perf_counter()
            call().block_until_ready()
            seconds.append(time.perf_counter() - begin)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        later = 1000 * statistics.median(seconds)
        print(f"{name}: first {first:.2f} s, later {later:.2f} ms, grown by {grown:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
