"""Task-driven dictionary learning: the bilevel problem, its training, and its comparison with three other ways."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.batches import full_batch
from bilevel.engines import Implicit
from bilevel.engines.hypergradients import hypergradient
from bilevel.foundation.compilation import Program
from bilevel.foundation.typing import Batch, HParams, Key, Params, Scalar
from bilevel.problem import InnerProblem
from bilevel.task import Task
from bilevel.tasks.grids import highest

from .comparison import Chosen, auc, chosen_auc, classifier, log_loss, masks_of
from .sparse_codes import coding, unit, unsupervised

GRID = tuple(10.0**power for power in range(-5, 5))  # C of logistic regression on the genes
GRID_CODES = tuple(10.0**power for power in range(-1, 5))  # and on codes
SHARES = (0.05, 0.2, 0.5)  # of zeros among the first codes
ENGINE = Implicit(accuracy="residual", on_failure="warn")


class Samples(NamedTuple):
    """Genes (n, p), chosen by variance and standardised, and labels 0 and 1."""

    inputs: np.ndarray
    labels: np.ndarray


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


def training(inner: InnerProblem, start: HParams, batch: Batch, learning_rate: float) -> tuple[tuple, Callable]:
    """Adam on both levels: the first state, (hparams, ...), and state -> (next state, codes); pure, to be compiled with
    its surroundings."""
    task = levels(inner, lambda key: start, batch, {})
    optimizer = optax.adam(learning_rate)
    first = hypergradient(task, start, ENGINE, batch=(batch, batch))[2]

    def step(state: tuple) -> tuple[tuple, jax.Array]:
        hparams, memory, carry = state
        grad, report = hypergradient(task, hparams, ENGINE, batch=(batch, batch), carry=carry)[1:]
        updates, memory = optimizer.update(grad, memory)
        moved: Any = optax.apply_updates(hparams, updates)
        return (task.feasible(moved), memory, report.carry), report.params

    return (start, optimizer.init(start), first.carry), step


@dataclass(frozen=True)
class Comparison:
    """Test AUC of logistic regression on all genes, and on the codes of either dictionary, for one random split.

    Validation AUC chooses C, for both dictionaries the share of zeros, and when to stop the training of the task-driven
    one; the fit is repeated on training and validation samples together."""

    inputs: jax.Array
    labels: jax.Array
    atoms: int
    c: float
    steps: int
    learning_rate: float

    @property
    def inner(self) -> InnerProblem:
        return coding(len(self.labels), self.atoms)

    def codes(self, hparams: HParams) -> jax.Array:
        return self.inner.solve(hparams, (self.inputs, self.labels)).params

    def split(self, masks: dict) -> dict[str, jax.Array]:
        plain = {"l1": classifier(self.inputs.shape[1], True), "l2": classifier(self.inputs.shape[1], False)}
        found = {name: self.chosen(problem, self.inputs, masks, GRID) for name, problem in plain.items()}
        found["dictionary"] = self.unlabelled(masks)
        driven = self.task_driven(masks)
        left_out = sum((chosen.left_out for chosen in found.values()), driven.pop("left_out"))
        return {**{name: chosen.test for name, chosen in found.items()}, **driven, "left_out": left_out}

    def chosen(self, problem: InnerProblem, inputs: jax.Array, masks: dict, grid: tuple) -> Chosen:
        return chosen_auc(problem, inputs, self.labels, masks, jnp.asarray(grid))

    def unlabelled(self, masks: dict) -> Chosen:
        """The atoms see training and validation samples, the classifier of their codes as above."""

        def of(share: jax.Array) -> Chosen:
            weight = masks["train"] + masks["validation"]
            codes = self.codes(unsupervised(self.inner, self.inputs, weight, self.atoms, share))
            return self.chosen(classifier(self.atoms, False), codes / jnp.std(codes), masks, GRID_CODES)

        scores = jax.lax.map(of, jnp.asarray(SHARES))
        best = highest(scores.validation)
        test = jnp.where(jnp.isnan(best.score), jnp.nan, scores.test[best.index])
        return Chosen(best.score, test, jnp.sum(scores.left_out))

    def task_driven(self, masks: dict) -> dict[str, jax.Array]:
        paths = jax.lax.map(lambda share: self.path(masks, share), jnp.asarray(SHARES))
        best = highest(paths)
        number, steps = jnp.unravel_index(best.index, paths.shape)
        first, step = self.begin(masks["train"] + masks["validation"], jnp.asarray(SHARES)[number])
        hparams = jax.lax.fori_loop(0, steps, lambda _, state: step(state)[0], first)[0]
        codes = self.codes(hparams)
        found = auc(logits(codes, hparams), self.labels, masks["test"])
        found = jnp.where(jnp.isnan(best.score), jnp.nan, found)
        return {"task_driven": found, "zero": jnp.mean(codes == 0), "steps": steps, "left_out": best.left_out}

    def path(self, masks: dict, share: jax.Array) -> jax.Array:
        """Validation AUC at each step; less a little for the loss there, which decides between equal ones."""
        first, step = self.begin(masks["train"], share)

        def judged(state: tuple, _: None) -> tuple[tuple, jax.Array]:
            after, codes = step(state)
            scores = logits(codes, state[0])
            loss = log_loss(scores, self.labels, masks["validation"])
            return after, auc(scores, self.labels, masks["validation"]) - 1e-6 * jnp.minimum(loss, 1e3)

        return jax.lax.scan(judged, first, length=self.steps + 1)[1]

    def begin(self, weight: jax.Array, share: jax.Array) -> tuple[tuple, Callable]:
        batch = (self.inputs, self.labels, weight, 1 / (self.c * jnp.sum(weight)))
        hparams = unsupervised(self.inner, self.inputs, weight, self.atoms, share)
        start = with_head(hparams, self.codes(hparams), batch, batch[3])
        return training(self.inner, start, batch, self.learning_rate)


def compared_splits(
    found: Samples, atoms: int, c: float, splits: int, steps: int, learning_rate: float
) -> Iterator[dict[str, float]]:
    """A `Comparison` for each of ``splits`` random splits 60/20/20, one after the other; compiled once."""
    comparison = Comparison(jnp.asarray(found.inputs), jnp.asarray(found.labels), atoms, c, steps, learning_rate)
    split = Program(comparison.split)
    for seed in range(splits):
        figures = {name: float(value) for name, value in split(masks_of(found.labels, seed)).items()}
        left_out = int(figures.pop("left_out"))
        if left_out:
            warnings.warn(
                f"{left_out} validation scores of split {seed} are no finite numbers and are left out of the choice.",
                stacklevel=2,
            )
        yield figures
