"""The same outer iterations by several ways to the hypergradient, their steps taken in turn so that noise is shared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import optax

import bilevel as bl

TOL, LONGEST = 1e-5, 2000  # of the inner gradient descent: hypergradients to about 1e-3
TIGHT, LONGER = 1e-7, 20_000  # the same with hypergradients to about 1e-5
PLAIN = (500, 4000)  # steps of the plain unrolled loops; 500 is the most that the author's notebooks allow
LEARNING_RATE = 0.01


class Arm:
    """One way: its images, optimiser state and the seconds that each step took."""

    def __init__(self, gradient: Callable, hparams: jax.Array):
        self.gradient, self.hparams, self.carry = gradient, hparams, None
        self.optimizer = optax.adam(LEARNING_RATE)
        self.state = self.optimizer.init(hparams)
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def step(self) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        grad, self.carry = self.gradient(self.hparams, self.carry)
        updates, self.state = self.optimizer.update(grad, self.state)
        self.hparams = jax.block_until_ready(optax.apply_updates(self.hparams, updates))
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)


def by_engine(task: bl.Task, engine: bl.Engine, warm: bool) -> Callable:
    """(hparams, carry) -> (hypergradient, carry)."""

    def gradient(hparams: jax.Array, carry: bl.Carry | None) -> tuple[jax.Array, bl.Carry | None]:
        _, grad, report = bl.hypergradient(task, hparams, engine, carry=carry)
        return grad, report.carry if warm else None

    return gradient


def by_plain_scan(task: bl.Task, penalty: float, steps: int) -> Callable:
    """Reverse mode through a plain `lax.scan` of gradient descent, no condition in it, its steps checkpointed."""
    inner, outer = task.batches(jax.random.key(0), 0)
    slope = jax.grad(task.inner.loss)

    @jax.jit
    @jax.grad
    def gradient(hparams: jax.Array) -> jax.Array:
        # the softmax has a Hessian below 1/2; one more for the intercept
        curvature = (jnp.linalg.norm(hparams, 2) ** 2 + len(hparams)) / (2 * len(hparams)) + penalty
        size = 1 / jax.lax.stop_gradient(curvature)
        step = jax.checkpoint(lambda w, _: (w - size * slope(w, hparams, inner), None))
        params, _ = jax.lax.scan(step, task.inner.init(jax.random.key(0), hparams), length=steps)
        return task.outer_loss(params, hparams, outer)

    return lambda hparams, carry: (gradient(hparams), None)


def interleaved(data: str, shares: dict, penalty: float, steps: int) -> tuple[dict[str, dict], float]:
    """Median seconds a step and error of the last hypergradient by arm; how far apart implicit and unrolled images are.

    The unrolled arms start each inner solve anew, as derivatives through the steps do not see a warm start.
    """
    kernel = bl.tasks.distillation(data=data, **shares, penalty=penalty, form="kernel")
    primal = bl.tasks.distillation(data=data, **shares, penalty=penalty)
    primal = replace(primal, inner=primal.inner.with_solver(bl.GradientDescent(max_steps=LONGEST, tol=TOL)))
    tight = replace(primal, inner=primal.inner.with_solver(bl.GradientDescent(max_steps=LONGER, tol=TIGHT)))
    implicit = bl.Implicit(accuracy="residual")
    start = jnp.asarray(primal.init_hparams(jax.random.key(0)))
    arms = {
        "implicit, kernel Newton": Arm(by_engine(kernel, implicit, warm=True), start),
        "implicit, gradient descent": Arm(by_engine(primal, implicit, warm=True), start),
        "implicit, same, no warm start": Arm(by_engine(primal, implicit, warm=False), start),
        "unrolled, gradient descent": Arm(by_engine(primal, bl.Unrolled(), warm=False), start),
        "implicit, the same to 1e-7": Arm(by_engine(tight, implicit, warm=True), start),
        "unrolled, the same to 1e-7": Arm(by_engine(tight, bl.Unrolled(), warm=False), start),
    }
    for length in PLAIN:
        arms[f"unrolled, plain scan of {length}"] = Arm(by_plain_scan(primal, penalty, length), start)
    for _ in range(steps):
        for arm in arms.values():
            arm.step()
    exact = by_engine(kernel, implicit, warm=False)
    found = {}
    for name, arm in arms.items():
        truth = exact(arm.hparams, None)[0]
        error = jnp.linalg.norm(arm.gradient(arm.hparams, arm.carry)[0] - truth) / jnp.linalg.norm(truth)
        # the first two calls compile: without and with a carry
        times = {"cpu seconds": statistics.median(arm.cpu[2:]), "wall seconds": statistics.median(arm.wall[2:])}
        found[name] = {**times, "gradient error": float(error)}
    ours, other = arms["implicit, kernel Newton"].hparams, arms["unrolled, gradient descent"].hparams
    return found, float(jnp.linalg.norm(ours - other) / jnp.linalg.norm(ours))
