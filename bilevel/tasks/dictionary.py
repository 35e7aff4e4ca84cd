"""Task-driven dictionary learning: atoms learned through sparse codes, for the label instead of the reconstruction."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel import data as data_sets
from bilevel.batches import full_batch
from bilevel.engines import Implicit
from bilevel.hypergradients import hypergradient
from bilevel.problem import InnerProblem
from bilevel.task import Task
from bilevel.tasks.comparison import auc, chosen_auc, classifier, interval, log_loss, masks_of
from bilevel.tasks.sparse_codes import coding, unit, unsupervised
from bilevel.typing import Batch, HParams, Key, Params, Scalar

GRID = tuple(10.0**power for power in range(-5, 5))  # C of logistic regression on the genes
GRID_CODES = tuple(10.0**power for power in range(-1, 5))  # and on codes
GRID_TASK = (0.1, 1.0, 10.0)
ENGINE = Implicit(accuracy="residual", on_failure="warn")


class Samples(NamedTuple):
    """Genes (n, p), chosen by variance and standardised, and labels 0 and 1."""

    inputs: np.ndarray
    labels: np.ndarray


def samples(data: str, root: str, genes: int) -> Samples:
    """The ``genes`` of largest variance, centred; scaled together, so that loud genes stay loud."""
    found = data_sets.classification(data, root)
    if found.classes != 2:
        raise data_sets.DataError(
            f"The data set {data} has {found.classes} classes, and AUC needs 2: choose planted, allaml or colon."
        )
    chosen = np.argsort(-found.inputs.var(axis=0))[:genes]
    inputs = found.inputs[:, np.sort(chosen)]
    inputs = inputs - inputs.mean(axis=0)
    return Samples(inputs / np.sqrt(np.median(inputs.var(axis=0))), found.targets)


def with_head(hparams: HParams, codes: jax.Array, batch: Batch, strength: jax.Array) -> HParams:
    """The hyperparameters of the task: dictionary, and a linear classifier of the codes fitted to begin with."""
    scale = jnp.std(codes)
    head = classifier(codes.shape[1], sparse=False).solve(strength, (codes / scale, *batch[1:3])).params
    return {**hparams, "scale": scale, "head": head}


def logits(codes: jax.Array, hparams: HParams) -> jax.Array:
    return codes / jax.lax.stop_gradient(hparams["scale"]) @ hparams["head"]["slope"] + hparams["head"]["offset"]


def levels(inner: InnerProblem, begin: Callable[[Key], HParams], batch: Batch, masks: dict, **rest: Any) -> Task:
    """The bilevel problem: the logistic loss of the codes, the batch being (X, labels, weight, strength)."""

    def outer_loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        _, labels, weight, strength = batch
        ridge = 0.5 * strength * jnp.sum(hparams["head"]["slope"] ** 2)
        return log_loss(logits(params, hparams), labels, weight) + ridge

    def evaluate(params: Params, hparams: HParams) -> dict[str, Scalar]:
        scores = logits(params, hparams)
        return {f"{name}/auc": auc(scores, batch[1], masks[name]) for name in ("validation", "test")} | {
            "codes/zero": jnp.mean(params == 0)
        }

    return Task(
        inner=inner,
        outer_loss=outer_loss,
        init_hparams=begin,
        batches=full_batch(batch, batch),
        evaluate=evaluate,
        feasible=lambda hparams: {**hparams, "dictionary": unit(hparams["dictionary"])},
        name="dictionary",
        **rest,
    )


def trained(inner: InnerProblem, start: HParams, batch: Batch, steps: int, learning_rate: float) -> HParams:
    """The hyperparameters after ``steps`` of Adam; pure, to be compiled with its surroundings."""
    task = levels(inner, lambda key: start, batch, {})
    optimizer = optax.adam(learning_rate)
    first = hypergradient(task, start, ENGINE, batch=(batch, batch))[2]

    def step(state: tuple, _: None) -> tuple[tuple, None]:
        hparams, memory, carry = state
        grad, report = hypergradient(task, hparams, ENGINE, batch=(batch, batch), carry=carry)[1:]
        updates, memory = optimizer.update(grad, memory)
        moved: Any = optax.apply_updates(hparams, updates)
        return (task.feasible(moved), memory, report.carry), None

    (hparams, _, _), _ = jax.lax.scan(step, (start, optimizer.init(start), first.carry), length=steps)
    return hparams


def dictionary(
    *,
    data: str = "planted",
    root: str = "",
    genes: int = 1000,
    atoms: int = 10,
    zeros: float = 0.5,
    strength: float = 1.0,
    splits: int = 10,
    steps: int = 100,
    learning_rate: float = 1e-2,
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """Atoms D and a classifier of the sparse codes of gene expressions, learned together from the labels.

        inner:  argmin over z of 1/2 ||X - z D||^2 + l1 ||z||_1 + l2/2 ||z||^2
        outer:  mean logistic loss of (z w + b) on the training samples + ||w||^2 / (2 ``strength`` n)

    The start is unsupervised: atoms for reconstruction, and the classifier of their codes. l1 makes about ``zeros`` of
    the codes zero. Metrics: validation/auc, test/auc, codes/zero. The summary compares, over ``splits`` random splits
    60/20/20: auc_l1 and auc_l2 (logistic regression on all genes), auc_dictionary (unsupervised), auc_task_driven, each
    with the half width _ci95 of its interval; C is chosen by validation AUC and the fit repeated on both.

    Source: Mairal, Bach and Ponce, 2012; Blondel et al., 2021, section 4.3.
    """
    found = samples(data, root, genes)
    inputs, labels = jnp.asarray(found.inputs), jnp.asarray(found.labels)
    inner = coding(len(labels), atoms)
    masks = masks_of(found.labels, seed)
    parts = {name: jnp.asarray(mask) for name, mask in masks.items()}
    batch = (inputs, labels, parts["train"], 1 / (strength * jnp.sum(parts["train"])))

    def begin(key: Key) -> HParams:
        hparams = unsupervised(inner, inputs, parts["train"], atoms, zeros)
        return with_head(hparams, inner.solve(hparams, batch).params, batch, batch[3])

    @cache
    def compared() -> dict[str, float]:
        return comparison_figures(found, atoms, zeros, splits, steps, learning_rate)

    return levels(inner, begin, batch, parts, baselines=compared, precision=precision)


def comparison_figures(
    found: Samples, atoms: int = 10, zeros: float = 0.5, splits: int = 10, steps: int = 100, learning_rate: float = 1e-2
) -> dict[str, float]:
    """Mean test AUC and half width of its 95 % interval over random splits, for the four ways."""
    return summary_of(compared_splits(found, atoms, zeros, splits, steps, learning_rate))


def summary_of(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means and half widths of intervals of what `dictionary_splits` finds."""
    numbers: dict[str, float] = {}
    for name in ("l1", "l2", "dictionary", "task_driven"):
        numbers[f"auc_{name}"], numbers[f"auc_{name}_ci95"] = interval(np.array([row[name] for row in rows]))
    gains = np.array([row["task_driven"] - row["dictionary"] for row in rows])
    numbers["auc_gain"], numbers["auc_gain_ci95"] = interval(gains)
    numbers["codes_zero"] = float(np.mean([row["zero"] for row in rows]))
    return numbers


def dictionary_splits(
    data: str = "planted", root: str = "", splits: int = 10, genes: int = 1000, atoms: int = 10, steps: int = 100
) -> list[dict[str, float]]:
    """Test AUC of the four ways (l1, l2, dictionary, task_driven), and the share of zero codes, for each random split;
    settings as in `dictionary`."""
    return compared_splits(samples(data, root, genes), atoms, 0.5, splits, steps, 1e-2)


def compared_splits(
    found: Samples, atoms: int, zeros: float, splits: int, steps: int, learning_rate: float
) -> list[dict[str, float]]:
    """`dictionary_splits` of samples at hand."""
    inputs, labels = jnp.asarray(found.inputs), jnp.asarray(found.labels)
    genes = found.inputs.shape[1]
    inner = coding(len(found.labels), atoms)

    def learned(weight: jax.Array, strength: jax.Array) -> tuple[HParams, jax.Array]:
        batch = (inputs, labels, weight, strength)
        hparams = unsupervised(inner, inputs, weight, atoms, zeros)
        start = with_head(hparams, inner.solve(hparams, batch).params, batch, strength)
        hparams = trained(inner, start, batch, steps, learning_rate)
        codes = inner.solve(hparams, batch).params
        return logits(codes, hparams), jnp.mean(codes == 0)

    @jax.jit
    def one(masks: dict) -> dict[str, jax.Array]:
        both = masks["train"] + masks["validation"]
        atoms_of_both = unsupervised(inner, inputs, both, atoms, zeros)
        codes = inner.solve(atoms_of_both, (inputs, labels, both)).params
        grid = jnp.asarray(GRID_TASK)

        def score(c: jax.Array) -> jax.Array:
            scores, _ = learned(masks["train"], 1 / (c * jnp.sum(masks["train"])))
            return auc(scores, labels, masks["validation"])

        best = grid[jnp.argmax(jax.lax.map(score, grid))]
        scores, zero = learned(both, 1 / (best * jnp.sum(both)))
        return {
            "l1": chosen_auc(classifier(genes, True), inputs, labels, masks, jnp.asarray(GRID)),
            "l2": chosen_auc(classifier(genes, False), inputs, labels, masks, jnp.asarray(GRID)),
            "dictionary": chosen_auc(
                classifier(atoms, False), codes / jnp.std(codes), labels, masks, jnp.asarray(GRID_CODES)
            ),
            "task_driven": auc(scores, labels, masks["test"]),
            "zero": zero,
        }

    return [{k: float(v) for k, v in one(masks_of(found.labels, seed)).items()} for seed in range(splits)]
