"""``command=check``: every engine against finite differences of the outer loss, at the start of a task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from bilevel.cli.choices import configs
from bilevel.cli.train import build, use_compilation_cache
from bilevel.engines import Engine
from bilevel.hypergradients import hypergradient
from bilevel.task import PRECISIONS, Task
from bilevel.typing import HParams

DIRECTIONS = 3
STEPS = {"float64": 1e-3, "float32": 3e-2}
ALLOWED = {"float64": 1e-4, "float32": 3e-2}  # relative, beyond the uncertainty of the differences
MANY = 100  # forward mode costs a tangent for each hyperparameter


class DisagreementError(RuntimeError):
    """An engine that claims to be exact is not."""


class Row(NamedTuple):
    """What is found of one engine."""

    engine: str
    error: float  # the largest over the directions, relative to the largest slope
    estimate: float  # the engine's own, relative to the same
    status: str
    verdict: str


def check(config: DictConfig) -> None:
    """Prints a line for each engine; raises `DisagreementError` if one that converged is wrong.

    The oracle is the central difference of fourth order of the outer loss along random directions, whose uncertainty
    is judged by its distance from that of second order. Engines that truncate by design are measured, not judged.
    """
    use_compilation_cache(config.compilation_cache)
    task, trainer = build(config)
    with jax.enable_x64(PRECISIONS[task.precision]):
        key, for_directions = jax.random.split(jax.random.key(config.seed))
        hparams = jax.tree.map(jnp.asarray, task.feasible(task.init_hparams(key)))
        directions = [random_direction(subkey, hparams) for subkey in jax.random.split(for_directions, DIRECTIONS)]
        slopes, uncertainty = differences(task, trainer.engine, hparams, directions, key)
        print(f"{task.name}: slopes {', '.join(f'{slope:.6g}' for slope in slopes)} (uncertainty {uncertainty:.1e})")
        print(f"{'engine':<16}{'error':>10}{'estimate':>10}  {'status':<12}verdict")
        rows = [row for row in measure(config, task, hparams, directions, slopes, uncertainty, key)]
    wrong = [row.engine for row in rows if row.verdict == "WRONG"]
    if wrong:
        raise DisagreementError(
            f"{', '.join(wrong)} disagree with finite differences of the outer loss: tighten the inner solver "
            "(solver=... solver.tol=...), or report the task and the engine as a bug."
        )


def measure(
    config: DictConfig,
    task: Task,
    hparams: HParams,
    directions: list[HParams],
    slopes: list[float],
    uncertainty: float,
    key: jax.Array,
) -> Iterator[Row]:
    scale = max(*map(abs, slopes), uncertainty, math.ulp(0.0))
    for name, engine in engines(config, hparams):
        try:
            _, grad, report = hypergradient(task, hparams, engine, key=key)
        except (ValueError, TypeError, NotImplementedError) as refusal:
            print(f"{name:<16}{'-':>10}{'-':>10}  {'refused':<12}{refusal}")
            continue
        error = max(abs(dot(grad, direction) - slope) for direction, slope in zip(directions, slopes, strict=True))
        status = report.status.name
        exact = status in ("converged", "stalled")
        bound = ALLOWED[task.precision] * scale + 10 * uncertainty
        verdict = ("right" if error <= bound else "WRONG") if exact else "not judged"
        row = Row(name, error / scale, float(report.error_estimate) / scale, status, verdict)
        print(f"{row.engine:<16}{row.error:>10.1e}{row.estimate:>10.1e}  {row.status:<12}{row.verdict}")
        yield row


def engines(config: DictConfig, hparams: HParams) -> Iterator[tuple[str, Engine]]:
    """The engine that was asked for, or all of the group ``engine``."""
    choices = HydraConfig.get().overrides.task
    asked = [choice.partition("=")[2] for choice in choices if choice.startswith("engine=")]
    number = sum(leaf.size for leaf in jax.tree.leaves(hparams))
    for name in asked or sorted(path.stem for path in (configs() / "engine").glob("*.yaml")):
        if name == "forward" and number > MANY and not asked:
            print(f"{name:<16}{'-':>10}{'-':>10}  {'left out':<12}{number} tangents; engine=forward insists")
            continue
        engine = instantiate(compose("config", [f"engine={name}"]).engine, _convert_="all")
        yield name, replace(engine, on_failure="skip")  # failures are shown, not raised


def differences(
    task: Task, engine: Engine, hparams: HParams, directions: list[HParams], key: jax.Array
) -> tuple[list[float], float]:
    """The slope of the outer loss along each direction, and how uncertain it is."""
    step = STEPS[task.precision]

    def loss(direction: HParams, length: float) -> float:
        moved = jax.tree.map(lambda leaf, along: leaf + length * along, hparams, direction)
        return float(hypergradient(task, moved, engine, key=key)[0])

    def central(of: Callable[[float], float], length: float) -> float:
        return (of(length) - of(-length)) / (2 * length)

    fine, coarse = [], []
    for direction in directions:
        near, far = (central(lambda length, along=direction: loss(along, length), reach) for reach in (step, 2 * step))
        coarse.append(near)
        fine.append((4 * near - far) / 3)
    return fine, max(abs(one - other) for one, other in zip(fine, coarse, strict=True))


def random_direction(key: jax.Array, hparams: HParams) -> HParams:
    """A direction of unit length."""
    leaves, structure = jax.tree.flatten(hparams)
    keys = jax.random.split(key, len(leaves))
    drawn: list[Any] = [jax.random.normal(one, leaf.shape, leaf.dtype) for one, leaf in zip(keys, leaves, strict=True)]
    length = math.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in drawn))
    return jax.tree.unflatten(structure, [leaf / length for leaf in drawn])


def dot(one: HParams, other: HParams) -> float:
    """The inner product of two pytrees."""
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), one, other)
    return float(sum(jax.tree.leaves(products)))
